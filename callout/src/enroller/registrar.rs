//! Writes what was decided: records, Nodes, and the end of both.
//!
//! Every step reads what stands at the API server and names the version that it was decided on. A write that
//! comes second is decided anew; so several callers, and several enrollers, may work on one device.

use std::{sync::Arc, time::Duration};

use fleet_wire::{
    enrollment::{
        CURVE_KEY, Enrollment, FINGERPRINT, IDENTITY_KEY, Record, RecordState, TOKEN_TYPE, TokenId,
        TokenRecord, UNDELETE, record_name, token_name,
    },
    keys::{IdentityKey, fingerprint},
    name::DeviceName,
};
use k8s_openapi::{
    api::core::v1::{Node, Secret},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use super::{
    converge::{Step, next},
    decide::{Admission, Denial, Known, claim, may_become},
    kick::Kick,
    metrics::Metrics,
    telling::Teller,
    view::{Held, NodeSeen, View},
};

/// How long the API server may take for one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most steps until a record and its Node have settled; there are four kinds, and a few conflicts.
const MOST_STEPS: usize = 12;
/// How often an admission is decided anew when somebody else wrote meanwhile.
const MOST_ATTEMPTS: usize = 4;

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Somebody else wrote meanwhile: decide anew.
    #[error("somebody else wrote meanwhile")]
    Conflict,
    /// The API server refused, or could not be reached.
    #[error("cannot {what}: {source}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// What it said.
        #[source]
        source: kube::Error,
    },
    /// It did not answer.
    #[error("cannot {what}: the API server did not answer within 10 s")]
    Silence {
        /// What was tried.
        what: &'static str,
    },
    /// Others keep writing.
    #[error("the device's objects keep changing")]
    Restless,
}

impl From<Failure> for Denial {
    fn from(failure: Failure) -> Self {
        Self::Unavailable(failure.to_string())
    }
}

/// Makes a request with a deadline.
///
/// # Errors
/// [`Failure`].
pub async fn ask<T>(
    what: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
            Err(Failure::Conflict)
        }
        Ok(Err(source)) => Err(Failure::Api { what, source }),
        Err(_) => Err(Failure::Silence { what }),
    }
}

/// What a registrar works with.
#[derive(Debug, Clone)]
pub struct Registrar {
    records: Api<Secret>,
    tokens: Api<Secret>,
    nodes: Api<Node>,
    records_namespace: String,
    retention: Duration,
    /// What is known.
    pub view: View,
    /// Tells people.
    pub teller: Teller,
    kicks: mpsc::UnboundedSender<Kick>,
    metrics: Arc<Metrics>,
}

impl Registrar {
    /// For the records of one namespace and the tokens of another.
    pub fn new(
        client: kube::Client,
        (tokens_namespace, records_namespace): (&str, &str),
        retention: Duration,
        view: View,
        (kicks, teller): (mpsc::UnboundedSender<Kick>, Teller),
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            records: Api::namespaced(client.clone(), records_namespace),
            tokens: Api::namespaced(client.clone(), tokens_namespace),
            nodes: Api::all(client),
            records_namespace: records_namespace.to_owned(),
            retention,
            view,
            teller,
            kicks,
            metrics,
        }
    }

    /// What a record's next step is as far as the watches know; nothing is asked.
    pub fn outlook(&self, device: &DeviceName) -> Step {
        let Some(held) = self.view.record(device) else { return Step::Settled };
        next(&held, self.view.node(device).as_ref(), Timestamp::now(), self.retention)
    }

    /// Takes steps until the record and its Node have settled. `None`: there is no record.
    ///
    /// # Errors
    /// [`Failure`]: what is left is done at the next call.
    pub async fn converge(&self, device: &DeviceName) -> Result<Option<(Held, Step)>, Failure> {
        for _ in 0..MOST_STEPS {
            let Some((secret, held)) = self.read(device).await? else { return Ok(None) };
            let node = self.read_node(device).await?;
            let step = next(&held, node.as_ref(), Timestamp::now(), self.retention);
            let taken = match &step {
                Step::Settled | Step::Blocked => return Ok(Some((held, step))),
                Step::CreateNode => self.create_node(&held.record).await,
                Step::Adopt(uid) => self.adopt(&secret, held.record, uid).await,
                Step::Annotate => self.annotate(&held.record).await,
                Step::Revoke => self.revoke(&secret, held.record).await,
                Step::Undelete => self.undelete(&secret, held.record).await,
                Step::Forget if self.view.has_request_of(&held.record.enrollment.identity_key) => {
                    // An approval that still stands would enroll the dead key anew.
                    return Ok(Some((held, Step::Settled)));
                }
                Step::Forget => self.forget(&secret, &held.record).await,
            };
            match taken {
                Ok(()) | Err(Failure::Conflict) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Restless)
    }

    /// Makes the device a member, unless it may not be one.
    ///
    /// # Errors
    /// [`Denial`].
    pub async fn admit(&self, enrollment: &Enrollment) -> Result<(), Denial> {
        let device = &enrollment.device;
        let keys = (&enrollment.identity_key, &enrollment.curve_key);
        for _ in 0..MOST_ATTEMPTS {
            let held = self.converge(device).await?.map(|(held, _)| held);
            let node = self.read_node(device).await?;
            let key = self.view.key_use(&enrollment.identity_key);
            let before = held.as_ref().map(|held| &held.record);
            let known = Known { key: key.as_ref(), record: before, node: node.as_ref() };
            let written = match may_become(device, keys, known)? {
                Admission::Again => return self.settled(enrollment, held.as_ref(), node.as_ref()),
                Admission::Claim => self.create(&claim(enrollment.clone(), None)).await,
                Admission::Reclaim => match self.read(device).await? {
                    // Decided on what was read before: the version says whether that still stands.
                    Some((secret, now)) if Some(&now) == held.as_ref() => {
                        self.replace(&secret, &claim(enrollment.clone(), before)).await
                    }
                    _ => Err(Failure::Conflict),
                },
            };
            match written {
                Ok(()) | Err(Failure::Conflict) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(Failure::Restless.into())
    }

    fn settled(
        &self,
        enrollment: &Enrollment,
        held: Option<&Held>,
        node: Option<&NodeSeen>,
    ) -> Result<(), Denial> {
        match (held, node) {
            (Some(held), Some(node)) if held.record.admits(&node.uid) => Ok(()),
            (Some(held), _) if held.record.enrollment.identity_key == enrollment.identity_key => {
                Err(Denial::ForeignNode)
            }
            _ => Err(Failure::Restless.into()),
        }
    }

    /// Replaces the keys of a member, and ends the connections that were made with the old ones.
    ///
    /// # Errors
    /// [`Failure`]; [`Failure::Conflict`] when the record is not `held` any more.
    pub async fn rotate(&self, held: &Held, next: &Record) -> Result<(), Failure> {
        let device = &next.enrollment.device;
        let Some((secret, now)) = self.read(device).await? else { return Err(Failure::Conflict) };
        if now != *held {
            return Err(Failure::Conflict);
        }
        self.replace(&secret, next).await?;
        let kick = Kick::made_before(device.clone(), Instant::now());
        // The receiver ends with the process.
        let _ = self.kicks.send(kick);
        let note = format!(
            "The device has new keys, {}",
            fingerprint(&next.enrollment.identity_key, &next.enrollment.curve_key)
        );
        self.teller.tell(device, &next.node_uid, "KeysRotated", note);
        self.converge(device).await.map(drop)
    }

    /// The record as it stands.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn held(&self, device: &DeviceName) -> Result<Option<Held>, Failure> {
        Ok(self.read(device).await?.map(|(_, held)| held))
    }

    /// The Node as it stands.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn read_node(&self, device: &DeviceName) -> Result<Option<NodeSeen>, Failure> {
        let node = ask("read the Node", self.nodes.get_opt(device.as_str())).await?;
        Ok(node.as_ref().map(NodeSeen::from))
    }

    /// A token's Secret.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn token(&self, id: &TokenId) -> Result<Option<Secret>, Failure> {
        let secret = ask("read the enrollment token", self.tokens.get_opt(&token_name(id))).await?;
        Ok(secret.filter(|secret| secret.type_.as_deref() == Some(TOKEN_TYPE)))
    }

    /// Marks a token as used by the keys that it names.
    ///
    /// # Errors
    /// [`Failure::Conflict`] when somebody else used it meanwhile.
    pub async fn spend(&self, secret: &Secret, token: &TokenRecord) -> Result<(), Failure> {
        let mut next = token.secret("");
        next.metadata = secret.metadata.clone();
        next.metadata.managed_fields = None;
        let name = token_name(&token.token.id);
        ask("mark the enrollment token", self.tokens.replace(&name, &PostParams::default(), &next))
            .await
            .map(drop)
    }

    /// All tokens.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn tokens(&self) -> Result<Vec<Secret>, Failure> {
        let by_type = ListParams::default().fields(&format!("type={TOKEN_TYPE}"));
        Ok(ask("list the enrollment tokens", self.tokens.list(&by_type)).await?.items)
    }

    /// Deletes a token, if it is still the one that was looked at.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn delete_token(&self, secret: &Secret) -> Result<(), Failure> {
        delete("delete the enrollment token", &self.tokens, secret).await
    }

    async fn read(&self, device: &DeviceName) -> Result<Option<(Secret, Held)>, Failure> {
        let secret = ask("read the record", self.records.get_opt(&record_name(device))).await?;
        Ok(secret.and_then(|secret| Held::parse(&secret).map(|held| (secret, held))))
    }

    async fn create(&self, record: &Record) -> Result<(), Failure> {
        let secret = record.secret(&self.records_namespace);
        let written = ask("create the record", self.records.create(&PostParams::default(), &secret)).await?;
        self.note(&written);
        Ok(())
    }

    /// Writes a record over the one in `secret`, if that is still there.
    async fn replace(&self, secret: &Secret, record: &Record) -> Result<(), Failure> {
        let mut next = record.secret(&self.records_namespace);
        let labels = next.metadata.labels.take();
        next.metadata = secret.metadata.clone();
        next.metadata.managed_fields = None;
        next.metadata.labels.get_or_insert_default().extend(labels.unwrap_or_default());
        // Whatever is written decides anew: a wish from before must not take back a later revocation.
        if let Some(annotations) = &mut next.metadata.annotations {
            annotations.remove(UNDELETE);
        }
        let name = record_name(&record.enrollment.device);
        let written =
            ask("write the record", self.records.replace(&name, &PostParams::default(), &next)).await?;
        self.note(&written);
        Ok(())
    }

    fn note(&self, written: &Secret) {
        if let Some(held) = Held::parse(written) {
            self.view.note_record(held);
        }
    }

    async fn create_node(&self, record: &Record) -> Result<(), Failure> {
        let node = record.enrollment.node();
        let node = ask("create the Node", self.nodes.create(&PostParams::default(), &node)).await?;
        self.view.note_node(record.enrollment.device.clone(), NodeSeen::from(&node));
        Ok(())
    }

    async fn adopt(&self, secret: &Secret, mut record: Record, uid: &str) -> Result<(), Failure> {
        record.node_uid = uid.to_owned();
        self.replace(secret, &record).await?;
        let Enrollment { device, identity_key, curve_key, .. } = &record.enrollment;
        let fingerprint = fingerprint(identity_key, curve_key);
        tracing::info!(target: "audit", event = "enrolled", %device, node_uid = uid, %identity_key, fingerprint, "device enrolled");
        self.teller.tell(
            device,
            uid,
            "Enrolled",
            format!("The device is enrolled with the keys {fingerprint}"),
        );
        Ok(())
    }

    async fn annotate(&self, record: &Record) -> Result<(), Failure> {
        let Enrollment { device, identity_key, curve_key, .. } = &record.enrollment;
        // The UID is a precondition: another Node of that name is not touched.
        let patch = json!({ "metadata": { "uid": record.node_uid, "annotations": {
            IDENTITY_KEY: identity_key, CURVE_KEY: curve_key,
            FINGERPRINT: fingerprint(identity_key, curve_key),
        }}});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let written = self.nodes.patch(device.as_str(), &parameters, &patch);
        let node = ask("write the keys to the Node", written).await?;
        tracing::info!(target: "audit", event = "annotated", %device, %identity_key, "the Node shows the keys of the record");
        self.view.note_node(device.clone(), NodeSeen::from(&node));
        Ok(())
    }

    async fn revoke(&self, secret: &Secret, mut record: Record) -> Result<(), Failure> {
        record.state = RecordState::Revoked(Timestamp::now());
        self.replace(secret, &record).await?;
        let Enrollment { device, identity_key, .. } = &record.enrollment;
        let _ = self.kicks.send(Kick::all(device.clone(), Instant::now()));
        self.metrics.revocations.inc();
        tracing::info!(target: "audit", event = "revoked", %device, node_uid = record.node_uid, %identity_key, "device revoked: its Node was deleted");
        let hours = self.retention.as_secs() / 3600;
        let note = format!(
            "The Node was deleted, so the device is no member any more; `fleet device undelete {device}` takes it back within {hours} h"
        );
        self.teller.tell(device, &record.node_uid, "Revoked", note);
        Ok(())
    }

    async fn undelete(&self, secret: &Secret, mut record: Record) -> Result<(), Failure> {
        record.state = RecordState::Enrolled;
        // From here on it is a claim that has no Node yet.
        record.node_uid = String::new();
        self.replace(secret, &record).await?;
        let Enrollment { device, identity_key, .. } = &record.enrollment;
        tracing::info!(target: "audit", event = "undeleted", %device, %identity_key, "the revocation was taken back");
        self.teller.tell(device, "", "Undeleted", "The revocation of the device was taken back".to_owned());
        Ok(())
    }

    /// The tokens that its keys used go first: they would enroll them anew.
    async fn forget(&self, secret: &Secret, record: &Record) -> Result<(), Failure> {
        let dead = |key: &IdentityKey| *key == record.enrollment.identity_key || record.retired.contains(key);
        for token in self.tokens().await? {
            let used = TokenRecord::parse(&token).ok().and_then(|token| token.used_by);
            if used.is_some_and(|(identity, _)| dead(&identity)) {
                self.delete_token(&token).await?;
            }
        }
        delete("delete the record", &self.records, secret).await?;
        let device = &record.enrollment.device;
        tracing::info!(target: "audit", event = "forgotten", %device, "the record of the revoked device was kept long enough");
        Ok(())
    }
}

async fn delete(what: &'static str, api: &Api<Secret>, secret: &Secret) -> Result<(), Failure> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let unchanged = DeleteParams::default().preconditions(Preconditions {
        uid: secret.metadata.uid.clone(),
        resource_version: secret.metadata.resource_version.clone(),
    });
    match ask(what, api.delete(name, &unchanged)).await {
        Err(Failure::Api { source: kube::Error::Api(status), .. }) if status.is_not_found() => Ok(()),
        Err(failure) => Err(failure),
        Ok(_) => Ok(()),
    }
}
