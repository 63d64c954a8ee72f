//! Answers as tables, in kubectl's manner.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Deserialize;

use super::AgentStatus;

/// One pod of the answer to `pods`, as far as the table shows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    namespace: String,
    name: String,
    ready: u32,
    containers: u32,
    status: String,
    restarts: u32,
    started: Option<Timestamp>,
    ip: Option<String>,
}

/// The pods of the device.
pub fn pods(rows: &[PodRow], now: Timestamp) -> String {
    if rows.is_empty() {
        return "No pods on this device.\n".to_owned();
    }
    let header = ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP"].map(str::to_owned);
    let rows = rows.iter().map(|pod| {
        [
            pod.namespace.clone(),
            pod.name.clone(),
            format!("{}/{}", pod.ready, pod.containers),
            pod.status.clone(),
            pod.restarts.to_string(),
            pod.started.map_or_else(|| "<unknown>".to_owned(), |started| age(started, now)),
            pod.ip.clone().unwrap_or_else(|| "<none>".to_owned()),
        ]
    });
    columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// The state of the agent.
pub fn status(status: &AgentStatus, now: Timestamp) -> String {
    let nats = if status.nats.connected { "connected" } else { "not reachable, trying again" };
    let session = match (status.session.open, status.session.since) {
        (true, Some(since)) => format!("open for {}", age(since, now)),
        (true, None) => "open".to_owned(),
        (false, _) => "closed: the device runs what it was told last".to_owned(),
    };
    let mut rows = vec![
        ["Device".to_owned(), status.name.clone()],
        [
            "Agent".to_owned(),
            format!("{}, up {}, pid {}", status.version, age(status.started, now), status.pid),
        ],
        ["NATS".to_owned(), format!("{} ({nats})", status.nats.url)],
        ["Session".to_owned(), session],
    ];
    if let Some(revoked) = &status.revoked {
        rows.push([
            "Revoked".to_owned(),
            format!(
                "{} ago: {}. To use it again, `fleet device undelete {}`, or enroll it anew",
                age(revoked.at, now),
                revoked.reason,
                status.name
            ),
        ]);
    }
    if let Some(version) = &status.session.cluster_version {
        rows.push(["Cluster side".to_owned(), version.clone()]);
    }
    if let Some(problem) = &status.session.problem {
        rows.push(["Problem".to_owned(), problem.clone()]);
    }
    rows.push(["Runtime".to_owned(), status.runtime.clone().unwrap_or_else(|| "unknown".to_owned())]);
    rows.push(["Pods".to_owned(), status.pods.to_string()]);
    rows.push([
        "Desired state".to_owned(),
        format!("epoch {}, sequence {}", status.desired.epoch, status.desired.sequence),
    ]);
    for condition in &status.conditions {
        rows.push([condition.type_.clone(), format!("{} ({})", condition.status, condition.message)]);
    }
    columns(&rows)
}

/// Columns, three spaces apart.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How long ago, with the one or two units that matter.
fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        120..7_200 => format!("{minutes}m"),
        7_200..28_800 if minutes % 60 > 0 => format!("{hours}h{}m", minutes % 60),
        7_200..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ages_are_short() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let shown = [0, 119, 125, 180, 700, 7_200, 7_260, 100_000, 200_000].map(|age_| age(at(0), at(age_)));
        assert_eq!(shown, ["0s", "119s", "2m5s", "3m", "11m", "2h", "2h1m", "27h", "2d"]);
        assert_eq!(age(at(100), at(0)), "0s", "a clock that was set back");
    }

    #[test]
    fn pods_are_shown_as_kubectl_shows_them() {
        let json = r#"[{"namespace":"default","name":"web-1","uid":"u","ready":1,"containers":2,
            "status":"CrashLoopBackOff","restarts":3,"started":null,"ip":null,"phase":"x"}]"#;
        let rows: Vec<PodRow> = serde_json::from_str(json).unwrap();
        assert_eq!(
            pods(&rows, Timestamp::UNIX_EPOCH),
            "NAMESPACE   NAME    READY   STATUS             RESTARTS   AGE         IP\n\
             default     web-1   1/2     CrashLoopBackOff   3          <unknown>   <none>\n"
        );
        assert!(pods(&[], Timestamp::UNIX_EPOCH).contains("No pods"));
    }
}
