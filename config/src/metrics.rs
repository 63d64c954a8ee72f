//! Counters of a chain: reads, writes, fallbacks, signature failures, updates. Labels are names of sources and outcomes, never
//! keys or values: their number stays small.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What came of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ReadOutcome {
    /// Values.
    Gave,
    /// The source has none.
    Nothing,
    /// The source could not be asked.
    Away,
    /// The source has something that cannot be used.
    Refused,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WriteOutcome {
    /// Kept.
    Kept,
    /// Somebody else wrote in between.
    Conflict,
    /// Not kept.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Read {
    source: String,
    outcome: ReadOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    source: String,
    outcome: WriteOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Broken {
    source: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: String,
}

/// The counters. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    reads: Family<Read, Counter>,
    writes: Family<Write, Counter>,
    fallbacks: Family<Of, Counter>,
    signature_failures: Family<Broken, Counter>,
    updates_applied: Counter,
    updates_refused: Family<Why, Counter>,
    update_epoch: Gauge,
}

impl Metrics {
    /// Adds them to a registry, as `harmony_config_…_total`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("harmony_config");
        registry.register("reads", "Times that a source was asked for settings", self.reads.clone());
        registry.register("writes", "Times that settings were to be kept or removed", self.writes.clone());
        registry.register(
            "fallbacks",
            "Times that the last known good settings stood in for a source",
            self.fallbacks.clone(),
        );
        registry.register(
            "signature_failures",
            "Times that a seal, signature or chain did not hold",
            self.signature_failures.clone(),
        );
        registry.register(
            "updates_applied",
            "Times that a signed update took effect",
            self.updates_applied.clone(),
        );
        registry.register(
            "updates_refused",
            "Times that an update was not taken, by the reason",
            self.updates_refused.clone(),
        );
        registry.register(
            "update_epoch",
            "Epoch of the update in effect; 0 without one",
            self.update_epoch.clone(),
        );
    }

    pub(crate) fn read(&self, source: &str, outcome: ReadOutcome) {
        self.reads.get_or_create(&Read { source: source.to_owned(), outcome }).inc();
    }

    pub(crate) fn write(&self, source: &str, outcome: WriteOutcome) {
        self.writes.get_or_create(&Write { source: source.to_owned(), outcome }).inc();
    }

    pub(crate) fn fallback(&self, source: &str) {
        self.fallbacks.get_or_create(&Of { source: source.to_owned() }).inc();
    }

    /// A seal, signature or chain of this source did not hold. For sources that find that out by themselves.
    /// `reason` is one of a few words: `tampered`, `signature`.
    pub fn signature_failure(&self, source: &str, reason: &str) {
        let broken = Broken { source: source.to_owned(), reason: reason.to_owned() };
        self.signature_failures.get_or_create(&broken).inc();
    }

    /// An update took effect.
    pub fn update_applied(&self, epoch: Option<u64>) {
        self.updates_applied.inc();
        self.update_is(epoch);
    }

    /// The update in effect has this epoch; `None`: there is none.
    pub fn update_is(&self, epoch: Option<u64>) {
        self.update_epoch.set(epoch.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(0));
    }

    /// An update was not taken.
    pub fn update_refused(&self, reason: &str) {
        self.updates_refused.get_or_create(&Why { reason: reason.to_owned() }).inc();
    }
}
