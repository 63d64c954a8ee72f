//! What the link counts.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Label of a refused message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Label of a report.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    verb: &'static str,
}

/// Counters of the link. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LinkMetrics {
    connected: Gauge<i64, AtomicI64>,
    session_open: Gauge<i64, AtomicI64>,
    sessions: Counter<u64, AtomicU64>,
    bad_messages: Family<Kind, Counter>,
    bytes_sent: Counter<u64, AtomicU64>,
    bytes_received: Counter<u64, AtomicU64>,
    messages_sent: Family<Verb, Counter>,
    applied: Counter<u64, AtomicU64>,
    streams: Gauge<i64, AtomicI64>,
    logged: std::sync::Arc<Mutex<std::collections::BTreeSet<&'static str>>>,
}

impl LinkMetrics {
    /// Counters that a registry shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("device_kubelet");
        registry.register("link_connected", "Whether NATS can be reached", metrics.connected.clone());
        registry.register(
            "link_session_open",
            "Whether the cluster side has accepted the device's hello",
            metrics.session_open.clone(),
        );
        registry.register("link_sessions", "Sessions opened", metrics.sessions.clone());
        registry.register(
            "link_bad_messages",
            "Messages that were not accepted, by the reason",
            metrics.bad_messages.clone(),
        );
        registry.register("link_sent_bytes", "Bytes of sealed messages sent", metrics.bytes_sent.clone());
        registry.register(
            "link_received_bytes",
            "Bytes of messages received",
            metrics.bytes_received.clone(),
        );
        registry.register(
            "link_messages_sent",
            "Messages sent, by their verb",
            metrics.messages_sent.clone(),
        );
        registry.register(
            "desired_changes",
            "Changes of the desired set that were written to the store",
            metrics.applied.clone(),
        );
        registry.register("log_streams", "Open log streams", metrics.streams.clone());
        metrics
    }

    /// Whether NATS can be reached.
    pub fn connected(&self, connected: bool) {
        self.connected.set(i64::from(connected));
    }

    /// Whether the session is open; an opened one is counted.
    pub fn session(&self, open: bool) {
        if self.session_open.set(i64::from(open)) == 0 && open {
            self.sessions.inc();
        }
    }

    /// A message went out.
    pub fn sent(&self, verb: &'static str, bytes: usize) {
        self.bytes_sent.inc_by(bytes as u64);
        self.messages_sent.get_or_create(&Verb { verb }).inc();
    }

    /// A message came in.
    pub fn received(&self, bytes: usize) {
        self.bytes_received.inc_by(bytes as u64);
    }

    /// A message was not accepted; the first of each kind is logged.
    pub fn bad(&self, kind: &'static str, subject: &str, problem: &dyn std::fmt::Display) {
        self.bad_messages.get_or_create(&Kind { kind }).inc();
        if self.logged.lock().unwrap_or_else(PoisonError::into_inner).insert(kind) {
            let subject: String = subject.chars().take(120).collect();
            tracing::warn!(kind, subject, %problem, "a message was not accepted; more of this kind are only counted");
        } else {
            tracing::debug!(kind, %problem, "a message was not accepted");
        }
    }

    /// The desired set changed on disk.
    pub fn applied(&self) {
        self.applied.inc();
    }

    /// A log stream opened (or closed).
    pub fn stream(&self, opened: bool) {
        if opened {
            self.streams.inc();
        } else {
            self.streams.dec();
        }
    }
}
