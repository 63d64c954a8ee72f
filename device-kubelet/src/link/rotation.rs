//! New keys for this device, without a moment in which it has none that the fleet knows.
//!
//! ```text
//! asked (down.rotate, local) ─► next keys on disk ─► request, vouched for by the old key ─► enrolled ─► promoted
//!                                      │                                                       ▲
//!                                      └── answer lost, login refused ─► login with the next ──┘ let in
//!                                                                              │ refused
//!                                                                              ▼
//!                                                                        login with the old
//! ```
//!
//! A login that is accepted is the proof: only then do the next keys replace the old ones, or are given up. That
//! the keys were changed needs no answer to arrive.
//!
//! With the device's keys those change that seal its store, last: nobody else knows them.

use std::time::Duration;

use fleet_daemon::{
    credential::TokenSource,
    nats::{LinkState, Login},
};
use fleet_wire::{
    enrollment::{Outcome, open_reply},
    message::Refusal,
    name::DeviceName,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    backoff::Backoff,
    channel::Channel,
    driver::{Command, causes},
    standing::Standing,
};
use crate::{
    enroll::{EnrollError, request},
    keys::{DeviceKeys, KeysError},
    pods::Pods,
};

const ANSWER: Duration = Duration::from_secs(10);
/// An interrupted rotation is taken up again so long after the start.
const RESUME: Duration = Duration::from_secs(20);

/// Why the keys were not changed (yet).
#[derive(Debug, thiserror::Error)]
enum RotationError {
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Request(#[from] EnrollError),
    #[error("the fleet's statement of keys names no enroller")]
    NoEnroller,
    #[error("the enroller did not answer: {0}")]
    NoAnswer(String),
    #[error("the enroller refuses: {0}")]
    Refused(Refusal),
}

/// The task's state.
pub struct Rotation {
    /// The device.
    pub device: DeviceName,
    /// The way to the cluster side, whose session and connection change their keys.
    pub channel: Channel,
    /// Membership and trust.
    pub standing: Standing,
    /// Token of the login, if the device has one.
    pub token: Option<TokenSource>,
    /// Whose store gets new keys, too.
    pub pods: Pods,
    /// Who says hello.
    pub driver: mpsc::Sender<Command>,
    /// Requests for new keys: the value of the Node's annotation, `None` from somebody on the device.
    pub requests: mpsc::Receiver<Option<String>>,
}

/// Which keys the connection logs in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    Old,
    Next,
}

/// A login was let in, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Accepted(With),
    Refused,
}

/// What the outcome of a login says about two pairs of keys. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    Wait,
    /// Try with the other ones.
    Switch(With),
    /// The fleet knows the next keys.
    Promote,
    /// The fleet does not know the next keys, and has said no: they are of no use.
    Drop,
}

/// `denied`: the enroller refused the next keys.
fn judge(with: With, has_next: bool, news: News, denied: bool) -> Verdict {
    match (news, with) {
        (News::Accepted(With::Next), _) => Verdict::Promote,
        // An attempt that began before the next ones were shown says nothing about these.
        (News::Accepted(With::Old), With::Next) => Verdict::Wait,
        (News::Accepted(With::Old), With::Old) if has_next && denied => Verdict::Drop,
        (News::Refused, With::Next) => Verdict::Switch(With::Old),
        (News::Refused, With::Old) if has_next => Verdict::Switch(With::Next),
        (_, With::Old) => Verdict::Wait,
    }
}

impl Rotation {
    /// Runs for ever.
    pub async fn run(mut self) {
        let connection = self.channel.connection().clone();
        let (mut state, mut refused) = (connection.state.clone(), connection.refused.clone());
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        // What the next attempt shows, and the number of the login with the next keys.
        let (mut with, mut next_login) = (With::Old, None);
        let mut denied = false;
        let mut wanted: Option<String> = None;
        let mut due = self.has_next().then(|| Instant::now() + RESUME);
        loop {
            let mut news = None;
            tokio::select! {
                request = self.requests.recv() => match request {
                    None => return,
                    Some(request) if request.is_some() && request == self.standing.membership().rotated => {}
                    Some(request) => {
                        tracing::info!(request, "new keys are wanted for this device");
                        wanted = request.or(wanted);
                        denied = false;
                        due = Some(Instant::now());
                    }
                },
                () = at(due) => {
                    due = None;
                    match self.ask().await {
                        // The enroller's own word.
                        Ok(()) => news = Some(News::Accepted(With::Next)),
                        Err(error @ RotationError::Refused(_)) => {
                            tracing::error!(error = causes(&error), "this device keeps its keys");
                            // An earlier answer may have been lost: then the next keys are let in.
                            denied = true;
                            with = With::Next;
                            next_login = self.log_in(with);
                            connection.reconnect().await;
                        }
                        Err(error) => {
                            tracing::warn!(error = causes(&error), "the keys were not changed, trying again");
                            due = Some(Instant::now() + backoff.next(rand::random()));
                        }
                    }
                }
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if *state.borrow_and_update() == LinkState::Connected {
                        let is_next = next_login == Some(connection.accepted_login());
                        news = Some(News::Accepted(if is_next { With::Next } else { With::Old }));
                    }
                }
                changed = refused.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    refused.mark_unchanged();
                    news = Some(News::Refused);
                }
            }
            let Some(news) = news else { continue };
            match judge(with, self.has_next(), news, denied) {
                Verdict::Wait => {}
                Verdict::Switch(other) => {
                    with = other;
                    let login = self.log_in(with);
                    next_login = login.filter(|_| with == With::Next).or(next_login);
                }
                Verdict::Drop => {
                    denied = false;
                    if let Err(error) = DeviceKeys::drop_next(self.standing.data_dir()) {
                        tracing::warn!(error = causes(&error), "keys that were refused cannot be removed");
                    }
                }
                Verdict::Promote => {
                    (with, next_login, denied, due) = (With::Old, None, false, None);
                    backoff.reset();
                    self.promote(wanted.take()).await;
                }
            }
        }
    }

    fn has_next(&self) -> bool {
        matches!(DeviceKeys::next(self.standing.data_dir()), Ok(Some(_)))
    }

    /// Has the next keys enrolled.
    async fn ask(&self) -> Result<(), RotationError> {
        let enroller = self.standing.enroller().ok_or(RotationError::NoEnroller)?;
        let old = DeviceKeys::load_or_create(self.standing.data_dir())?;
        let next = DeviceKeys::make_next(self.standing.data_dir())?;
        let asked = request::to_rotate(&self.device, &next, &old.identity_pair()?, &enroller)?;
        if !self.channel.is_connected() {
            return Err(RotationError::NoAnswer("NATS cannot be reached".to_owned()));
        }
        let request = async_nats::Request::new().payload(asked.message.into()).timeout(Some(ANSWER));
        let client = &self.channel.connection().client;
        let answer = client
            .send_request(asked.statement.subject.clone(), request)
            .await
            .map_err(|error| RotationError::NoAnswer(error.to_string()))?;
        let reply = open_reply(&answer.payload, &asked.statement, next.curve(), &enroller)
            .map_err(|error| RotationError::NoAnswer(error.to_string()))?;
        match reply.outcome {
            Outcome::Enrolled => Ok(()),
            Outcome::Pending(waiting_for) => Err(RotationError::NoAnswer(waiting_for)),
            Outcome::Refused(refusal) => match refusal.code {
                fleet_wire::message::RefusalCode::Busy
                | fleet_wire::message::RefusalCode::Unavailable
                | fleet_wire::message::RefusalCode::Internal => Err(RotationError::NoAnswer(refusal.message)),
                _ => Err(RotationError::Refused(refusal)),
            },
        }
    }

    /// From now on the device is who the next keys say.
    async fn promote(&self, request: Option<String>) {
        let keys = match DeviceKeys::promote_next(self.standing.data_dir()) {
            Ok(keys) => keys,
            Err(error) => {
                // The next start finishes it; until then the old ones are still in memory.
                tracing::error!(error = causes(&error), "the new keys are not in their place yet");
                return;
            }
        };
        if let Some(request) = request
            && let Err(error) = self.standing.update(|membership| membership.rotated = Some(request))
        {
            tracing::warn!(error = causes(&error), "cannot write down which request for new keys was done");
        }
        tracing::info!(
            identity = %keys.identity(),
            fingerprint = keys.public().fingerprint,
            "the keys of this device were changed"
        );
        self.set_login(&keys);
        self.channel.set_own(keys.curve().clone());
        self.channel.connection().reconnect().await;
        // Should it not hear this, the session's end shows with the next message.
        let _ = self.driver.send(Command::SessionUnknown("the device has new keys".to_owned())).await;
        match self.pods.renew_keys().await {
            Ok(()) => tracing::info!("what is stored on this device was sealed with new keys"),
            Err(error) => tracing::error!(
                error = causes(&error),
                "what is stored on this device is not all sealed with new keys; what was begun goes on at the next                  start. Free space if the disk is full, then run `device-kubelet rotate-keys` again"
            ),
        }
    }

    fn log_in(&self, with: With) -> Option<u64> {
        let keys = match with {
            With::Old => DeviceKeys::load_or_create(self.standing.data_dir()).map(Some),
            With::Next => DeviceKeys::next(self.standing.data_dir()),
        };
        match keys {
            Ok(Some(keys)) => self.set_login(&keys),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(error = causes(&error), "keys cannot be read");
                None
            }
        }
    }

    fn set_login(&self, keys: &DeviceKeys) -> Option<u64> {
        let login = Login::Credential { key: keys.login_key(), token: self.token.clone() };
        match self.channel.connection().set_login(login) {
            Ok(number) => Some(number),
            Err(error) => {
                tracing::error!(error = causes(&error), "keys cannot be used");
                None
            }
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: News = News::Accepted(With::Old);
    const NEXT: News = News::Accepted(With::Next);

    #[test]
    fn a_login_that_is_let_in_decides_which_keys_stay() {
        assert_eq!(judge(With::Next, true, NEXT, false), Verdict::Promote);
        assert_eq!(judge(With::Next, true, NEXT, true), Verdict::Promote, "an answer was lost");
        assert_eq!(judge(With::Old, true, OLD, true), Verdict::Drop);
        assert_eq!(judge(With::Old, true, OLD, false), Verdict::Wait, "not asked yet, or not answered");
    }

    #[test]
    fn an_attempt_with_the_old_keys_that_was_under_way_proves_nothing_of_the_next() {
        for denied in [false, true] {
            assert_eq!(judge(With::Next, true, OLD, denied), Verdict::Wait);
        }
    }

    #[test]
    fn a_refused_login_is_tried_with_the_other_keys_and_nothing_is_lost() {
        for denied in [false, true] {
            assert_eq!(judge(With::Old, true, News::Refused, denied), Verdict::Switch(With::Next));
            assert_eq!(judge(With::Next, true, News::Refused, denied), Verdict::Switch(With::Old));
        }
        assert_eq!(judge(With::Old, false, News::Refused, false), Verdict::Wait, "there are no others");
    }
}
