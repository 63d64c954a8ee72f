//! On what machine, and how busy it was.

use serde::Serialize;

#[derive(Debug, Default, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub system: String,
    pub kernel: String,
    pub load_before: String,
    pub measured_at: String,
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What stands after a name and `:` or `=`.
fn after(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
    line.trim_matches(|letter: char| letter.is_whitespace() || ":=\"".contains(letter)).to_owned()
}

pub fn load() -> String {
    text("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

impl Machine {
    pub fn now() -> Self {
        Self {
            processor: after(&text("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            system: after(&text("/etc/os-release"), "PRETTY_NAME"),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load(),
            measured_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}
