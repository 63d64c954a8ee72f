//! Writes one report, and deletes the pod when it is time.

use fleet_wire::{
    message::{Outcome, PodOutcome, PodReport, Refusal, RefusalCode},
    name::DeviceName,
};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

use super::{
    deletion::{Deletion, decide},
    plan::{Plan, is_transition, plan},
    turn::{Lane, LaneState, PACE, Told, Turn},
};
use crate::{
    identity::{self, ApiError, Call, JSON, NodeClient, STRATEGIC_MERGE_PATCH},
    pods::Pods,
};

/// A report waits in its lane, to be written by [`write_waiting`] at that time.
#[derive(Debug)]
pub struct Waiting {
    /// The lane.
    pub lane: Arc<Lane>,
    /// When.
    pub at: Instant,
}

/// Writes a report for its device and says what became of it.
///
/// Nobody is kept waiting for the pace: what comes too soon waits in its lane, and its device is told to ask
/// again later. Where nothing waited yet, the second result says when it is to be written.
pub async fn write(
    client: &NodeClient,
    pods: &Pods,
    device: &DeviceName,
    report: PodReport,
    turn: Turn,
) -> (PodOutcome, Option<Waiting>) {
    let (uid, revision) = (report.key.uid.clone(), report.revision);
    let (outcome, waiting) = attempt(client, pods, device, report, &turn).await;
    (PodOutcome { uid, revision, outcome }, waiting)
}

async fn attempt(
    client: &NodeClient,
    pods: &Pods,
    device: &DeviceName,
    report: PodReport,
    turn: &Turn,
) -> (Outcome, Option<Waiting>) {
    let Some(mut lane) = turn.begin().await else { return (superseded(), None) };
    let Some(pod) = pods.of_device(device, &report.key.uid) else { return (Outcome::Gone, None) };
    let hurry = decide(&pod, &report) == Deletion::Delete
        || is_transition(pod.status.as_ref(), &report.status)
        || lane.written == Some(digest(&report));
    let due = lane.written_at.map(|written_at| written_at + PACE).filter(|due| *due > Instant::now());
    if let (false, Some(at)) = (hurry, due) {
        let first = lane.waiting.replace(Box::new(report)).is_none();
        return (paced(), first.then(|| Waiting { lane: Arc::clone(turn.lane()), at }));
    }
    // Older than this one.
    lane.waiting = None;
    (settle(client, device, &pod, report, &mut lane).await, None)
}

/// Writes the report that waits in a lane, unless a newer one was written meanwhile. What became of it the
/// device learns when it asks again.
pub async fn write_waiting(client: &NodeClient, pods: &Pods, device: &DeviceName, lane: &Lane) {
    let mut lane = lane.enter().await;
    let Some(report) = lane.waiting.take() else { return };
    let Some(pod) = pods.of_device(device, &report.key.uid) else { return };
    settle(client, device, &pod, *report, &mut lane).await;
}

/// Writes a report, and deletes the pod when it is time.
async fn settle(
    client: &NodeClient,
    device: &DeviceName,
    pod: &Pod,
    report: PodReport,
    lane: &mut LaneState,
) -> Outcome {
    let outcome = match write_status(client, device, pod, &report, lane).await {
        Ok(()) => Outcome::Taken,
        Err(outcome) => outcome,
    };
    if let Outcome::Refused(refusal) = &outcome {
        tracing::warn!(%device, pod = %report.key, %refusal, "a pod's status was refused");
    }
    let outcome = match (decide(pod, &report), outcome) {
        // A refused status must not keep a pod for ever that its device has let go.
        (Deletion::Delete, Outcome::Taken | Outcome::Refused(_)) => {
            match delete(client, device, &report).await {
                Ok(()) | Err(ApiError::Gone { .. }) => Outcome::Gone,
                Err(error) => later(&error),
            }
        }
        (_, outcome) => outcome,
    };
    if outcome == Outcome::Taken {
        lane.told = Some(Told::new(&report));
    }
    outcome
}

/// How long after an own write the watch may still show what was before.
const SETTLES: Duration = Duration::from_secs(5);

/// Puts right what others changed of the last report: the lifecycle controller takes readiness away from the
/// pods of a silent Node, and gives it back to none of them.
pub async fn reconcile(client: &NodeClient, pods: &Pods, device: &DeviceName, lane: &Lane) {
    let Some(mut state) = lane.idle() else { return };
    if state.written_at.is_some_and(|at| at.elapsed() < SETTLES) {
        return;
    }
    let Some(mut told) = state.told.take() else { return };
    let Some(version) = pods.version(device, &told.uid) else { return };
    if version.is_some() && version == told.stands_in {
        // Nobody has touched the pod since it was looked at last: the usual case.
        state.told = Some(told);
        return;
    }
    let Some((pod, report)) = pods.of_device(device, &told.uid).zip(told.report.get()) else { return };
    if let Plan::Patch(patch) = plan(&pod, &report.key.uid, &report.status, true) {
        tracing::debug!(%device, pod = %report.key, "somebody changed the pod's status: it is written again");
        state.written_at = Some(Instant::now());
        match patch_status(client, device, &report, &patch).await {
            Err(ApiError::Gone { .. }) => return,
            Err(error) => tracing::warn!(%device, pod = %report.key, %error, "a status was not put right"),
            Ok(()) => {}
        }
    } else {
        // Not what is there by now: a newer state is looked at next time.
        told.stands_in = version;
    }
    state.told = Some(told);
}

async fn write_status(
    client: &NodeClient,
    device: &DeviceName,
    pod: &Pod,
    report: &PodReport,
    lane: &mut LaneState,
) -> Result<(), Outcome> {
    let digest = digest(report);
    if lane.written == Some(digest) {
        return Ok(());
    }
    // The watch may not have shown our own last write yet: then what it shows decides nothing.
    let observed = lane.written.is_none();
    let patch = match plan(pod, &report.key.uid, &report.status, observed) {
        Plan::Nothing => {
            lane.written = Some(digest);
            return Ok(());
        }
        Plan::Refuse(refusal) => return Err(Outcome::Refused(refusal)),
        Plan::Patch(patch) => patch,
    };
    lane.written_at = Some(Instant::now());
    // Until it is known what the API server has, nothing counts as written.
    lane.written = Some([0; 32]);
    match patch_status(client, device, report, &patch).await {
        Ok(()) => {
            lane.written = Some(digest);
            Ok(())
        }
        Err(error @ ApiError::Gone { .. }) => {
            tracing::debug!(%device, pod = %report.key, %error, "the pod is gone");
            Err(Outcome::Gone)
        }
        Err(error) => Err(error.outcome()),
    }
}

async fn patch_status(
    client: &NodeClient,
    device: &DeviceName,
    report: &PodReport,
    patch: &Value,
) -> Result<(), ApiError> {
    let path = format!("{}/status", path(report));
    let call = Call::new(
        "patch pods/status",
        identity::Lane::Pod,
        Method::PATCH,
        path,
        STRATEGIC_MERGE_PATCH,
        patch,
    );
    client.send(device, call).await.map(|_| ())
}

async fn delete(client: &NodeClient, device: &DeviceName, report: &PodReport) -> Result<(), ApiError> {
    let options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": { "uid": report.key.uid },
    });
    let call = Call::new("delete pods", identity::Lane::Pod, Method::DELETE, path(report), JSON, &options);
    client.send(device, call).await.map(|_| ())
}

fn path(report: &PodReport) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", report.key.namespace, report.key.name)
}

fn digest(report: &PodReport) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(&report.status).unwrap_or_default()).into()
}

fn paced() -> Outcome {
    Outcome::Later(Refusal::new(
        RefusalCode::Busy,
        "the pod's last write is too recent: this one is written soon",
    ))
}

fn superseded() -> Outcome {
    Outcome::Later(Refusal::new(RefusalCode::Busy, "a newer status of this pod is on its way"))
}

fn later(error: &ApiError) -> Outcome {
    Outcome::Later(Refusal::new(RefusalCode::Unavailable, error.to_string()))
}

#[cfg(test)]
#[path = "tests/write.rs"]
mod tests;
