//! The counter: requests to enroll come in over NATS, each is decided and answered.
//!
//! ```text
//! subscription ─► reader: door, own inbox?, rate ─► queue ─► desk: open, decide, write, answer
//! ```
//!
//! The reader never waits, so that one who floods its door does not make others' requests be lost. The desk
//! takes one request after the other: what it wrote is in the view before the next one is decided.

use std::{num::NonZeroU32, path::PathBuf, sync::Arc};

use async_nats::{Message, Subject};
use bytes::Bytes;
use fleet_daemon::shutdown::Shutdown;
use fleet_wire::{
    enrollment::{
        Door, EnrollReply, EnrollRequest, EnrollStatement, MAX_ENROLL_MESSAGE, Outcome, Proof, SealError,
        TokenRecord, enroll_wildcard, open_request, seal_reply,
    },
    keys::{FleetKeys, KeyStatement, SignedKeyStatement, fingerprint},
};
use futures::StreamExt as _;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use k8s_openapi::{api::certificates::v1::CertificateSigningRequest, jiff::Timestamp};
use kube::{Api, api::PostParams};
use nkeys::XKey;
use tokio::sync::mpsc;

use super::{
    certificates::Defaults,
    decide::{self, Denial, Known, Rotation},
    metrics::Metrics,
    pkcs10::{self, Verdict},
    registrar::{Failure, Registrar, ask},
};

/// Replicas share the work.
const QUEUE_GROUP: &str = "enroller";
/// Requests that may wait for the desk.
pub const QUEUE: usize = 1024;
/// How often a decision is made anew when somebody else wrote meanwhile.
const MOST_ATTEMPTS: usize = 4;
/// Applicants that may wait for approval at a time: people look at them.
const MOST_WAITING: usize = 200;
/// Requests of one door: some at once, since answers get lost, then one in two seconds.
const DOOR_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
const DOOR_EVERY: std::time::Duration = std::time::Duration::from_secs(2);
/// Requests of all doors in a second: each costs the opening of a box.
const ALL_A_SECOND: NonZeroU32 = NonZeroU32::new(500).unwrap();
/// New applicants in a minute.
const APPLICANTS_A_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();

fn kind(door: &Door) -> &'static str {
    match door {
        Door::Token(_) => "token",
        Door::Key(_) => "key",
        Door::Device(_) => "device",
    }
}

/// A request that passed the reader.
#[derive(Debug)]
pub struct Asked {
    door: Door,
    reply: Subject,
    payload: Bytes,
}

/// Takes requests from NATS until the shutdown.
///
/// # Errors
/// When the client was closed.
pub async fn read(
    client: async_nats::Client,
    desk: mpsc::Sender<Asked>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) -> Result<(), async_nats::SubscribeError> {
    let mut requests = client.queue_subscribe(enroll_wildcard(), QUEUE_GROUP.to_owned()).await?;
    let one = Quota::with_period(DOOR_EVERY).unwrap_or(Quota::per_second(NonZeroU32::MIN));
    let doors: DefaultKeyedRateLimiter<Door> = RateLimiter::keyed(one.allow_burst(DOOR_BURST));
    let all: DefaultDirectRateLimiter = RateLimiter::direct(Quota::per_second(ALL_A_SECOND));
    let mut count: u32 = 0;
    loop {
        let message = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            message = requests.next() => match message {
                Some(message) => message,
                None => return Ok(()),
            },
        };
        count = count.wrapping_add(1);
        if count.is_multiple_of(4096) {
            doors.retain_recent();
        }
        match admit(message, &doors, &all) {
            Ok(asked) => {
                let door = kind(&asked.door);
                if desk.try_send(asked).is_err() {
                    metrics.count(door, "Busy");
                }
            }
            Err((door, reason)) => metrics.count(door, reason),
        }
    }
}

/// What is worth the opening of a box. The rest gets no answer: its sender is unknown, or asks too often.
fn admit(
    message: Message,
    doors: &DefaultKeyedRateLimiter<Door>,
    all: &DefaultDirectRateLimiter,
) -> Result<Asked, (&'static str, &'static str)> {
    let door = Door::parse(&message.subject).map_err(|_| ("none", "NoDoor"))?;
    let label = kind(&door);
    // First of all, and the door before the sum: who floods one must not fill the log, nor crowd others out.
    if doors.check_key(&door).is_err() || all.check().is_err() {
        return Err((label, "TooOften"));
    }
    let reply = message.reply.ok_or((label, "NoReply"))?;
    if !door.is_own_inbox(&reply) {
        tracing::warn!(target: "audit", event = "refused", %door, reason = "ForeignInbox", "a request asks for an answer into somebody else's inbox");
        return Err((label, "ForeignInbox"));
    }
    if message.payload.len() > MAX_ENROLL_MESSAGE {
        return Err((label, "TooLarge"));
    }
    Ok(Asked { door, reply, payload: message.payload })
}

/// What became of a request.
enum Decision {
    Enrolled,
    Rotated,
    Pending(String),
}

/// Decides and answers.
#[derive(Debug)]
pub struct Desk {
    client: async_nats::Client,
    registrar: Registrar,
    requests: Api<CertificateSigningRequest>,
    keys: FleetKeys,
    statement: StatementFile,
    defaults: Defaults,
    own: String,
    applicants: DefaultDirectRateLimiter,
    metrics: Arc<Metrics>,
}

impl Desk {
    /// `own` is the enroller's user name at the API server.
    pub fn new(
        (client, kube): (async_nats::Client, kube::Client),
        registrar: Registrar,
        (keys, statement): (FleetKeys, PathBuf),
        defaults: Defaults,
        own: String,
        metrics: Arc<Metrics>,
    ) -> Self {
        let minute = Quota::per_minute(APPLICANTS_A_MINUTE);
        Self {
            client,
            registrar,
            requests: Api::all(kube),
            keys,
            statement: StatementFile::new(statement),
            defaults,
            own,
            applicants: RateLimiter::direct(minute),
            metrics,
        }
    }

    /// Serves until the queue ends.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Asked>) {
        self.registrar.view.synced().await;
        while let Some(asked) = queue.recv().await {
            self.serve(asked).await;
        }
    }

    async fn serve(&mut self, Asked { door, reply, payload }: Asked) {
        let label = kind(&door);
        let (own, (statement, request)) = match open(&self.keys, &door, &payload) {
            Ok(opened) => opened,
            Err(error) => {
                // Nothing of it is to be believed, and whom to seal an answer to is not known either.
                tracing::warn!(target: "audit", event = "refused", %door, reason = "Unreadable", %error, "a request cannot be believed");
                return self.metrics.count(label, "Unreadable");
            }
        };
        let decided = match &door {
            Door::Token(id) => self.by_token(id, &statement, &request).await,
            Door::Key(key) => self.by_key(key, &statement, &request).await,
            Door::Device(device) => self.by_device(device, &statement, &request).await,
        };
        let (outcome, decision, reason) = match decided {
            Ok(Decision::Enrolled) => (Outcome::Enrolled, "Enrolled", String::new()),
            Ok(Decision::Rotated) => (Outcome::Enrolled, "Rotated", String::new()),
            Ok(Decision::Pending(what)) => (Outcome::Pending(what), "Pending", String::new()),
            Err(denial) => {
                self.tell(&statement, &denial);
                (Outcome::Refused(denial.refusal()), denial.label(), denial.to_string())
            }
        };
        let EnrollStatement { device, identity_key, curve_key, nonce, .. } = &statement;
        tracing::info!(
            target: "audit", event = "enrollment", %door, %device, %identity_key,
            fingerprint = fingerprint(identity_key, curve_key), decision, reason, id = nonce.get(..22).unwrap_or(nonce),
        );
        self.metrics.count(label, decision);
        let answer = EnrollReply { nonce: nonce.clone(), outcome, keys: self.statement.read().await };
        match seal_reply(&answer, own, curve_key) {
            Ok(sealed) => {
                if let Err(error) = self.client.publish(reply, sealed.into()).await {
                    tracing::warn!(%door, %error, "the answer is not sent; the device asks again");
                }
            }
            Err(error) => tracing::error!(%door, %error, "the answer cannot be sealed"),
        }
    }

    /// Who looks at the Node of that name should see that somebody wanted to be it.
    fn tell(&self, statement: &EnrollStatement, denial: &Denial) {
        let view = &self.registrar.view;
        // Whoever lacks the secret may name any device: that must not fill a Node's Events.
        let believed = !matches!(
            denial,
            Denial::NoToken | Denial::DamagedToken(_) | Denial::Secret | Denial::Unavailable(_)
        );
        if let (true, Some(node)) = (believed, view.node(&statement.device)) {
            let note = format!(
                "A request to enroll with the identity key {} was refused: {denial}",
                statement.identity_key
            );
            self.registrar.teller.warn(&statement.device, &node.uid, "EnrollmentRefused", note);
        }
    }

    async fn by_token(
        &self,
        id: &fleet_wire::enrollment::TokenId,
        statement: &EnrollStatement,
        request: &EnrollRequest,
    ) -> Result<Decision, Denial> {
        if !matches!(request.proof, Proof::Token(_)) {
            return Err(Denial::WrongProof);
        }
        for _ in 0..MOST_ATTEMPTS {
            let secret = self.registrar.token(id).await?;
            let token = secret.as_ref().map(TokenRecord::parse).transpose();
            let token = token.map_err(|error| Denial::DamagedToken(error.to_string()))?;
            // Before anything is asked or written on its behalf.
            match &token {
                Some(token) if request.vouched_by_token(&token.token) => {}
                Some(_) => return Err(Denial::Secret),
                None => return Err(Denial::NoToken),
            }
            let held = self.registrar.converge(&statement.device).await?.map(|(held, _)| held);
            let node = self.registrar.read_node(&statement.device).await?;
            let key = self.registrar.view.key_use(&statement.identity_key);
            let known = Known {
                key: key.as_ref(),
                record: held.as_ref().map(|held| &held.record),
                node: node.as_ref(),
            };
            let grant = decide::by_token(token.as_ref(), (statement, request), known, Timestamp::now())?;
            let (Some(secret), Some(mut token)) = (secret, token) else { return Err(Denial::NoToken) };
            let (identity, curve) = (statement.identity_key.clone(), statement.curve_key.clone());
            if grant.mark {
                token.used_by = Some((identity.clone(), curve.clone()));
                match self.registrar.spend(&secret, &token).await {
                    Ok(()) => {}
                    Err(Failure::Conflict) => continue,
                    Err(failure) => return Err(failure.into()),
                }
            }
            let enrollment = token.enrollment(identity, curve, self.defaults.pod_cidr.clone());
            return self.registrar.admit(&enrollment).await.map(|()| Decision::Enrolled);
        }
        Err(Failure::Restless.into())
    }

    async fn by_key(
        &self,
        key: &fleet_wire::keys::IdentityKey,
        statement: &EnrollStatement,
        request: &EnrollRequest,
    ) -> Result<Decision, Denial> {
        let Proof::CertificateRequest(pem) = &request.proof else { return Err(Denial::WrongProof) };
        let EnrollStatement { device, identity_key, curve_key, .. } = statement;
        if identity_key != key {
            return Err(Denial::WrongProof);
        }
        pkcs10::verify(pem.as_bytes(), device, identity_key, curve_key)
            .map_err(|error| Denial::CertificateRequest(error.to_string()))?;
        let held = self.registrar.converge(device).await?.map(|(held, _)| held);
        let node = self.registrar.read_node(device).await?;
        let used = self.registrar.view.key_use(identity_key);
        let record = held.as_ref().map(|held| &held.record);
        let known = Known { key: used.as_ref(), record, node: node.as_ref() };
        if decide::may_become(device, (identity_key, curve_key), known)? == decide::Admission::Again {
            return Ok(Decision::Enrolled);
        }
        let name = pkcs10::object_name(device, identity_key);
        let found = match ask("read the certificate request", self.requests.get_opt(&name)).await? {
            Some(found) => found,
            None => match self.apply_for(pem, statement).await? {
                Some(created) => created,
                // Another enroller was quicker.
                None => return Ok(Decision::Pending(hint(&name, statement))),
            },
        };
        let Some(applicant) = pkcs10::read(&found, &self.own) else {
            let other = format!(
                "there is another certificate request named {name}; an administrator has to remove it"
            );
            return Err(Denial::CertificateRequest(other));
        };
        if applicant.curve_key != *curve_key || applicant.identity_key != *identity_key {
            return Err(Denial::CertificateRequest("it asks with another curve key than before".to_owned()));
        }
        match applicant.verdict {
            Verdict::Pending => Ok(Decision::Pending(hint(&name, statement))),
            Verdict::Denied => Err(Denial::Denied),
            Verdict::Approved => {
                self.registrar.admit(&self.defaults.enrollment(&applicant)).await.map(|()| Decision::Enrolled)
            }
        }
    }

    async fn apply_for(
        &self,
        pem: &str,
        statement: &EnrollStatement,
    ) -> Result<Option<CertificateSigningRequest>, Denial> {
        if self.registrar.view.waiting_applicants() >= MOST_WAITING {
            return Err(Denial::Crowded);
        }
        if self.applicants.check().is_err() {
            return Err(Denial::TooOften);
        }
        let object = pkcs10::object(pem, &statement.device, &statement.identity_key, &statement.curve_key);
        let parameters = PostParams::default();
        match ask("create the certificate request", self.requests.create(&parameters, &object)).await {
            Ok(created) => {
                let name = created.metadata.name.as_deref().unwrap_or_default();
                self.registrar.view.note_applicant(name, pkcs10::read(&created, &self.own));
                Ok(Some(created))
            }
            Err(Failure::Conflict) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn by_device(
        &self,
        device: &fleet_wire::name::DeviceName,
        statement: &EnrollStatement,
        request: &EnrollRequest,
    ) -> Result<Decision, Denial> {
        if !matches!(request.proof, Proof::Rotation(_)) {
            return Err(Denial::WrongProof);
        }
        for _ in 0..MOST_ATTEMPTS {
            let held = self.registrar.held(device).await?;
            let node = self.registrar.read_node(device).await?;
            let key = self.registrar.view.key_use(&statement.identity_key);
            let record = held.as_ref().map(|held| &held.record);
            let known = Known { key: key.as_ref(), record, node: node.as_ref() };
            match decide::rotation(device, (statement, request), known)? {
                Rotation::Again => return Ok(Decision::Rotated),
                Rotation::Replace(next) => {
                    let Some(held) = &held else { return Err(Denial::NotAMember) };
                    match self.registrar.rotate(held, &next).await {
                        Ok(()) => return Ok(Decision::Rotated),
                        Err(Failure::Conflict) => {}
                        Err(failure) => return Err(failure.into()),
                    }
                }
            }
        }
        Err(Failure::Restless.into())
    }
}

/// Opens a request with whichever own key it was sealed to.
fn open<'a>(
    keys: &'a FleetKeys,
    door: &Door,
    payload: &[u8],
) -> Result<(&'a XKey, (EnrollStatement, EnrollRequest)), SealError> {
    let mut last = SealError::Box;
    for version in keys.public().into_keys().rev() {
        let Ok(own) = keys.get(version) else { continue };
        match open_request(payload, door, own) {
            Ok(opened) => return Ok((own, opened)),
            Err(SealError::Box) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What the device shows its operator.
fn hint(name: &str, statement: &EnrollStatement) -> String {
    let fingerprint = fingerprint(&statement.identity_key, &statement.curve_key);
    format!(
        "waiting for approval: `kubectl certificate approve {name}` after comparing the fingerprint {fingerprint}"
    )
}

/// The root-signed statement of the fleet's keys, read anew for each answer: it changes when keys do. A file
/// that cannot be read leaves the last one.
#[derive(Debug)]
struct StatementFile {
    file: PathBuf,
    last: Option<SignedKeyStatement>,
    complained: bool,
}

impl StatementFile {
    fn new(file: PathBuf) -> Self {
        Self { file, last: None, complained: false }
    }

    async fn read(&mut self) -> Option<SignedKeyStatement> {
        let file = &self.file;
        let read = async {
            let text = tokio::fs::read(file).await.map_err(|error| error.to_string())?;
            let signed: SignedKeyStatement =
                serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            // Devices verify the signature; that it is a statement can be seen here.
            let _: KeyStatement =
                serde_json::from_str(&signed.statement).map_err(|error| error.to_string())?;
            Ok::<_, String>(signed)
        };
        match read.await {
            Ok(signed) => {
                self.complained = false;
                self.last = Some(signed);
            }
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::error!(file = %self.file.display(), error, "the statement of the fleet's keys cannot be read; devices get the last one");
            }
            Err(_) => {}
        }
        self.last.clone()
    }
}

#[cfg(test)]
#[path = "tests/requests.rs"]
mod tests;
