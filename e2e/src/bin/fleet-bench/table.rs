//! The results for a terminal.

use std::fmt::Write as _;

use crate::report::{Idle, Phase, Pods, Report, Scale};

mod identity;

/// One figure: what, ours, theirs, the ratio or difference, the aim.
pub type Row = [String; 5];

/// The whole report.
pub fn of(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}, {} cores, {} MiB, {}, Linux {}, {}\nload {} before, {} after; {}\n",
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.system,
        machine.kernel,
        machine.podman,
        machine.load_before,
        report.load_after,
        machine.measured_at,
    );
    if let Some(pods) = &report.pods {
        write(&mut text, ["Pod start, ms", "fleet", "podman", "ratio", "aim"], &starts(pods));
    }
    if let Some(idle) = &report.idle {
        let head = ["Idle, one pod", "device-kubelet", "podman service", "", "aim"];
        write(&mut text, head, &idle_rows(idle));
    }
    if let Some(sealing) = &report.sealing {
        let head = ["Sealing, processor time of one core", "seal", "open", "", "aim"];
        write(&mut text, head, &identity::sealed(sealing));
        let head = ["Log stream, all of it sealed", "device-kubelet", "vk-nats", "", "aim"];
        write(&mut text, head, &identity::log_stream(&sealing.stream));
    }
    if let Some(authorizations) = &report.authorizations {
        let head = ["Logins of devices", "callout", "server alone", "ratio", "aim"];
        write(&mut text, head, &identity::authorizations(authorizations));
    }
    if let Some(storm) = &report.storm {
        let title = format!("{} devices lose the server", storm.devices);
        write(&mut text, [&title, "", "", "", "aim"], &identity::storm(storm));
    }
    if let Some(revocation) = &report.revocation {
        let title = format!("Revocation, {} devices connected", revocation.connected);
        write(&mut text, [&title, "", "", "", "aim"], &identity::revocation(revocation));
    }
    if let Some(scale) = &report.scale {
        let title = format!("{} devices, {} pods", scale.devices, scale.pods);
        write(&mut text, [&title, "vk-nats", "kwok", "ratio", "aim"], &scale_rows(scale));
    }
    text
}

fn starts(pods: &Pods) -> Vec<Row> {
    let (ours, podman) = (&pods.created_to_running, &pods.podman_pod_create_and_run);
    let over = |ours: f64, theirs: f64| format!("{:.2}", ours / theirs.max(1e-9));
    let row = |what: &str, ours: f64, theirs: Option<f64>, aim: &str| -> Row {
        let ratio = theirs.map(|theirs| over(ours, theirs)).unwrap_or_default();
        let theirs = theirs.map(|theirs| format!("{theirs:.0}")).unwrap_or_default();
        [what.to_owned(), format!("{ours:.0}"), theirs, ratio, aim.to_owned()]
    };
    let within = format!("<= {:.0}", podman.p50 + 100.0);
    vec![
        row("created → Running, p50 (podman pod create + run)", ours.p50, Some(podman.p50), &within),
        row("created → Running, p99", ours.p99, Some(podman.p99), "<= 800"),
        row(
            "bound → Running, p50 (podman run alone)",
            pods.bound_to_running.p50,
            Some(pods.podman_run.p50),
            "",
        ),
        row(
            "delete → gone, p50 (podman pod stop + rm)",
            pods.delete_to_gone.p50,
            Some(pods.podman_pod_remove.p50),
            "<= 1030",
        ),
        row("delete → gone, p99", pods.delete_to_gone.p99, Some(pods.podman_pod_remove.p99), ""),
    ]
}

fn idle_rows(idle: &Idle) -> Vec<Row> {
    let row = |what: &str, ours: String, podman: String, aim: &str| -> Row {
        [what.to_owned(), ours, podman, String::new(), aim.to_owned()]
    };
    vec![
        row("PSS, MiB", mib(idle.memory.pss_kib), mib(idle.podman_service_memory.pss_kib), "<= 8.0"),
        row(
            "of it no file's, MiB",
            mib(idle.memory.pss_anon_kib),
            mib(idle.podman_service_memory.pss_anon_kib),
            "",
        ),
        row(
            "CPU, % of a core",
            format!("{:.2}", idle.used.cpu_percent),
            format!("{:.2}", idle.podman_service_used.cpu_percent),
            "<= 0.20",
        ),
        row(
            "wake-ups/min",
            format!("{:.0}", idle.wake_ups_per_minute),
            format!("{:.0}", idle.podman_service_wake_ups_per_minute),
            "",
        ),
        row("sent, bytes/min on the wire", format!("{:.0}", idle.sent_bytes_per_minute), String::new(), ""),
        row(
            "received, bytes/min on the wire",
            format!("{:.0}", idle.received_bytes_per_minute),
            String::new(),
            "",
        ),
        row(
            "written to disk, bytes/min",
            format!("{:.0}", idle.disk_written_bytes_per_minute),
            String::new(),
            "0",
        ),
    ]
}

fn scale_rows(scale: &Scale) -> Vec<Row> {
    let (ours, theirs, ratios) = (&scale.vk_nats, &scale.kwok, &scale.ratios);
    let rate = |what: &str, ours: &Phase, theirs: &Phase, ratio: f64| -> Row {
        let number = |phase: &Phase| format!("{:.0}", phase.per_second);
        [what.to_owned(), number(ours), number(theirs), format!("{ratio:.2}"), ">= 1".to_owned()]
    };
    let less = |what: &str, ours: String, theirs: String, ratio: Option<f64>, aim: &str| -> Row {
        let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        [what.to_owned(), ours, theirs, ratio, aim.to_owned()]
    };
    let ms = |time: f64| format!("{time:.0}");
    vec![
        rate("Nodes Ready/s", &ours.nodes_ready, &theirs.nodes_ready, ratios.nodes_per_second),
        rate("pods to Running/s", &ours.pods_running, &theirs.pods_running, ratios.pods_per_second),
        less(
            "bound by the scheduler/s meanwhile",
            ms(ours.pods_bound_per_second),
            ms(theirs.pods_bound_per_second),
            None,
            "",
        ),
        less(
            "bound → Running, p50, ms",
            ms(ours.bound_to_running.p50),
            ms(theirs.bound_to_running.p50),
            None,
            "",
        ),
        less(
            "bound → Running, p99, ms",
            ms(ours.bound_to_running.p99),
            ms(theirs.bound_to_running.p99),
            None,
            "",
        ),
        rate("deletes/s", &ours.pods_deleted, &theirs.pods_deleted, ratios.deletes_per_second),
        less(
            "RSS, MiB",
            mib(ours.memory.rss_kib),
            mib(theirs.memory.rss_kib),
            Some(ratios.memory_rss),
            "<= 1",
        ),
        less(
            "highest RSS, MiB",
            mib(ours.memory.peak_rss_kib),
            mib(theirs.memory.peak_rss_kib),
            Some(ratios.memory_peak_rss),
            "<= 1",
        ),
        less(
            "idle CPU, % of a core",
            format!("{:.1}", ours.idle.cpu_percent),
            format!("{:.1}", theirs.idle.cpu_percent),
            Some(ratios.idle_cpu),
            "",
        ),
        less(
            "CPU for all pods, s (fleet-sim's own beside it)",
            format!(
                "{:.1} ({:.1})",
                ours.pods_running.cpu_seconds, scale.simulation.pods_running_cpu_seconds
            ),
            format!("{:.1}", theirs.pods_running.cpu_seconds),
            Some(ratios.pods_cpu),
            "",
        ),
    ]
}

fn mib(kib: u64) -> String {
    format!("{:.1}", f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0)
}

fn write(text: &mut String, head: [&str; 5], rows: &[Row]) {
    let head: Row = head.map(str::to_owned);
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| lines().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    text.push('\n');
    for row in lines() {
        let [what, numbers @ ..] = row;
        let mut line = format!("{what:<width$}", width = widths[0]);
        for (number, width) in numbers.iter().zip(&widths[1..]) {
            // Writing to a String does not fail.
            let _ = write!(line, "  {number:>width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
