//! The results, as they stand in the JSON file.

use e2e::bench::machine::Machine;
use e2e::bench::process_figures::{Memory, Used};
use e2e::bench::quantiles::{Quantiles, hundredths};
use serde::Serialize;

pub use self::identity::{
    Authorizations, Decided, Floor, Library, LogStream, Revocation, Sealed, Sealing, Storm,
};

mod identity;

/// Everything that one run measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Load averages at the end.
    pub load_after: String,
    /// Part `pods`.
    pub pods: Option<Pods>,
    /// Part `idle`.
    pub idle: Option<Idle>,
    /// Part `sealing`.
    pub sealing: Option<Sealing>,
    /// Part `callout`.
    pub authorizations: Option<Authorizations>,
    /// Part `storm`.
    pub storm: Option<Storm>,
    /// Part `storm`, too: with the same devices.
    pub revocation: Option<Revocation>,
    /// Part `scale`.
    pub scale: Option<Scale>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            load_after: String::new(),
            pods: None,
            idle: None,
            sealing: None,
            authorizations: None,
            storm: None,
            revocation: None,
            scale: None,
        }
    }
}

/// Pods on real Podman, one at a time; times in milliseconds.
#[derive(Debug, Serialize)]
pub struct Pods {
    /// From the creation as a watch shows it, to phase Running as the watch shows it; the scheduler's work
    /// is part of it.
    pub created_to_running: Quantiles,
    /// From the binding by the scheduler to Running.
    pub bound_to_running: Quantiles,
    /// From the request to the watch's deletion event.
    pub delete_to_gone: Quantiles,
    /// `podman pod create` and `podman run --pod` of the same image on the same device.
    pub podman_pod_create_and_run: Quantiles,
    /// `podman run` alone.
    pub podman_run: Quantiles,
    /// `podman pod stop` and `podman pod rm`.
    pub podman_pod_remove: Quantiles,
    /// `created_to_running` / `podman_pod_create_and_run`, both p50.
    pub ratio_p50: f64,
    /// `created_to_running` - `podman_pod_create_and_run`, both p50.
    pub over_podman_p50: f64,
}

/// An idle agent with one running pod.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// Its memory.
    pub memory: Memory,
    /// What it used.
    pub used: Used,
    /// How often a thread of it woke up, a minute.
    pub wake_ups_per_minute: f64,
    /// The same of Podman's service.
    pub podman_service_wake_ups_per_minute: f64,
    /// On the device's network interface, a minute, TLS and TCP included.
    pub sent_bytes_per_minute: f64,
    /// The same for what came in.
    pub received_bytes_per_minute: f64,
    /// By the agent itself.
    pub disk_written_bytes_per_minute: f64,
    /// For comparison: Podman's service on the same device, which also answers the agent.
    pub podman_service_memory: Memory,
    /// What that used.
    pub podman_service_used: Used,
}

/// Many nodes on one control plane.
#[derive(Debug, Serialize)]
pub struct Scale {
    /// Simulated devices, and kwok's nodes.
    pub devices: usize,
    /// Pods of one Deployment on them.
    pub pods: usize,
    /// Ours.
    pub vk_nats: Scaled,
    /// The simulated devices' process.
    pub simulation: Scaling,
    /// Theirs.
    pub kwok: Scaled,
    /// Ours / theirs.
    pub ratios: Ratios,
}

/// One program that keeps many nodes.
#[derive(Debug, Serialize)]
pub struct Scaled {
    /// From the start of the nodes' side until the last Node is Ready.
    pub nodes_ready: Phase,
    /// From the creation of the Deployment until the last pod runs.
    pub pods_running: Phase,
    /// How many pods a second the scheduler had bound in that time: no program can be faster.
    pub pods_bound_per_second: f64,
    /// From a pod's binding to Running.
    pub bound_to_running: Quantiles,
    /// From scaling to 0 until the last pod is gone.
    pub pods_deleted: Phase,
    /// With all pods running.
    pub memory: Memory,
    /// With all pods running and nothing to do.
    pub idle: Used,
}

/// Something done many times.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Phase {
    /// How long all of it took.
    pub seconds: f64,
    /// Its rate.
    pub per_second: f64,
    /// Processor time of the program.
    pub cpu_seconds: f64,
}

/// What the simulated devices cost, which kwok has not: on the same processor they take from everybody.
#[derive(Debug, Serialize)]
pub struct Scaling {
    /// Processor time until all Nodes were Ready.
    pub nodes_ready_cpu_seconds: f64,
    /// Processor time until all pods ran.
    pub pods_running_cpu_seconds: f64,
    /// Memory of all devices together.
    pub memory: Memory,
    /// Idle.
    pub idle: Used,
}

/// Ours divided by theirs.
#[derive(Debug, Serialize)]
pub struct Ratios {
    /// More is better.
    pub nodes_per_second: f64,
    /// More is better.
    pub pods_per_second: f64,
    /// More is better.
    pub deletes_per_second: f64,
    /// Less is better.
    pub memory_rss: f64,
    /// Less is better.
    pub memory_peak_rss: f64,
    /// Less is better.
    pub idle_cpu: f64,
    /// Processor time for all pods' way to Running; less is better.
    pub pods_cpu: f64,
}

impl Ratios {
    /// Of two programs that did the same.
    pub fn of(ours: &Scaled, theirs: &Scaled) -> Self {
        let kib = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX));
        Self {
            nodes_per_second: ratio(ours.nodes_ready.per_second, theirs.nodes_ready.per_second),
            pods_per_second: ratio(ours.pods_running.per_second, theirs.pods_running.per_second),
            deletes_per_second: ratio(ours.pods_deleted.per_second, theirs.pods_deleted.per_second),
            memory_rss: ratio(kib(ours.memory.rss_kib), kib(theirs.memory.rss_kib)),
            memory_peak_rss: ratio(kib(ours.memory.peak_rss_kib), kib(theirs.memory.peak_rss_kib)),
            idle_cpu: ratio(ours.idle.cpu_seconds, theirs.idle.cpu_seconds),
            pods_cpu: ratio(ours.pods_running.cpu_seconds, theirs.pods_running.cpu_seconds),
        }
    }
}

/// `ours / theirs`, in hundredths.
pub fn ratio(ours: f64, theirs: f64) -> f64 {
    hundredths(ours / theirs.max(1e-9))
}
