//! Termination messages: what a container wrote about its end.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use super::desired::Desired;
use crate::{
    runtime::{Container, ContainerState},
    volumes::PodDirs,
};

/// Longest message, as for a kubelet.
const MAX_MESSAGE: u64 = 4096;
/// Longest message taken from a log, and most lines.
const MAX_LOG: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// Reads the message of a container that ended; empty if there is none.
pub fn read(desired: &Desired, dirs: &PodDirs, ended: &Container) -> String {
    let message = tail(&dirs.last_words(ended.name.as_str(), ended.attempt), MAX_MESSAGE, false);
    let failed = matches!(ended.state, ContainerState::Exited { exit_code, .. } if exit_code != 0);
    let from_log = desired.container(ended.name.as_str()).is_some_and(|(_, container)| {
        container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
    });
    match message {
        Some(message) if !message.is_empty() => message,
        _ if failed && from_log => {
            // Lines of the log carry a time, a stream and a flag, which belong to nobody's message.
            let log = tail(&ended.log_path, 4 * MAX_LOG, true).unwrap_or_default();
            let lines: Vec<&str> =
                log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or(line)).collect();
            let text = lines[lines.len().saturating_sub(MAX_LOG_LINES)..].join("\n");
            let mut start = text.len().saturating_sub(MAX_LOG as usize);
            while !text.is_char_boundary(start) {
                start += 1;
            }
            text[start..].to_owned()
        }
        _ => String::new(),
    }
}

/// The last `max` bytes; of a log, whole lines of them.
fn tail(path: &Path, max: u64, log: bool) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let cut = size > max;
    if cut {
        file.seek(SeekFrom::Start(size - max)).ok()?;
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // The first line of a cut log is not whole.
    Some(if cut && log {
        text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned())
    } else {
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_too_long_is_told_by_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0");
        std::fs::write(&path, "first line\nlast words").unwrap();
        assert_eq!(tail(&path, 12, false).as_deref(), Some("e\nlast words"));
        assert_eq!(tail(&path, 12, true).as_deref(), Some("last words"));
        assert_eq!(tail(&path, MAX_MESSAGE, false).as_deref(), Some("first line\nlast words"));
        assert_eq!(tail(&folder.path().join("none"), MAX_MESSAGE, false), None);
    }
}
