//! A device without an agent: its keys, and what its holder can do with them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fleet_wire::digest::Digest;
use fleet_wire::enrollment::{
    Door, EnrollReply, EnrollRequest, EnrollStatement, EnrollmentIntent, EnrollmentToken, Outcome,
    open_reply, seal_request,
};
use fleet_wire::keys::{CurveKey, FleetKeys, IdentityKey, KeyStatement};
use fleet_wire::message::{DesiredVersion, Heartbeat, HelloReply, HelloRequest, PROTOCOL, Reply};
use fleet_wire::name::{DeviceName, OwnerEpoch};
use fleet_wire::session::DeviceSession;
use fleet_wire::subject::{self, Subject, UpVerb};
use k8s_openapi::api::core::v1::NodeStatus;
use nkeys::{KeyPair, XKey};
use serde_json::json;

use super::client::{Heard, Login, RawClient};
use crate::device::Seeds;
use crate::nats::Nats;
use crate::wait::{Look, until};

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keys under a device's name, and what the fleet's keys are.
pub struct Member {
    /// The name that it has, or wants.
    pub name: DeviceName,
    /// The identity key.
    pub identity: KeyPair,
    /// The curve key.
    pub curve: XKey,
    stated: KeyStatement,
}

/// A connection of a member with an open session.
#[derive(Debug)]
pub struct InSession {
    /// The connection.
    pub client: RawClient,
    /// The device's end of the session.
    pub session: DeviceSession,
    /// What the cluster side answered to the hello.
    pub welcome: HelloReply,
}

impl Member {
    /// With fresh keys, as an agent makes them before it asks.
    ///
    /// # Errors
    /// When the intent's statement does not hold.
    pub fn fresh(intent: &EnrollmentIntent) -> Result<Self> {
        let stated = intent.keys.verify(&intent.root_key)?;
        Ok(Self { name: intent.device.clone(), identity: KeyPair::new_user(), curve: XKey::new(), stated })
    }

    /// With the keys from a device's disk.
    ///
    /// # Errors
    /// When they are none.
    pub fn stolen(name: &str, seeds: &Seeds, stated: KeyStatement) -> Result<Self> {
        Ok(Self {
            name: name.parse()?,
            identity: KeyPair::from_seed(&seeds.identity)?,
            curve: XKey::from_seed(&seeds.curve)?,
            stated,
        })
    }

    /// The public identity key.
    ///
    /// # Errors
    /// None in practice.
    pub fn identity_key(&self) -> Result<IdentityKey> {
        Ok(self.identity.public_key().parse()?)
    }

    /// The public curve key.
    ///
    /// # Errors
    /// None in practice.
    pub fn curve_key(&self) -> Result<CurveKey> {
        Ok(self.curve.public_key().parse()?)
    }

    /// The fleet's curve keys.
    ///
    /// # Errors
    /// When the fleet has none.
    pub fn fleet_keys(&self) -> Result<FleetKeys> {
        Ok(self.stated.fleet_keys()?)
    }

    /// Logs in with the identity key.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect(&self, nats: &Nats) -> Result<RawClient> {
        RawClient::as_device(nats, &self.identity).await
    }

    /// As [`Member::connect`], also while the callout has had enough of it: a flood is slowed down, not shut out.
    ///
    /// # Errors
    /// When it is still refused after a minute.
    pub async fn connect_patiently(&self, nats: &Nats) -> Result<RawClient> {
        until(format!("{} to be let in", self.name), Duration::from_secs(60), async || {
            Ok(Look::Done(self.connect(nats).await?))
        })
        .await
    }

    /// Asks at the door of a token, with its secret, for membership.
    ///
    /// # Errors
    /// When NATS refuses or nobody answers; a refusal of the enroller is an answer.
    pub async fn ask_with_token(&self, nats: &Nats, token: &EnrollmentToken) -> Result<EnrollReply> {
        let door = Door::Token(token.id.clone());
        let statement = self.statement(&door)?;
        let request = statement.with_token(&self.identity, token)?;
        let mut client = RawClient::open(nats).await?;
        let login = Login::enrollment(token.id.as_str());
        if let Err(refusal) = client.login(&login).await? {
            bail!("the token's id is not let in: {refusal}");
        }
        self.ask(&mut client, &door, &statement, &request).await
    }

    /// The statement of these keys for a door.
    ///
    /// # Errors
    /// None in practice.
    pub fn statement(&self, door: &Door) -> Result<EnrollStatement> {
        Ok(EnrollStatement::new(door, self.name.clone(), self.identity_key()?, self.curve_key()?))
    }

    /// Puts a request at a door of a connection that is logged in, and waits for the answer.
    ///
    /// # Errors
    /// When nobody answers, or not to this request.
    pub async fn ask(
        &self,
        client: &mut RawClient,
        door: &Door,
        statement: &EnrollStatement,
        request: &EnrollRequest,
    ) -> Result<EnrollReply> {
        let enroller = self.stated.enroller_key.as_ref().context("the statement names no enroller")?;
        let message = seal_request(request, &self.curve, enroller)?;
        let inbox = format!("{}.answer", door.inbox_prefix());
        let heard = client.subscribe(&inbox, 1).await?;
        if !heard.is_empty() {
            bail!("the door's own inbox: {heard:?}");
        }
        let mut heard = client.publish(&door.subject(), &inbox, &message).await?;
        let answer = match heard.pop() {
            Some(Heard::Message(answer)) => answer,
            Some(other) => bail!("the door: {other:?}"),
            None => client.message_on(&inbox, PATIENCE).await?,
        };
        Ok(open_reply(&answer.payload, statement, &self.curve, enroller)?)
    }

    /// Becomes a member with an intent, as an agent does.
    ///
    /// # Errors
    /// When it is not enrolled.
    pub async fn enroll(nats: &Nats, intent: &EnrollmentIntent) -> Result<Self> {
        let member = Self::fresh(intent)?;
        match member.ask_with_token(nats, &intent.token).await?.outcome {
            Outcome::Enrolled => Ok(member),
            other => bail!("{} was not enrolled: {other:?}", intent.device),
        }
    }

    /// Logs in, and opens a session with the cluster side.
    ///
    /// # Errors
    /// When either is refused.
    pub async fn open_session(&self, nats: &Nats, incarnation: Option<String>) -> Result<InSession> {
        let mut client = self.connect(nats).await?;
        let inbox = format!("{}.hello", subject::inbox_prefix(&self.name));
        let heard = client.subscribe(&inbox, 1).await?;
        if !heard.is_empty() {
            bail!("the own inbox: {heard:?}");
        }
        let mut session =
            DeviceSession::new(self.name.clone(), self.curve.clone(), self.fleet_keys()?, OwnerEpoch(0));
        let subject = self.up(UpVerb::Hello);
        let message = session.seal_hello(&subject, &self.hello(incarnation)?)?;
        let mut heard = client.publish(&subject, &inbox, &message).await?;
        let answer = match heard.pop() {
            Some(Heard::Message(answer)) => answer,
            Some(other) => bail!("the hello: {other:?}"),
            None => client.message_on(&inbox, PATIENCE).await?,
        };
        let reply: Reply<HelloReply> = session.open_hello_reply(&inbox, &answer.payload)?;
        Ok(InSession { client, session, welcome: reply.into_result()? })
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// None in practice.
    pub fn hello(&self, incarnation: Option<String>) -> Result<HelloRequest> {
        let node: NodeStatus = serde_json::from_value(json!({
            "capacity": { "cpu": "1", "memory": "1Gi", "pods": "5", "ephemeral-storage": "1Gi" },
            "allocatable": { "cpu": "1", "memory": "1Gi", "pods": "5", "ephemeral-storage": "1Gi" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        }))?;
        Ok(HelloRequest {
            protocol: PROTOCOL,
            agent_version: "0.0.0".to_owned(),
            boot_id: "00000000-0000-0000-0000-000000000000".to_owned(),
            capabilities: Vec::new(),
            incarnation,
            desired: DesiredVersion::default(),
            set_digest: Digest::of_set([]),
            node,
            key_statement: None,
            rotated: None,
        })
    }

    /// One of its own subjects.
    #[must_use]
    pub fn up(&self, verb: UpVerb) -> String {
        Subject::Up(self.name.clone(), verb).to_string()
    }
}

impl InSession {
    /// A heartbeat, sealed for the session.
    ///
    /// # Errors
    /// When the session is closed.
    pub fn heartbeat(&mut self, member: &Member) -> Result<(String, Vec<u8>)> {
        let subject = member.up(UpVerb::Heartbeat);
        let body = Heartbeat { set_digest: self.welcome.set_digest, desired: DesiredVersion::default() };
        Ok((subject.clone(), self.session.seal(&subject, &body)?.message))
    }
}
