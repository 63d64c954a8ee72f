//! Workloads of the scenarios, and what to wait for on them.
//!
//! Every object a scenario makes stands in a namespace of that scenario, which goes with everything in it
//! at the end, so that scenarios on one fleet do not meet.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::wait::{Look, until};

/// How long a pod may take to reach a state on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a pod needs to land on a device at all: the label of devices, and their taint tolerated.
#[must_use]
pub fn on_devices() -> Value {
    json!({
        "nodeSelector": { "fleet.harmony.io/device": "true" },
        "tolerations": [{ "key": "fleet.harmony.io/device", "operator": "Exists", "effect": "NoSchedule" }],
        "terminationGracePeriodSeconds": 2,
        "automountServiceAccountToken": false,
    })
}

/// A pod spec on devices; keys of `spec` win.
#[must_use]
pub fn spec(spec: &Value) -> Value {
    let mut whole = on_devices();
    merge(&mut whole, spec);
    whole
}

/// A pod on devices.
#[must_use]
pub fn pod(name: &str, rest: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec(rest) })
}

/// A container of the harness' image that runs a line of shell.
#[must_use]
pub fn shell(name: &str, line: &str) -> Value {
    json!({ "name": name, "image": "localhost/hello:v1", "command": ["sh", "-c", line] })
}

/// A DaemonSet on devices whose pods carry the label `app: <name>`.
#[must_use]
pub fn daemon_set(name: &str, rest: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": spec(rest) },
        },
    })
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// A namespace of one scenario.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The fleet.
    pub fleet: &'a Fleet,
    /// The namespace.
    pub name: &'static str,
}

impl<'a> Scene<'a> {
    /// Makes the namespace.
    ///
    /// # Errors
    /// When it exists already or the API server refuses.
    pub async fn open(fleet: &'a Fleet, name: &'static str) -> Result<Self> {
        fleet.kubectl.run(&format!("create namespace {name}")).await?;
        Ok(Self { fleet, name })
    }

    /// Removes it, and waits until everything in it is gone.
    ///
    /// # Errors
    /// When something in it does not go.
    pub async fn close(self) -> Result<()> {
        self.fleet.kubectl.run(&format!("delete namespace {} --timeout 90s", self.name)).await.map(drop)
    }

    /// `kubectl --namespace … <line>`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kubectl(&self, line: &str) -> Result<String> {
        self.fleet.kubectl.run(&format!("--namespace {} {line}", self.name)).await
    }

    /// `kubectl --namespace … <line> --output json`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn json(&self, line: &str) -> Result<Value> {
        self.fleet.kubectl.json(&format!("--namespace {} {line}", self.name)).await
    }

    /// Applies an object in the namespace.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let line = format!("--namespace {} apply --filename -", self.name);
        self.fleet.kubectl.fed(&line, &object.to_string()).await.map(drop)
    }

    /// Waits until a look at one object is content; the look gives what it misses otherwise.
    ///
    /// # Errors
    /// When it is not content after `within`.
    pub async fn until(
        &self,
        object: &str,
        what: &str,
        within: Duration,
        look: impl Fn(&Value) -> Result<(), String>,
    ) -> Result<Value> {
        until(format!("{object}: {what}"), within, async || {
            let seen = self.json(&format!("get {object}")).await?;
            Ok(match look(&seen) {
                Ok(()) => Look::Done(seen),
                Err(missing) => Look::not_yet(missing),
            })
        })
        .await
    }

    /// Waits until a pod is in a phase.
    ///
    /// # Errors
    /// When it is not after [`PATIENCE`].
    pub async fn phase(&self, pod: &str, phase: &str) -> Result<Value> {
        self.until(&format!("pod/{pod}"), &format!("phase {phase}"), PATIENCE, |seen| {
            if seen["status"]["phase"] == phase { Ok(()) } else { Err(seen["status"].to_string()) }
        })
        .await
    }

    /// Waits until all containers of a pod are ready.
    ///
    /// # Errors
    /// When they are not after [`PATIENCE`].
    pub async fn ready(&self, pod: &str) -> Result<Value> {
        self.until(&format!("pod/{pod}"), "condition Ready", PATIENCE, |seen| {
            if condition(seen, "Ready") == Some("True") { Ok(()) } else { Err(seen["status"].to_string()) }
        })
        .await
    }

    /// Waits until a container waits for a reason.
    ///
    /// # Errors
    /// When it does not after [`PATIENCE`].
    pub async fn waits(&self, pod: &str, reason: &str) -> Result<Value> {
        self.until(&format!("pod/{pod}"), &format!("waiting: {reason}"), PATIENCE, |seen| {
            let states = seen["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            if states.iter().any(|state| state["state"]["waiting"]["reason"] == reason) {
                Ok(())
            } else {
                Err(seen["status"].to_string())
            }
        })
        .await
    }

    /// Waits for an Event of an object with a reason, whose message holds `words`.
    ///
    /// # Errors
    /// When there is none after [`PATIENCE`].
    pub async fn event(&self, object: &str, reason: &str, words: &str) -> Result<()> {
        until(format!("an Event {reason} of {object} that says {words:?}"), PATIENCE, async || {
            let events =
                self.json(&format!("get events --field-selector involvedObject.name={object}")).await?;
            let events = events["items"].as_array().context("no list of Events")?;
            let says = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains(words));
            if events.iter().any(|event| event["reason"] == reason && says(event)) {
                return Ok(Look::Done(()));
            }
            let seen: Vec<_> =
                events.iter().map(|event| format!("{}: {}", event["reason"], event["message"])).collect();
            Ok(Look::not_yet(seen.join(", ")))
        })
        .await
    }
}

/// The status of a condition of a pod or Node.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?["status"]
        .as_str()
}
