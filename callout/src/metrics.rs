//! Figures for `/metrics`.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Labels of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuthorizationLabels {
    /// Kind of the login.
    pub login: &'static str,
    /// `admit` or `refuse`.
    pub decision: &'static str,
    /// Why it was refused; empty for admissions.
    pub reason: &'static str,
}

/// Labels of a request that was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropLabels {
    /// Why.
    pub reason: &'static str,
}

/// All figures.
#[derive(Debug)]
pub struct Metrics {
    /// Decisions.
    pub authorizations: Family<AuthorizationLabels, Counter>,
    /// Requests that nobody is told about: not sealed, not a server's.
    pub unanswered: Family<DropLabels, Counter>,
    /// From the request's arrival to its answer.
    pub duration: Histogram,
    /// Records in memory.
    pub records: Gauge,
    /// Nodes in memory.
    pub nodes: Gauge,
}

impl Metrics {
    /// Registers everything under `callout_`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            authorizations: Family::default(),
            unanswered: Family::default(),
            duration: Histogram::new([
                0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 2.0,
            ]),
            records: Gauge::default(),
            nodes: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("callout");
        registry.register(
            "authorizations",
            "Decided authorizations by login, decision and reason",
            metrics.authorizations.clone(),
        );
        registry.register(
            "unanswered",
            "Authorization requests that were not answered, by reason",
            metrics.unanswered.clone(),
        );
        registry.register(
            "authorization_duration_seconds",
            "Time from the arrival of an authorization request to its answer",
            metrics.duration.clone(),
        );
        registry.register("records", "Enrollment records in memory", metrics.records.clone());
        registry.register("nodes", "Nodes of devices in memory", metrics.nodes.clone());
        metrics
    }

    pub(crate) fn decided(&self, labels: AuthorizationLabels, took: Duration) {
        self.authorizations.get_or_create(&labels).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(crate) fn unanswered(&self, reason: &'static str) {
        self.unanswered.get_or_create(&DropLabels { reason }).inc();
    }
}
