//! Devices as people see them: Nodes, records, tokens, requests and Leases joined by name.
//!
//! A function of what was read and the time; no I/O.

use std::collections::{BTreeMap, btree_map::Entry};

use fleet_wire::{
    enrollment::{FINGERPRINT, KEY_VERSION, ROTATE_KEYS, Record, RecordState, TokenRecord, UNDELETE},
    keys::fingerprint,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{Node, Secret},
};
use serde::Serialize;

use super::request::{Decision, DeviceRequest, is_of_a_device};
use crate::output::Colour;

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Nodes of devices.
    pub nodes: Vec<Node>,
    /// Records.
    pub records: Vec<Secret>,
    /// Enrollment tokens.
    pub tokens: Vec<Secret>,
    /// Certificate requests.
    pub requests: Vec<CertificateSigningRequest>,
    /// The Nodes' Leases.
    pub leases: Vec<Lease>,
}

/// How a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum State {
    /// A member, and connected.
    Ready,
    /// A member that is not connected, or not well.
    NotReady,
    /// Node and record contradict each other: the device is not let in.
    Broken,
    /// The Node is gone; the record does not say so yet.
    Revoking,
    /// Thrown out.
    Revoked,
    /// The revocation is being taken back.
    Restoring,
    /// It asked, and nobody decided yet.
    PendingApproval,
    /// It asked, was approved, and has no Node yet.
    Approved,
    /// It asked, and was refused.
    Denied,
    /// Its token was not used yet.
    Invited,
    /// Its token was not used in time.
    Expired,
}

impl State {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::NotReady => "NotReady",
            Self::Broken => "Broken",
            Self::Revoking => "Revoking",
            Self::Revoked => "Revoked",
            Self::Restoring => "Restoring",
            Self::PendingApproval => "Pending approval",
            Self::Approved => "Approved",
            Self::Denied => "Denied",
            Self::Invited => "Invited",
            Self::Expired => "Invitation expired",
        }
    }

    /// On a terminal.
    pub fn colour(self) -> Colour {
        match self {
            Self::Ready => Colour::Green,
            Self::NotReady | Self::Broken => Colour::Red,
            Self::Revoked | Self::Denied | Self::Expired => Colour::Grey,
            _ => Colour::Yellow,
        }
    }
}

/// An invitation that was not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invitation {
    /// Id of the token.
    pub token: String,
    /// Until when it can be used.
    pub expires: Timestamp,
    #[serde(skip)]
    created: Option<Timestamp>,
    #[serde(skip)]
    labels: BTreeMap<String, String>,
}

/// A device, or the wish for one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: Option<State>,
    /// Why it stands so, in one line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What an operator can do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// Since when there is a Node; else a record, a request, an invitation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Fingerprint of its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Version of the fleet's curve key that it used last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u32>,
    /// Last sign of life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Labels of its Node, or those that it will get.
    pub labels: BTreeMap<String, String>,
    /// Public identity key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_key: Option<String>,
    /// Public curve key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curve_key: Option<String>,
    /// How many identity keys it had before.
    pub retired_keys: usize,
    /// Subject that its tokens of the identity provider must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// Version of its agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Invitations that were not used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invitations: Vec<Invitation>,
    /// Its requests for membership.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<DeviceRequest>,
    /// What else somebody should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Default)]
struct Parts<'a> {
    node: Option<&'a Node>,
    record: Option<(&'a Secret, Result<Record, String>)>,
    invitations: Vec<Invitation>,
    requests: Vec<DeviceRequest>,
    last_seen: Option<Timestamp>,
    notes: Vec<String>,
}

/// Joins what was read, sorted by name.
pub fn devices(sources: &Sources, now: Timestamp) -> Vec<Device> {
    let mut all: BTreeMap<String, Parts<'_>> = BTreeMap::new();
    for node in &sources.nodes {
        all.entry(node.metadata.name.clone().unwrap_or_default()).or_default().node = Some(node);
    }
    for secret in &sources.records {
        let Some(name) = secret.metadata.name.as_deref().and_then(|name| name.strip_prefix("device-")) else {
            continue;
        };
        let record = Record::parse(secret).map_err(|error| error.to_string());
        all.entry(name.to_owned()).or_default().record = Some((secret, record));
    }
    for secret in &sources.tokens {
        // One that cannot be read invites nobody.
        let Ok(token) = TokenRecord::parse(secret) else { continue };
        if token.used_by.is_none() {
            all.entry(token.device.to_string()).or_default().invitations.push(Invitation {
                token: token.token.id.to_string(),
                expires: token.expires,
                created: secret.metadata.creation_timestamp.as_ref().map(|time| time.0),
                labels: token.labels,
            });
        }
    }
    for request in sources.requests.iter().filter(|request| is_of_a_device(request)) {
        match DeviceRequest::parse(request) {
            Ok(request) => all.entry(request.device.to_string()).or_default().requests.push(request),
            Err(error) => {
                let name = request.metadata.name.as_deref().unwrap_or_default();
                // Only a name that is taken: what is forged gets no row of its own.
                let device = name.strip_prefix("device-").and_then(|rest| rest.rsplit_once('-'));
                if let Some((device, _)) = device
                    && let Entry::Occupied(mut parts) = all.entry(device.to_owned())
                {
                    parts.get_mut().notes.push(format!("do not approve {name}: {error}"));
                }
            }
        }
    }
    for lease in &sources.leases {
        if let Some(parts) = lease.metadata.name.as_ref().and_then(|name| all.get_mut(name)) {
            parts.last_seen =
                lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        }
    }
    all.into_iter().map(|(name, parts)| parts.device(name, now)).collect()
}

impl Parts<'_> {
    fn device(mut self, name: String, now: Timestamp) -> Device {
        self.invitations.sort_by_key(|invitation| invitation.expires);
        self.requests.sort_by_key(|request| request.created);
        let (state, reason, next) = self.state(&name, now);
        let mut device =
            Device { state: Some(state), reason, next, last_seen: self.last_seen, name, ..Device::default() };
        self.describe_wishes(&mut device);
        self.describe_record(&mut device);
        self.describe_node(&mut device);
        device.invitations = self.invitations;
        device.requests = self.requests;
        device.notes = self.notes;
        device
    }

    fn describe_wishes(&self, device: &mut Device) {
        if let Some(invitation) = self.invitations.last() {
            device.created = invitation.created;
            device.labels = invitation.labels.clone();
        }
        if let Some(request) = self.deciding() {
            device.created = request.created;
            device.fingerprint = Some(request.fingerprint.clone());
            device.identity_key = Some(request.identity_key.to_string());
            device.curve_key = Some(request.curve_key.to_string());
        }
    }

    fn describe_record(&self, device: &mut Device) {
        let Some((secret, Ok(record))) = &self.record else { return };
        let enrollment = &record.enrollment;
        // Who asks anew after a revocation is shown with the keys that it has now.
        if self.node.is_some() || self.requests.is_empty() {
            device.fingerprint = Some(fingerprint(&enrollment.identity_key, &enrollment.curve_key));
            device.identity_key = Some(enrollment.identity_key.to_string());
            device.curve_key = Some(enrollment.curve_key.to_string());
            device.created = secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
            device.labels = enrollment.labels.clone();
        }
        device.retired_keys = record.retired.len();
        device.subject = enrollment.subject.clone();
        if let RecordState::Revoked(at) = record.state {
            device.revoked = Some(at);
        }
    }

    fn describe_node(&mut self, device: &mut Device) {
        let Some(node) = self.node else { return };
        let annotation = |name: &str| node.metadata.annotations.as_ref().and_then(|all| all.get(name));
        device.created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
        device.labels = node.metadata.labels.clone().unwrap_or_default();
        device.key_version = annotation(KEY_VERSION).and_then(|version| version.parse().ok());
        device.agent = node
            .status
            .as_ref()
            .and_then(|status| status.node_info.as_ref())
            .map(|info| info.kubelet_version.clone())
            .filter(|version| !version.is_empty());
        let said = annotation(FINGERPRINT);
        match (&device.fingerprint, said) {
            (Some(recorded), Some(said)) if recorded != said => self
                .notes
                .push(format!("the Node says fingerprint {said}; the record, which counts, says {recorded}")),
            (None, Some(said)) => device.fingerprint = Some(said.clone()),
            _ => {}
        }
        if let Some(asked) = annotation(ROTATE_KEYS) {
            self.notes.push(format!("new keys were asked for: {asked}"));
        }
        for request in self.requests.iter().filter(|request| request.decision == Decision::Pending) {
            self.notes.push(format!(
                "somebody else asks for this name ({}, {}); `fleet device deny {}`",
                request.request, request.fingerprint, request.request
            ));
        }
    }

    fn state(&self, name: &str, now: Timestamp) -> (State, String, String) {
        let wait = "wait a moment; if it stays so, look at the enroller's log".to_owned();
        match (&self.node, &self.record) {
            (Some(node), Some((_, Ok(record)))) => self.member(name, node, record),
            (Some(_), Some((_, Err(error)))) => (
                State::Broken,
                format!("its record is damaged: {error}"),
                format!(
                    "revoke it, then enroll it anew: `fleet device revoke {name}`, `fleet device enroll {name}`"
                ),
            ),
            (Some(_), None) => (
                State::Broken,
                "its Node has no record, so it is not let in".to_owned(),
                format!(
                    "wait if it is being enrolled right now; else `kubectl delete node {name}` and `fleet device \
                     enroll {name}`"
                ),
            ),
            (None, record) => match self.wish(name, now) {
                Some(wish) => wish,
                None => match record {
                    Some((secret, Ok(Record { state: RecordState::Revoked(at), .. }))) => {
                        let undelete = secret.metadata.annotations.as_ref().and_then(|all| all.get(UNDELETE));
                        match undelete {
                            Some(_) => {
                                (State::Restoring, "its revocation is being taken back".to_owned(), wait)
                            }
                            None => (
                                State::Revoked,
                                format!("its Node was deleted at {at}"),
                                format!(
                                    "`fleet device undelete {name}` takes it back with its old keys; `fleet device \
                                     enroll {name}` invites it with new ones"
                                ),
                            ),
                        }
                    }
                    Some((_, Ok(_))) => {
                        (State::Revoking, "its Node is gone, its record still says enrolled".to_owned(), wait)
                    }
                    Some((_, Err(error))) => (
                        State::Broken,
                        format!("it has no Node, and its record is damaged: {error}"),
                        format!("delete the record, then `fleet device enroll {name}`"),
                    ),
                    // Every name has at least one part.
                    None => (State::Expired, "its invitation expired".to_owned(), invite(name)),
                },
            },
        }
    }

    /// Of a device whose Node and record are there.
    fn member(&self, name: &str, node: &Node, record: &Record) -> (State, String, String) {
        let uid = node.metadata.uid.as_deref().unwrap_or_default();
        if let RecordState::Revoked(at) = record.state {
            return (
                State::Broken,
                format!("its record says revoked at {at}, but there is a Node; it is not let in"),
                format!(
                    "`kubectl delete node {name}`, then `fleet device undelete {name}` or enroll it anew"
                ),
            );
        }
        if record.node_uid != uid {
            return (
                State::Broken,
                "its Node is not the one that it was enrolled with, so it is not let in".to_owned(),
                format!(
                    "`kubectl delete node {name}`, then `fleet device undelete {name}` or enroll it anew"
                ),
            );
        }
        let ready = node
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .find(|condition| condition.type_ == "Ready");
        let next = "is it switched on, and does it reach NATS? On the device: `journalctl -u device-kubelet`";
        match ready {
            Some(condition) if condition.status == "True" => (State::Ready, String::new(), String::new()),
            Some(condition) => {
                let message = condition.message.as_deref().filter(|message| !message.is_empty());
                let reason = message.or(condition.reason.as_deref()).unwrap_or("it gives no reason");
                (State::NotReady, reason.to_owned(), next.to_owned())
            }
            None => (State::NotReady, "it has not connected yet".to_owned(), next.to_owned()),
        }
    }

    /// The request that says how it stands: one that waits, else one that was approved, else the last.
    fn deciding(&self) -> Option<&DeviceRequest> {
        let last = |decision| self.requests.iter().rev().find(|request| request.decision == decision);
        last(Decision::Pending).or_else(|| last(Decision::Approved)).or(self.requests.last())
    }

    /// Of a device that wants to become one.
    fn wish(&self, name: &str, now: Timestamp) -> Option<(State, String, String)> {
        // Answers to requests before a revocation say nothing about what is wished now.
        let deciding = self.deciding();
        let waiting = self.requests.iter().filter(|request| request.decision == Decision::Pending).count();
        match deciding.map(|request| (request, request.decision)) {
            Some((_, Decision::Pending)) if waiting > 1 => {
                return Some((
                    State::PendingApproval,
                    format!("{waiting} devices ask for this name"),
                    format!(
                        "compare the fingerprints in `fleet device show {name}`, then approve one request by its name"
                    ),
                ));
            }
            Some((request, Decision::Pending)) => {
                return Some((
                    State::PendingApproval,
                    format!("it asks for membership with {}", request.fingerprint),
                    format!("compare the fingerprint with the device's, then `fleet device approve {name}`"),
                ));
            }
            Some((_, Decision::Approved)) if self.record.is_none() => {
                return Some((
                    State::Approved,
                    "it was approved, and becomes a member when it asks again".to_owned(),
                    "wait a moment; if it stays so, look at the enroller's log".to_owned(),
                ));
            }
            _ => {}
        }
        let invitation = self.invitations.last();
        if let Some(invitation) = invitation.filter(|invitation| invitation.expires > now) {
            return Some((
                State::Invited,
                format!("its invitation can be used until {}", invitation.expires),
                format!("carry the intent to it: `device-kubelet enroll --intent {name}.intent.json`"),
            ));
        }
        if self.record.is_some() {
            return None;
        }
        if let Some((request, Decision::Denied)) = deciding.map(|request| (request, request.decision)) {
            let reason = format!("its request {} was denied", request.request);
            return Some((State::Denied, reason, invite(name)));
        }
        let expired = invitation?.expires;
        Some((State::Expired, format!("its invitation expired at {expired}, unused"), invite(name)))
    }
}

fn invite(name: &str) -> String {
    format!("`fleet device enroll {name}` invites it again")
}

#[cfg(test)]
#[path = "tests/rows.rs"]
mod tests;
