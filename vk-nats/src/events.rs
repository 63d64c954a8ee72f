//! Events of devices, written as their nodes.
//!
//! An Event's name follows from the device and the record's id, so sending a record again does not double
//! it: the second attempt finds it there and at most raises its count.

use fleet_wire::{
    message::{EventRecord, EventType, EventsAck, EventsReport, Refusal, RefusalCode},
    name::DeviceName,
};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::identity::{ApiError, Call, JSON, Lane, MERGE_PATCH, NodeClient};

/// `reportingComponent`; `source.component` stays `kubelet`, by which people and tools select.
pub const REPORTER: &str = "device-kubelet";
/// A device's clock may be off by this much without its times being corrected: messages take time, too.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);
/// Longest message that the API server takes, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Writes a report's events, oldest first.
///
/// # Errors
/// A refusal when the API server does not answer now: the device sends all of them again.
pub async fn write(
    client: &NodeClient,
    device: &DeviceName,
    report: &EventsReport,
) -> Result<EventsAck, Refusal> {
    let offset = clock_offset(report.now, Timestamp::now());
    let mut ack = EventsAck::default();
    if report.dropped > 0 {
        tracing::warn!(%device, dropped = report.dropped, "the device dropped events while it was away");
    }
    for record in &report.events {
        match write_one(client, device, record, offset).await {
            Ok(()) => {}
            // Namespaces end, and what is wrong with an Event stays wrong.
            Err(
                error @ (ApiError::Gone { .. }
                | ApiError::Forbidden { .. }
                | ApiError::Invalid { .. }
                | ApiError::AlreadyExists { .. }),
            ) => {
                tracing::debug!(%device, event = record.id, %error, "an event was refused");
                ack.refused += 1;
            }
            Err(error) => return Err(Refusal::new(RefusalCode::Unavailable, error.to_string())),
        }
    }
    Ok(ack)
}

/// Writes one event.
///
/// # Errors
/// See [`ApiError`].
pub async fn write_one(
    client: &NodeClient,
    device: &DeviceName,
    record: &EventRecord,
    offset: SignedDuration,
) -> Result<(), ApiError> {
    let event = event(device, record, offset);
    let path = format!("/api/v1/namespaces/{}/events", namespace(record));
    let create = Call::new("create events", Lane::Event, Method::POST, path.clone(), JSON, &event);
    match client.send(device, create).await {
        Ok(_) => Ok(()),
        Err(ApiError::AlreadyExists { .. }) => {
            let patch = json!({
                "count": event["count"],
                "lastTimestamp": event["lastTimestamp"],
                "message": event["message"],
            });
            let path = format!("{path}/{}", name(device, record));
            let call = Call::new("patch events", Lane::Event, Method::PATCH, path, MERGE_PATCH, &patch);
            client.send(device, call).await.map(|_| ())
        }
        Err(error) => Err(error),
    }
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
    let suffix: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    // 253 characters are a name's limit; names are ASCII.
    format!("{}.{suffix}", object[..object.len().min(236)].trim_end_matches(['.', '-']))
}

/// The Event as it is created.
pub fn event(device: &DeviceName, record: &EventRecord, offset: SignedDuration) -> Value {
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
                object["fieldPath"] = json!(format!("spec.containers{{{container}}}"));
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
