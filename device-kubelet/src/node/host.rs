//! What the files of the device's system say: parsers, pure over the files' contents.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A value of `/proc/meminfo` in bytes.
pub fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Logical processors of `/proc/cpuinfo`.
pub fn processors(text: &str) -> usize {
    text.lines()
        .filter(|line| line.split_once(':').is_some_and(|(key, _)| key.trim() == "processor"))
        .filter(|line| line.split_once(':').is_some_and(|(_, value)| value.trim().parse::<u32>().is_ok()))
        .count()
}

/// `PRETTY_NAME` of `/etc/os-release`, as os-release(5) quotes it; `Linux` if there is none, as it says.
pub fn os_image(text: &str) -> String {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))
        .map(unquote)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "Linux".to_owned())
}

fn unquote(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(value);
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

/// Number of tasks (processes and threads) of `/proc/loadavg`.
pub fn tasks(text: &str) -> Option<u64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// The architecture in Go's words, which Kubernetes uses.
pub fn go_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "mips64" => "mips64le",
        "loongarch64" => "loong64",
        same => same,
    }
}

/// A device tree's text ends with a NUL.
pub fn text(content: &str) -> &str {
    content.trim_matches(|c: char| c.is_whitespace() || c == '\0')
}

/// Where the system's files lie: `/` on a device, a folder of recorded files in tests.
#[derive(Debug, Clone)]
pub struct HostFiles {
    root: PathBuf,
}

/// What stays the same until the next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The board's own id where it has one, else the machine id.
    pub system_uuid: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `/proc/sys/kernel/osrelease`.
    pub kernel: String,
    /// From `/etc/os-release`.
    pub os_image: String,
    /// Logical processors.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap; `None` without swap.
    pub swap: Option<u64>,
}

/// What changes all the time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// `MemAvailable` in bytes.
    pub memory_available: Option<u64>,
    /// Running processes and threads.
    pub tasks: Option<u64>,
    /// Most processes and threads.
    pub tasks_max: Option<u64>,
    /// A sensor of the supply's voltage says that it is too low; `None` without such a sensor.
    pub under_voltage: Option<bool>,
    /// The hottest sensor in thousandths of a degree Celsius; `None` without sensors.
    pub temperature: Option<i64>,
}

impl HostFiles {
    /// The files of this system.
    pub fn system() -> Self {
        Self::at("/")
    }

    /// Files below a folder.
    pub fn at(root: impl AsRef<Path>) -> Self {
        Self { root: root.as_ref().to_owned() }
    }

    /// What stays the same until the next boot.
    pub fn machine(&self) -> Machine {
        let machine_id = self.first(&["etc/machine-id", "var/lib/dbus/machine-id"]).unwrap_or_default();
        let system_uuid = self
            .first(&[
                "sys/class/dmi/id/product_uuid",
                "proc/device-tree/vm,uuid",
                "proc/device-tree/serial-number",
            ])
            .unwrap_or_else(|| machine_id.clone());
        let meminfo_text = self.read("proc/meminfo").unwrap_or_default();
        Machine {
            system_uuid,
            boot_id: self.first(&["proc/sys/kernel/random/boot_id"]).unwrap_or_default(),
            kernel: self.first(&["proc/sys/kernel/osrelease"]).unwrap_or_default(),
            os_image: os_image(
                &self.read("etc/os-release").or_else(|| self.read("usr/lib/os-release")).unwrap_or_default(),
            ),
            processors: self.read("proc/cpuinfo").map(|text| processors(&text)).unwrap_or_default().max(1),
            memory: meminfo(&meminfo_text, "MemTotal").unwrap_or_default(),
            swap: meminfo(&meminfo_text, "SwapTotal").filter(|bytes| *bytes > 0),
            machine_id,
        }
    }

    /// What changes all the time. Sensors that were found once are asked by their path.
    pub fn load(&self, sensors: &Sensors) -> Load {
        let limits = ["proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max"];
        Load {
            memory_available: self.read("proc/meminfo").and_then(|text| meminfo(&text, "MemAvailable")),
            tasks: self.read("proc/loadavg").and_then(|text| tasks(&text)),
            tasks_max: limits.iter().filter_map(|path| self.number(path)).min().map(i64::unsigned_abs),
            under_voltage: sensors
                .under_voltage
                .iter()
                .filter_map(|path| number(path))
                .map(|alarm| alarm != 0)
                .reduce(|any, alarm| any || alarm),
            temperature: sensors.temperature.iter().filter_map(|path| number(path)).max(),
        }
    }

    /// Looks for sensors.
    pub fn sensors(&self) -> Sensors {
        let under_voltage = self
            .folders("sys/class/hwmon")
            .into_iter()
            .filter(|folder| {
                fs::read_to_string(folder.join("name")).is_ok_and(|name| text(&name) == "rpi_volt")
            })
            .map(|folder| folder.join("in0_lcrit_alarm"))
            .collect();
        let temperature = self
            .folders("sys/class/thermal")
            .into_iter()
            .map(|folder| folder.join("temp"))
            .filter(|path| number(path).is_some())
            .collect();
        Sensors { under_voltage, temperature }
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = fs::read_dir(self.root.join(path))
            .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
            .unwrap_or_default();
        folders.sort();
        folders
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn number(&self, path: &str) -> Option<i64> {
        number(&self.root.join(path))
    }

    fn first(&self, paths: &[&str]) -> Option<String> {
        paths
            .iter()
            .filter_map(|path| self.read(path))
            .map(|content| text(&content).to_owned())
            .find(|content| !content.is_empty())
    }
}

/// Files of the sensors that the device has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sensors {
    under_voltage: Vec<PathBuf>,
    temperature: Vec<PathBuf>,
}

fn number(path: &Path) -> Option<i64> {
    text(&fs::read_to_string(path).ok()?).parse().ok()
}

#[cfg(test)]
#[path = "tests/host.rs"]
mod tests;
