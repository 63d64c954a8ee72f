//! Figures for `/metrics`, named as the field names such things.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Labels of a message from or to a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MessageLabels {
    /// Verb, `answer` or `stream`; verbs that are not known here share the label `unknown`.
    pub verb: &'static str,
    /// `Ok`, or why not.
    pub result: String,
}

/// Labels of a request to the API server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// For example `patch pods/status`.
    pub operation: &'static str,
    /// `Ok`, or why not.
    pub result: &'static str,
}

/// Labels of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabels {
    /// For example `patch pods/status`.
    pub operation: &'static str,
}

/// All figures.
#[derive(Debug)]
pub struct Metrics {
    /// Devices with a live session from which heartbeats arrive.
    pub devices_connected: Gauge,
    /// Devices that have a valid Node.
    pub devices_enrolled: Gauge,
    /// Messages from devices by what became of them.
    pub messages: Family<MessageLabels, Counter>,
    /// Messages dropped because their device's queue was full: at least so many, a flood is not counted to
    /// the last one.
    pub queue_drops: Counter,
    /// Watches of ConfigMaps and Secrets that are open.
    pub reference_watches: Gauge,
    /// ConfigMaps and Secrets that are read now and then, because the cap of watches is reached.
    pub reference_reads: Gauge,
    requests: Family<RequestLabels, Counter>,
    latency: Family<OperationLabels, Histogram, fn() -> Histogram>,
}

fn latency_histogram() -> Histogram {
    Histogram::new([0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl Metrics {
    /// Registers everything under `vk_nats_`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            devices_connected: Gauge::default(),
            devices_enrolled: Gauge::default(),
            messages: Family::default(),
            queue_drops: Counter::default(),
            reference_watches: Gauge::default(),
            reference_reads: Gauge::default(),
            requests: Family::default(),
            latency: Family::new_with_constructor(latency_histogram),
        };
        let registry = registry.sub_registry_with_prefix("vk_nats");
        registry.register(
            "devices_connected",
            "Devices with a live session from which heartbeats arrive",
            metrics.devices_connected.clone(),
        );
        registry.register(
            "devices_enrolled",
            "Devices that have a valid Node",
            metrics.devices_enrolled.clone(),
        );
        registry.register("messages", "Messages from devices by verb and result", metrics.messages.clone());
        registry.register(
            "queue_drops",
            "Messages dropped because the queue of their device was full, at least",
            metrics.queue_drops.clone(),
        );
        registry.register(
            "reference_watches",
            "Open watches of ConfigMaps and Secrets",
            metrics.reference_watches.clone(),
        );
        registry.register(
            "reference_reads",
            "ConfigMaps and Secrets that are read now and then instead of watched",
            metrics.reference_reads.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server, made as nodes, by operation and result",
            metrics.requests.clone(),
        );
        registry.register(
            "api_request_duration_seconds",
            "How long requests to the API server took",
            metrics.latency.clone(),
        );
        metrics
    }

    /// Counts a message.
    pub fn message(&self, verb: &'static str, result: &str) {
        self.messages.get_or_create(&MessageLabels { verb, result: result.to_owned() }).inc();
    }

    /// Counts a request to the API server.
    pub fn api_request(&self, operation: &'static str, result: &'static str, took: Duration) {
        self.requests.get_or_create(&RequestLabels { operation, result }).inc();
        self.latency.get_or_create(&OperationLabels { operation }).observe(took.as_secs_f64());
    }
}
