//! Which reports travel together: as many as one message takes.

use fleet_wire::{
    envelope::{MAX_MESSAGE, OVERHEAD},
    message::{EventRecord, EventsReport, PodReport, StatusReport},
};
use k8s_openapi::api::core::v1::NodeStatus;
use serde::Serialize;

/// Most bytes of JSON in one message, before compression: what fits uncompressed always fits.
pub const MOST: usize = MAX_MESSAGE - OVERHEAD - 1024;

/// Splits reports into messages, in order; the node's part goes first. A report that is too large on its
/// own still gets a message of its own: compressed it may fit.
pub fn statuses(node: Option<NodeStatus>, reports: Vec<PodReport>) -> Vec<StatusReport> {
    let mut batches = Vec::new();
    let mut current = StatusReport::default();
    let mut used = 0;
    if let Some(node) = node {
        used = size(&node);
        current.node = Some(node);
    }
    for report in reports {
        let size = size(&report);
        if used > 0 && used + size > MOST {
            batches.push(std::mem::take(&mut current));
            used = 0;
        }
        used += size;
        current.pods.push(report);
    }
    if used > 0 {
        batches.push(current);
    }
    batches
}

/// The oldest events that fit one message, at least one.
pub fn events(mut report: EventsReport) -> EventsReport {
    let mut used = 0;
    let fitting = report
        .events
        .iter()
        .map(|event: &EventRecord| size(event))
        .take_while(|size| {
            used += size;
            used <= MOST
        })
        .count();
    report.events.truncate(fitting.max(1));
    report
}

/// Bytes of JSON, a comma included.
fn size(value: &impl Serialize) -> usize {
    let mut counter = Counter(1);
    // Counting cannot fail; were it to, the message is refused as too large when it is sealed.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use fleet_wire::{message::EventType, name::PodKey};
    use k8s_openapi::api::core::v1::PodStatus;
    use proptest::prelude::*;

    use super::*;

    fn report(number: usize, bytes: usize) -> PodReport {
        PodReport {
            key: PodKey {
                namespace: "default".parse().unwrap(),
                name: format!("pod-{number}").parse().unwrap(),
                uid: format!("uid-{number}").parse().unwrap(),
            },
            revision: 1,
            status: PodStatus { message: Some("x".repeat(bytes)), ..PodStatus::default() },
            stopped: false,
        }
    }

    proptest! {
        // Each case writes megabytes of JSON.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_report_travels_once_in_order_and_in_a_message_that_fits(
            sizes in proptest::collection::vec(0usize..100_000, 0..20),
            node in any::<bool>(),
        ) {
            let reports: Vec<_> = sizes.iter().enumerate().map(|(n, size)| report(n, *size)).collect();
            let batches = statuses(node.then(NodeStatus::default), reports.clone());
            for batch in &batches {
                prop_assert!(serde_json::to_vec(batch).unwrap().len() <= MAX_MESSAGE - OVERHEAD);
                prop_assert!(batch.node.is_some() || !batch.pods.is_empty());
            }
            prop_assert_eq!(batches.iter().filter(|batch| batch.node.is_some()).count(), usize::from(node));
            let sent: Vec<_> = batches.into_iter().flat_map(|batch| batch.pods).collect();
            prop_assert_eq!(sent, reports);
        }
    }

    #[test]
    fn a_giant_travels_alone() {
        let batches = statuses(None, vec![report(1, 10), report(2, MAX_MESSAGE), report(3, 10)]);
        let pods: Vec<usize> = batches.iter().map(|batch| batch.pods.len()).collect();
        assert_eq!(pods, [1, 1, 1]);
    }

    #[test]
    fn the_oldest_events_go_first() {
        let event = |number: usize| EventRecord {
            id: number.to_string(),
            pod: None,
            container: None,
            type_: EventType::Normal,
            reason: "Test".into(),
            message: "x".repeat(100_000),
            count: 1,
            first: 0,
            last: 0,
        };
        let report = EventsReport { events: (0..5).map(event).collect(), dropped: 3, now: 1 };
        let sent = events(report);
        assert_eq!(sent.events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["0", "1"]);
        assert_eq!(sent.dropped, 3);
    }
}
