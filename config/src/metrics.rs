//! Counters of a chain: reads, writes, fallbacks, signature failures. Labels are names of sources and outcomes, never
//! keys or values: their number stays small.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
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

/// The counters. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    reads: Family<Read, Counter>,
    writes: Family<Write, Counter>,
    fallbacks: Family<Of, Counter>,
    signature_failures: Family<Of, Counter>,
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
    pub fn signature_failure(&self, source: &str) {
        self.signature_failures.get_or_create(&Of { source: source.to_owned() }).inc();
    }
}
