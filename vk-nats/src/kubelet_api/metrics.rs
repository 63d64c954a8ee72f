//! What this API counts.

use std::sync::atomic::AtomicI64;

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Labels of a request. Both are from short lists, whatever clients send.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: &'static str,
    code: u16,
}

/// Label of a certificate request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateRequest {
    outcome: &'static str,
}

/// Counters of the kubelet API. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Family<Request, Counter>,
    connections: Gauge<i64, AtomicI64>,
    streams: Gauge<i64, AtomicI64>,
    refused: Counter,
    expires: Gauge<i64, AtomicI64>,
    certificate_requests: Family<CertificateRequest, Counter>,
}

impl Metrics {
    /// Counters that stand in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let api = registry.sub_registry_with_prefix("kubelet_api");
        api.register("requests", "Requests answered, by route and status", metrics.requests.clone());
        api.register("connections", "Open connections", metrics.connections.clone());
        api.register("streams", "Open log streams", metrics.streams.clone());
        api.register(
            "connections_refused",
            "Connections closed at once, because a limit was reached",
            metrics.refused.clone(),
        );
        api.register(
            "serving_certificate_expiration_timestamp_seconds",
            "When the serving certificate ends, in seconds since 1970; 0 while there is none",
            metrics.expires.clone(),
        );
        api.register(
            "serving_certificate_requests",
            "Requests for a certificate of the cluster, by what became of them",
            metrics.certificate_requests.clone(),
        );
        metrics
    }

    pub(super) fn request(&self, route: &'static str, code: u16) {
        self.requests.get_or_create(&Request { route, code }).inc();
    }

    pub(super) fn certificate_expires(&self, at: Timestamp) {
        self.expires.set(at.as_second());
    }

    pub(crate) fn certificate_request(&self, outcome: &'static str) {
        self.certificate_requests.get_or_create(&CertificateRequest { outcome }).inc();
    }

    pub(super) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    pub(super) fn stream(&self) -> Counted {
        Counted::new(&self.streams)
    }

    pub(super) fn refuse(&self) {
        self.refused.inc();
    }
}

/// Counts for as long as it lives.
#[derive(Debug)]
pub struct Counted(Gauge<i64, AtomicI64>);

impl Counted {
    fn new(gauge: &Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
