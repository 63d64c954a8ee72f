//! Figures for `/metrics`.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Labels of a request to enroll.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `token`, `key`, `device`, or `none` for a subject that is no door.
    pub door: &'static str,
    /// `Enrolled`, `Rotated`, `Pending`, or why not.
    pub outcome: &'static str,
}

/// All figures.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests by what became of them.
    pub requests: Family<RequestLabels, Counter>,
    /// Records of members.
    pub enrolled: Gauge,
    /// Records of revoked devices that are still kept.
    pub revoked: Gauge,
    /// Devices that wait for approval.
    pub waiting: Gauge,
    /// Revocations.
    pub revocations: Counter,
    /// Connections that were ended.
    pub kicks: Counter,
    /// Serving certificates that were approved.
    pub serving_approvals: Counter,
}

impl Metrics {
    /// All of them, registered.
    pub fn new(registry: &mut Registry) -> Self {
        let all = Self::default();
        let registry = registry.sub_registry_with_prefix("fleet_enroller");
        registry.register("requests", "Requests to enroll by what became of them", all.requests.clone());
        registry.register("devices_enrolled", "Records of members", all.enrolled.clone());
        registry.register("devices_revoked", "Records of revoked devices", all.revoked.clone());
        registry.register("devices_waiting", "Devices that wait for approval", all.waiting.clone());
        registry.register("revocations", "Devices that were revoked", all.revocations.clone());
        registry.register("kicks", "Connections that were ended", all.kicks.clone());
        registry.register(
            "serving_approvals",
            "Serving certificates that were approved",
            all.serving_approvals.clone(),
        );
        all
    }

    /// One request more.
    pub fn count(&self, door: &'static str, outcome: &'static str) {
        self.requests.get_or_create(&RequestLabels { door, outcome }).inc();
    }
}
