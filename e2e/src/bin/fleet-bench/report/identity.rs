//! Logins, revocation and sealing.

use e2e::bench::quantiles::{Quantiles, hundredths};
use serde::Serialize;

/// Sealing, alone and in a log stream.
#[derive(Debug, Serialize)]
pub struct Sealing {
    /// The largest frames of a stream.
    pub chunks: Sealed,
    /// Messages with a body of 1 KiB JSON, compression included.
    pub messages: Sealed,
    /// `kubectl logs` of a large log.
    pub stream: LogStream,
}

/// Sealing and opening in a live session, by processor time of one thread.
#[derive(Debug, Clone, Serialize)]
pub struct Sealed {
    /// Bytes of the content.
    pub bytes: usize,
    /// Microseconds to seal one.
    pub seal_us: f64,
    /// Microseconds to open one.
    pub open_us: f64,
    /// Millions of bytes a second on one core.
    pub seal_megabytes_per_second: f64,
    /// The same for opening.
    pub open_megabytes_per_second: f64,
}

impl Sealed {
    /// From the times of one.
    pub fn of(bytes: usize, seal_us: f64, open_us: f64) -> Self {
        let content = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        // Bytes a microsecond are millions of bytes a second.
        let rate = |us: f64| hundredths(content / us.max(1e-9));
        let (seal_megabytes_per_second, open_megabytes_per_second) = (rate(seal_us), rate(open_us));
        Self { bytes, seal_us, open_us, seal_megabytes_per_second, open_megabytes_per_second }
    }
}

/// A log on its way from the device to kubectl.
#[derive(Debug, Serialize)]
pub struct LogStream {
    /// Millions of bytes that kubectl printed.
    pub megabytes: f64,
    /// How many a second, kubectl's own start included.
    pub megabytes_per_second: f64,
    /// Milliseconds of the agent's processor time for each million bytes.
    pub agent_cpu_ms: f64,
    /// The same of `vk-nats`.
    pub vk_cpu_ms: f64,
    /// The same of nats-server.
    pub nats_server_cpu_ms: f64,
    /// Computed, not measured: what sealing alone takes for the same bytes in full frames, in per cent of
    /// the agent's time. The agent is compiled for size, the measured sealing for speed.
    pub computed_sealing_percent_of_agent: f64,
    /// Computed likewise for opening in `vk-nats`.
    pub computed_opening_percent_of_vk: f64,
}

/// Logins with an identity key.
#[derive(Debug, Serialize)]
pub struct Authorizations {
    /// Devices in the callout's registry that log in.
    pub records: usize,
    /// Logins under way at the same time.
    pub in_flight: usize,
    /// The core that the callout had to stay on; others used it, too.
    pub callout_core: usize,
    /// Microseconds of the callout process's processor time for one login.
    pub callout_cpu_us: f64,
    /// Logins a second of one core that has nothing else to do, by that.
    pub callout_per_core: f64,
    /// Through the callout.
    pub registry: Decided,
    /// The server alone, with a key of its own configuration.
    pub static_nkey: Decided,
    /// The callout's library alone.
    pub library: Library,
}

/// Logins of one kind on the whole machine: client, server and callout share it.
#[derive(Debug, Serialize)]
pub struct Decided {
    /// How many a second.
    pub per_second: f64,
    /// From CONNECT to the PONG behind it.
    pub connect_to_pong: Quantiles,
    /// Microseconds of nats-server's processor time for one, TLS handshake included.
    pub server_cpu_us: f64,
}

/// Recorded requests, answered in one thread.
#[derive(Debug, Serialize)]
pub struct Library {
    /// How many were answered.
    pub requests: usize,
    /// Microseconds of processor time for one.
    pub cpu_us: f64,
    /// How many a second on one core.
    pub per_core: f64,
    /// Of it cannot be saved.
    pub floor: Floor,
}

/// What the cryptography of one login takes, in microseconds.
#[derive(Debug, Serialize)]
pub struct Floor {
    /// Opening the request.
    pub open_us: f64,
    /// Sealing the answer.
    pub seal_us: f64,
    /// Verifying a signature; there are two.
    pub verify_us: f64,
    /// Signing; the user and the answer.
    pub sign_us: f64,
    /// All six.
    pub sum_us: f64,
}

/// nats-server was killed, and started again at once. Seconds since the kill.
#[derive(Debug, Serialize)]
pub struct Storm {
    /// Simulated devices.
    pub devices: usize,
    /// The server greets again.
    pub server_back_seconds: f64,
    /// Half of the devices are connected; seen about three times a second.
    pub half_connected_seconds: f64,
    /// All of them are.
    pub connected_seconds: f64,
    /// All of them had their Leases renewed: their sessions work.
    pub leases_renewed_seconds: f64,
    /// Nodes that were not Ready at any time.
    pub nodes_not_ready: usize,
    /// Processor time of all callouts until then.
    pub callout_cpu_seconds: f64,
    /// That of `vk-nats`.
    pub vk_cpu_seconds: f64,
    /// That of all devices.
    pub simulation_cpu_seconds: f64,
}

/// From the deletion of a Node to the moment at which the server lists no connection of its device.
#[derive(Debug, Serialize)]
pub struct Revocation {
    /// Devices that are connected meanwhile.
    pub connected: usize,
    /// In milliseconds.
    pub disconnected: Option<Quantiles>,
}
