//! Asks to be enrolled until there is an answer for good.

use std::time::Duration;

use async_nats::RequestErrorKind;
use fleet_daemon::nats::{self, Connection, LinkState, Login, NatsSettings};
use fleet_wire::enrollment::{EnrollReply, EnrollStatement, open_reply};
use tokio::time::{Instant, sleep, timeout};

use super::{
    EnrollError, Enrollment, Invitation,
    decide::{Step, step},
    request,
};

/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How often it is said that NATS cannot be reached.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// After so many refused logins in a row, and not before [`LOGIN_PATIENCE`], the login is taken for no good: the
/// service that decides about logins may have been away for the first ones.
const REFUSALS: u64 = 4;
const LOGIN_PATIENCE: Duration = Duration::from_secs(10);

/// What is told while it takes its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// NATS is not reached yet.
    Connecting {
        /// Where it should be.
        url: String,
    },
    /// The question goes out.
    Asking,
    /// Nobody who could decide has answered.
    NoAnswer {
        /// Why.
        reason: String,
    },
    /// Somebody has to approve the device.
    Pending {
        /// What to do, by the enroller.
        waiting_for: String,
        /// What that person compares.
        fingerprint: String,
    },
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting { url } => write!(
                f,
                "NATS at {url} cannot be reached yet (or its certificate is not of the given CA); trying again"
            ),
            Self::Asking => f.write_str("asking the fleet to enroll this device"),
            Self::NoAnswer { reason } => {
                write!(f, "the fleet's enroller does not answer ({reason}); trying again")
            }
            Self::Pending { waiting_for, fingerprint } => {
                write!(f, "waiting for approval. {waiting_for}\nCompare the fingerprint first: {fingerprint}")
            }
        }
    }
}

impl Enrollment {
    /// Asks until the device is a member, and writes down that it is.
    ///
    /// # Errors
    /// [`EnrollError`] when asking again is of no use.
    pub async fn run(self, tell: impl Fn(Progress)) -> Result<(), EnrollError> {
        let mut told = None;
        let mut tell = move |progress: Progress| {
            if told.as_ref() != Some(&progress) {
                told = Some(progress.clone());
                tell(progress);
            }
        };
        let (login, door) = (self.login(), self.door());
        let connection = nats::connect(&NatsSettings {
            url: self.wish.nats_url.clone(),
            ca: self.wish.nats_ca.clone(),
            login,
            name: format!("device-kubelet {} enrolls", self.wish.device),
            inbox_prefix: Some(door.inbox_prefix()),
            subscription_capacity: 16,
        })
        .await?;
        let enrolled = self.ask(&connection, &mut tell).await;
        // Nothing more is to be said on it.
        let _ = connection.client.drain().await;
        enrolled?;
        self.finish()
    }

    fn login(&self) -> Login {
        match &self.wish.invitation {
            Invitation::Token(token) => Login::EnrollmentToken(token.id.clone()),
            Invitation::Request => Login::Applicant { key: self.keys.login_key() },
        }
    }

    async fn ask(&self, connection: &Connection, tell: &mut impl FnMut(Progress)) -> Result<(), EnrollError> {
        let enroller = self.trust.enroller().ok_or(EnrollError::NoEnroller)?;
        loop {
            if self.connected(connection, tell).await? {
                // The keys are a member's: an earlier answer was lost.
                return Ok(());
            }
            tell(Progress::Asking);
            let asked = request::to_enroll(
                &self.door(),
                &self.wish.device,
                &self.keys,
                &self.wish.invitation,
                enroller,
            )?;
            let pause = match self.question(connection, asked.message, &asked.statement).await {
                Ok(reply) => {
                    if let Some(keys) = reply.keys
                        && let Err(error) = self.trust.clone().offer(&keys)
                    {
                        tracing::debug!(%error, "the statement of the fleet's keys in the answer is not taken");
                    }
                    match step(reply.outcome, rand::random()) {
                        Step::Done => return Ok(()),
                        Step::GiveUp(refusal) => return Err(EnrollError::Refused(refusal)),
                        Step::Again { after, waiting_for, approval: true } => {
                            let fingerprint = self.fingerprint();
                            tell(Progress::Pending { waiting_for, fingerprint });
                            after
                        }
                        Step::Again { after, waiting_for, approval: false } => {
                            tell(Progress::NoAnswer { reason: waiting_for });
                            after
                        }
                    }
                }
                Err(reason) => {
                    tell(Progress::NoAnswer { reason });
                    Duration::from_secs(2).mul_f64(0.75 + rand::random::<f64>() / 2.0)
                }
            };
            sleep(pause).await;
        }
    }

    /// Waits for the connection. `true`: the device logged in as the member that it wanted to become.
    async fn connected(
        &self,
        connection: &Connection,
        tell: &mut impl FnMut(Progress),
    ) -> Result<bool, EnrollError> {
        let (mut state, mut refused) = (connection.state.clone(), connection.refused.clone());
        let began = Instant::now();
        let mut refusals = 0;
        let mut as_member = false;
        let mut member = None;
        loop {
            if *state.borrow_and_update() == LinkState::Connected {
                return Ok(member == Some(connection.accepted_login()));
            }
            refused.mark_unchanged();
            tokio::select! {
                _ = timeout(SAY_EVERY, state.changed()) => {}
                Ok(()) = refused.changed() => {
                    refusals += 1;
                    if refusals >= REFUSALS && began.elapsed() >= LOGIN_PATIENCE {
                        return Err(EnrollError::Login(self.refused_login()));
                    }
                    // What is refused as an asker may be a member by now: then the answer was lost.
                    as_member = !as_member;
                    let key = self.keys.login_key();
                    let login = if as_member { Login::Credential { key, token: None } } else { self.login() };
                    let number = connection.set_login(login)?;
                    member = as_member.then_some(number).or(member);
                    continue;
                }
            }
            if *state.borrow() != LinkState::Connected {
                tell(Progress::Connecting { url: self.wish.nats_url.clone() });
            }
        }
    }

    fn refused_login(&self) -> String {
        match &self.wish.invitation {
            Invitation::Token(token) => format!(
                "NATS refuses the enrollment token {}: it has expired, was used for another device, or was never \
                 of this fleet. Make a new one with `fleet device enroll {}`",
                token.id, self.wish.device
            ),
            Invitation::Request => "NATS refuses this device as an applicant: the fleet takes no requests of devices \
                 (callout setting device-requests), or these keys were a device's before and are dead. Let an \
                 operator enroll it first with `fleet device enroll`"
                .to_owned(),
        }
    }

    async fn question(
        &self,
        connection: &Connection,
        message: Vec<u8>,
        statement: &EnrollStatement,
    ) -> Result<EnrollReply, String> {
        let request = async_nats::Request::new().payload(message.into()).timeout(Some(ANSWER));
        let answer = connection.client.send_request(statement.subject.clone(), request).await;
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => "it does not run".to_owned(),
            RequestErrorKind::TimedOut => format!("nothing came within {} s", ANSWER.as_secs()),
            _ => error.to_string(),
        })?;
        let enroller = self.trust.enroller().ok_or("its key is not known")?;
        open_reply(&answer.payload, statement, self.keys.curve(), enroller).map_err(|error| error.to_string())
    }
}
