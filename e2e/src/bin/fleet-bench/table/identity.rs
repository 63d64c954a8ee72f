//! Logins, revocation and sealing.

use super::Row;
use crate::report::{Authorizations, LogStream, Revocation, Sealed, Sealing, Storm};

fn row(what: &str, ours: String, beside: String, ratio: String, aim: &str) -> Row {
    [what.to_owned(), ours, beside, ratio, aim.to_owned()]
}

fn number(value: f64) -> String {
    format!("{value:.0}")
}

pub fn sealed(sealing: &Sealing) -> Vec<Row> {
    let rows = |what: &str, sealed: &Sealed| {
        let rates = (sealed.seal_megabytes_per_second, sealed.open_megabytes_per_second);
        [
            row(&format!("{what}, MB/s"), number(rates.0), number(rates.1), String::new(), ""),
            row(
                &format!("{what}, µs each"),
                number(sealed.seal_us),
                number(sealed.open_us),
                String::new(),
                "",
            ),
        ]
    };
    let chunks = rows("stream frames of 32 KiB", &sealing.chunks);
    chunks.into_iter().chain(rows("messages of 1 KiB", &sealing.messages)).collect()
}

pub fn log_stream(stream: &LogStream) -> Vec<Row> {
    let tenths = |value: f64| format!("{value:.1}");
    let percent = |value: f64| format!("{value:.0}");
    vec![
        row("kubectl logs, MB/s", tenths(stream.megabytes_per_second), String::new(), String::new(), ""),
        row("CPU, ms/MB", tenths(stream.agent_cpu_ms), tenths(stream.vk_cpu_ms), String::new(), ""),
        row(
            "of it sealing or opening, %, computed",
            percent(stream.computed_sealing_percent_of_agent),
            percent(stream.computed_opening_percent_of_vk),
            String::new(),
            "",
        ),
        row("nats-server's CPU, ms/MB", tenths(stream.nats_server_cpu_ms), String::new(), String::new(), ""),
    ]
}

pub fn authorizations(all: &Authorizations) -> Vec<Row> {
    let (ours, alone, library) = (&all.registry, &all.static_nkey, &all.library);
    let both = |what: &str, ours: f64, alone: f64, aim: &str| {
        let ratio = format!("{:.2}", ours / alone.max(1e-9));
        row(what, format!("{ours:.1}"), format!("{alone:.1}"), ratio, aim)
    };
    let one = |what: &str, value: f64, aim: &str| row(what, number(value), String::new(), String::new(), aim);
    vec![
        both("logins/s, all on this machine", ours.per_second, alone.per_second, ""),
        both("CONNECT → PONG, p50, ms", ours.connect_to_pong.p50, alone.connect_to_pong.p50, ""),
        both("CONNECT → PONG, p99, ms", ours.connect_to_pong.p99, alone.connect_to_pong.p99, "<= 20"),
        both("nats-server's CPU, µs (TLS in it)", ours.server_cpu_us, alone.server_cpu_us, ""),
        one("callout's CPU, µs", all.callout_cpu_us, ""),
        one("logins/s of one core, by its CPU", all.callout_per_core, ">= 3000"),
        one("library alone, µs", library.cpu_us, ""),
        one("library alone, /s of one core", library.per_core, ""),
        one("of it cryptography, µs", library.floor.sum_us, ""),
    ]
}

pub fn storm(storm: &Storm) -> Vec<Row> {
    let seconds = |what: &str, value: f64| row(what, format!("{value:.1}"), String::new(), String::new(), "");
    let not_ready = storm.nodes_not_ready.to_string();
    vec![
        seconds("server greets again, s", storm.server_back_seconds),
        seconds("half are connected, s", storm.half_connected_seconds),
        seconds("all are connected, s", storm.connected_seconds),
        seconds("all Leases are renewed, s", storm.leases_renewed_seconds),
        row("Nodes that were not Ready", not_ready, String::new(), String::new(), "0"),
        seconds("callout's CPU, s", storm.callout_cpu_seconds),
        seconds("vk-nats' CPU, s", storm.vk_cpu_seconds),
        seconds("the devices' CPU, s", storm.simulation_cpu_seconds),
    ]
}

pub fn revocation(revocation: &Revocation) -> Vec<Row> {
    let Some(times) = &revocation.disconnected else { return Vec::new() };
    let seconds = |time: f64| format!("{:.2}", time / 1000.0);
    let what = |which: &str| format!("delete node → no connection, {which}, s ({} devices)", times.count);
    vec![
        row(&what("p50"), seconds(times.p50), String::new(), String::new(), "<= 5"),
        row(&what("longest"), seconds(times.max), String::new(), String::new(), "<= 5"),
    ]
}
