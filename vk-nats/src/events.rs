//! Events of devices, written as their nodes.
//!
//! An Event's name follows from the device, the record's id and when it began, so sending a record again does
//! not double it, and a repetition raises the count of the Event that is there. Names sort by time, as a
//! kubelet's do: `kubectl describe` shows Events of one second in the order of their names.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use fleet_wire::{
    message::{EventRecord, EventType, EventsAck, EventsReport, Refusal, RefusalCode},
    name::DeviceName,
};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    identity::{ApiError, Call, JSON, Lane, MERGE_PATCH, NodeClient},
    pods::Pods,
};

/// `reportingComponent`; `source.component` stays `kubelet`, by which people and tools select.
pub const REPORTER: &str = "device-kubelet";
/// A device's clock may be off by this much without its times being corrected: messages take time, too.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);
/// Longest message that the API server takes, in bytes.
const MAX_MESSAGE: usize = 1024;
/// Lists of containers in a pod's spec.
pub const CONTAINERS: &str = "containers";
const INIT_CONTAINERS: &str = "initContainers";
const NANOS_OF_MILLI: u64 = 1_000_000;

/// Which events of a device's report were written, and whether the API server took each, until all are. Where the API
/// server is slow a report is broken off and comes again: it goes on where it stopped, or it would never get to its end
/// while each try makes the API server slower.
#[derive(Debug, Default)]
pub struct Progress(Mutex<HashMap<Mark, bool>>);

/// Id, beginning and count of a record.
type Mark = (String, i64, u32);

fn mark(record: &EventRecord) -> Mark {
    (record.id.clone(), record.first, record.count)
}

impl Progress {
    /// What is not in this report is forgotten.
    fn begin(&self, report: &EventsReport) {
        let mut done = self.done();
        if !done.is_empty() {
            let there: HashSet<Mark> = report.events.iter().map(mark).collect();
            done.retain(|mark, _| there.contains(mark));
        }
    }

    fn has(&self, record: &EventRecord) -> bool {
        self.done().contains_key(&mark(record))
    }

    fn note(&self, record: &EventRecord, taken: bool) {
        self.done().insert(mark(record), taken);
    }

    /// All were written, or refused for good.
    fn end(&self) -> EventsAck {
        let done = std::mem::take(&mut *self.done());
        let refused = done.values().filter(|taken| !**taken).count();
        EventsAck { refused: u32::try_from(refused).unwrap_or(u32::MAX) }
    }

    fn done(&self) -> MutexGuard<'_, HashMap<Mark, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a report's events, oldest first; those that `progress` knows were written before.
///
/// # Errors
/// A refusal when the API server does not answer now: the device sends all of them again.
pub async fn write(
    client: &NodeClient,
    pods: &Pods,
    device: &DeviceName,
    report: &EventsReport,
    progress: &Progress,
) -> Result<EventsAck, Refusal> {
    let offset = clock_offset(report.now, Timestamp::now());
    progress.begin(report);
    if report.dropped > 0 {
        tracing::warn!(%device, dropped = report.dropped, "the device dropped events while it was away");
    }
    for record in &report.events {
        if progress.has(record) {
            continue;
        }
        let pod = record.pod.as_ref().and_then(|key| pods.of_device(device, &key.uid));
        match write_one(client, device, record, list(pod.as_ref(), record), offset).await {
            Ok(()) => progress.note(record, true),
            // Namespaces end, and what is wrong with an Event stays wrong.
            Err(
                error @ (ApiError::Gone { .. }
                | ApiError::Forbidden { .. }
                | ApiError::Invalid { .. }
                | ApiError::AlreadyExists { .. }),
            ) => {
                tracing::debug!(%device, event = record.id, %error, "an event was refused");
                progress.note(record, false);
            }
            Err(error) => return Err(Refusal::new(RefusalCode::Unavailable, error.to_string())),
        }
    }
    Ok(progress.end())
}

/// Writes one event. `list` is where the pod's spec has its container.
///
/// # Errors
/// See [`ApiError`].
pub async fn write_one(
    client: &NodeClient,
    device: &DeviceName,
    record: &EventRecord,
    list: &str,
    offset: SignedDuration,
) -> Result<(), ApiError> {
    let event = event(device, record, list, offset);
    let path = format!("/api/v1/namespaces/{}/events", namespace(record));
    let patch = json!({
        "count": event["count"],
        "lastTimestamp": event["lastTimestamp"],
        "message": event["message"],
    });
    let raise = async || {
        let path = format!("{path}/{}", name(device, record));
        let call = Call::new("patch events", Lane::Event, Method::PATCH, path, MERGE_PATCH, &patch);
        client.send(device, call).await.map(|_| ())
    };
    // A repetition is most likely there. Events end after an hour: then it begins again.
    if record.count > 1 {
        match raise().await {
            Err(ApiError::Gone { .. }) => {}
            result => return result,
        }
    }
    let create = Call::new("create events", Lane::Event, Method::POST, path.clone(), JSON, &event);
    match client.send(device, create).await {
        Err(ApiError::AlreadyExists { .. }) => raise().await,
        result => result.map(|_| ()),
    }
}

/// Where the spec of the record's pod has its container.
fn list(pod: Option<&Pod>, record: &EventRecord) -> &'static str {
    let (Some(pod), Some(container)) = (pod, &record.container) else { return CONTAINERS };
    let mut init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    if init.any(|init| init.name == container.as_str()) { INIT_CONTAINERS } else { CONTAINERS }
}

/// What has to be added to a device's times.
pub fn clock_offset(device_now: i64, now: Timestamp) -> SignedDuration {
    let Ok(device_now) = Timestamp::from_millisecond(device_now) else { return SignedDuration::ZERO };
    let offset = now.duration_since(device_now);
    if offset.abs() <= TOLERANCE { SignedDuration::ZERO } else { offset }
}

fn namespace(record: &EventRecord) -> &str {
    record.pod.as_ref().map_or("default", |pod| pod.namespace.as_str())
}

fn name(device: &DeviceName, record: &EventRecord) -> String {
    let object = record.pod.as_ref().map_or(device.as_str(), |pod| pod.name.as_str());
    let mut hash = Sha256::new();
    hash.update(device.as_str().as_bytes());
    hash.update(b"\n");
    hash.update(record.id.as_bytes());
    let digest = hash.finalize();
    let unique = digest[..8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    // As a kubelet's: nanoseconds of the first time. What a device's clock does not tell of them tells apart.
    let millis = u64::try_from(record.first).unwrap_or(0);
    let nanos = millis.wrapping_mul(NANOS_OF_MILLI).wrapping_add(unique % NANOS_OF_MILLI);
    // 253 characters are a name's limit; names are ASCII.
    format!("{}.{nanos:016x}", object[..object.len().min(236)].trim_end_matches(['.', '-']))
}

/// The Event as it is created.
pub fn event(device: &DeviceName, record: &EventRecord, list: &str, offset: SignedDuration) -> Value {
    let time = |millis: i64| {
        let corrected = Timestamp::from_millisecond(millis)
            .and_then(|time| time.checked_add(offset))
            .unwrap_or_else(|_| Timestamp::now());
        format!("{corrected:.0}")
    };
    let involved = match &record.pod {
        Some(pod) => {
            let mut object = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
            });
            if let Some(container) = &record.container {
                object["fieldPath"] = json!(format!("spec.{list}{{{container}}}"));
            }
            object
        }
        // As kubelets do: the uid of a Node in its own events is its name.
        None => json!({ "kind": "Node", "name": device, "uid": device }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": name(device, record), "namespace": namespace(record) },
        "involvedObject": involved,
        "type": match record.type_ {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        },
        "reason": record.reason,
        "message": cut(&record.message, MAX_MESSAGE),
        "count": record.count.max(1),
        "firstTimestamp": time(record.first),
        "lastTimestamp": time(record.last),
        "source": { "component": "kubelet", "host": device },
        "reportingComponent": REPORTER,
        "reportingInstance": device,
    })
}

fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
#[path = "tests/events.rs"]
mod tests;
