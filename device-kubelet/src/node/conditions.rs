//! What is right or wrong with the device, as Node conditions.
//!
//! Reasons and messages are those of a kubelet, because tools and people match them. A condition changes
//! only when a threshold is crossed, and back only beyond a second one, so that a value that swings
//! around its limit does not send a status each time. Messages carry no readings for the same reason.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::NodeCondition, apimachinery::pkg::apis::meta::v1::Time};

use super::host::Load;

/// Like a kubelet's `memory.available<100Mi`, in bytes.
pub const MEMORY_RESERVE: u64 = 100 * 1024 * 1024;
/// A sensor that reads so much (in thousandths of a degree) is hot: a Pi slows itself down from 80 °C on.
const HOT: u64 = 80_000;
const COOL: u64 = 75_000;

/// File system on which the device keeps its data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub size: u64,
    /// Bytes free for this user.
    pub available: u64,
    /// Inodes; 0 where the file system has no fixed number.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

/// All that the conditions are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// From `/proc` and the sensors.
    pub load: Load,
    /// `None` when it cannot be looked at.
    pub disk: Option<Disk>,
    /// Why the container runtime cannot be used; `None` when it can.
    pub runtime_problem: Option<String>,
}

/// A limit with a second one for the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Latch(bool);

impl Latch {
    /// Sets at `enter`, resets at `leave`, else stays as it is.
    fn update(&mut self, enter: bool, leave: bool) -> bool {
        self.0 = if self.0 { !leave } else { enter };
        self.0
    }
}

/// Remembers what was said last.
#[derive(Debug, Default)]
pub struct Conditions {
    memory: Latch,
    disk: Latch,
    pids: Latch,
    hot: Latch,
    said: BTreeMap<&'static str, (bool, Timestamp)>,
}

struct Wording {
    type_: &'static str,
    when_true: (&'static str, &'static str),
    when_false: (&'static str, &'static str),
}

const MEMORY: Wording = Wording {
    type_: "MemoryPressure",
    when_true: ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    when_false: ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
};
const DISK: Wording = Wording {
    type_: "DiskPressure",
    when_true: ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    when_false: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
};
const PIDS: Wording = Wording {
    type_: "PIDPressure",
    when_true: ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    when_false: ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
};
const VOLTAGE: Wording = Wording {
    type_: "UnderVoltage",
    when_true: (
        "UnderVoltageDetected",
        "the supply's voltage is too low: use a stronger power supply or a shorter cable",
    ),
    when_false: ("VoltageSufficient", "the supply's voltage is sufficient"),
};
const TEMPERATURE: Wording = Wording {
    type_: "HighTemperature",
    when_true: (
        "TemperatureAboveLimit",
        "a sensor reads 80 °C or more, and the device slows itself down: improve its cooling",
    ),
    when_false: ("TemperatureNormal", "all sensors read less than 80 °C"),
};

impl Conditions {
    /// The conditions after an observation; the order is always the same, `Ready` last as with a kubelet.
    pub fn update(&mut self, seen: &Observation, now: Timestamp) -> Vec<NodeCondition> {
        let load = &seen.load;
        let mut conditions = Vec::new();

        // What cannot be read is not under pressure.
        let memory = load.memory_available.unwrap_or(u64::MAX);
        let pressed = self.memory.update(memory < MEMORY_RESERVE, memory > MEMORY_RESERVE * 5 / 4);
        conditions.push(self.say(&MEMORY, pressed, now));

        let short = |percent_bytes: u64, percent_inodes: u64| {
            seen.disk.is_some_and(|disk| {
                below(disk.available, disk.size, percent_bytes)
                    || (disk.inodes > 0 && below(disk.inodes_free, disk.inodes, percent_inodes))
            })
        };
        // A kubelet's own: nodefs.available<10%, nodefs.inodesFree<5%.
        let pressed = self.disk.update(short(10, 5), !short(12, 7));
        conditions.push(self.say(&DISK, pressed, now));

        let few = |percent: u64| match (load.tasks, load.tasks_max) {
            (Some(tasks), Some(max)) => below(max.saturating_sub(tasks), max, percent),
            _ => false,
        };
        let pressed = self.pids.update(few(10), !few(15));
        conditions.push(self.say(&PIDS, pressed, now));

        if let Some(low) = load.under_voltage {
            conditions.push(self.say(&VOLTAGE, low, now));
        }
        if let Some(temperature) = load.temperature {
            let reading = u64::try_from(temperature).unwrap_or(0);
            let hot = self.hot.update(reading >= HOT, reading < COOL);
            conditions.push(self.say(&TEMPERATURE, hot, now));
        }

        conditions.push(self.ready(seen.runtime_problem.as_deref(), now));
        conditions
    }

    fn ready(&mut self, problem: Option<&str>, now: Timestamp) -> NodeCondition {
        let (reason, message) = match problem {
            None => ("KubeletReady", "kubelet is posting ready status".to_owned()),
            Some(problem) => ("KubeletNotReady", format!("container runtime is down: {problem}")),
        };
        self.condition("Ready", problem.is_none(), reason, &message, now)
    }

    fn say(&mut self, wording: &Wording, status: bool, now: Timestamp) -> NodeCondition {
        let (reason, message) = if status { wording.when_true } else { wording.when_false };
        self.condition(wording.type_, status, reason, message, now)
    }

    fn condition(
        &mut self,
        type_: &'static str,
        status: bool,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> NodeCondition {
        let since = match self.said.get(type_) {
            Some((said, since)) if *said == status => *since,
            _ => {
                self.said.insert(type_, (status, now));
                now
            }
        };
        NodeCondition {
            type_: type_.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(since)),
        }
    }
}

/// Whether `part` is less than so many percent of `whole`.
fn below(part: u64, whole: u64, percent: u64) -> bool {
    u128::from(part) * 100 < u128::from(whole) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn memory(available: u64) -> Observation {
        Observation {
            load: Load { memory_available: Some(available), ..Load::default() },
            ..Observation::default()
        }
    }

    fn find<'a>(conditions: &'a [NodeCondition], type_: &str) -> &'a NodeCondition {
        conditions.iter().find(|condition| condition.type_ == type_).unwrap()
    }

    #[test]
    fn a_healthy_device_says_what_a_kubelet_says() {
        let conditions = Conditions::default().update(&Observation::default(), at(1));
        let said: Vec<_> = conditions
            .iter()
            .map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref().unwrap()))
            .collect();
        assert_eq!(
            said,
            [
                ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                ("PIDPressure", "False", "KubeletHasSufficientPID"),
                ("Ready", "True", "KubeletReady"),
            ]
        );
    }

    #[test]
    fn pressure_ends_only_well_above_its_limit() {
        let mut conditions = Conditions::default();
        let mut status = |available: u64, now: i64| {
            let said = conditions.update(&memory(available), at(now));
            let memory = find(&said, "MemoryPressure").clone();
            (memory.status == "True", memory.last_transition_time.unwrap().0)
        };
        let mib = 1024 * 1024;
        assert_eq!(status(200 * mib, 1), (false, at(1)));
        assert_eq!(status(99 * mib, 2), (true, at(2)));
        assert_eq!(status(110 * mib, 3), (true, at(2)), "above the limit, below the way back");
        assert_eq!(status(130 * mib, 4), (false, at(4)));
        assert_eq!(status(110 * mib, 5), (false, at(4)));
    }

    #[test]
    fn a_full_disk_and_used_up_inodes_are_pressure() {
        let full = Disk { size: 100, available: 9, inodes: 100, inodes_free: 50 };
        let inodes = Disk { size: 100, available: 50, inodes: 100, inodes_free: 4 };
        let btrfs = Disk { size: 100, available: 50, inodes: 0, inodes_free: 0 };
        for (disk, expected) in [(full, "True"), (inodes, "True"), (btrfs, "False")] {
            let seen = Observation { disk: Some(disk), ..Observation::default() };
            let said = Conditions::default().update(&seen, at(1));
            assert_eq!(find(&said, "DiskPressure").status, expected, "{disk:?}");
        }
    }

    #[test]
    fn a_silent_runtime_makes_the_node_not_ready() {
        let seen = Observation { runtime_problem: Some("no answer".into()), ..Observation::default() };
        let said = Conditions::default().update(&seen, at(1));
        let ready = find(&said, "Ready");
        assert_eq!(ready.status, "False");
        assert_eq!(ready.reason.as_deref(), Some("KubeletNotReady"));
        assert!(ready.message.as_deref().unwrap().contains("no answer"));
    }

    #[test]
    fn sensors_speak_only_where_they_exist() {
        let mut conditions = Conditions::default();
        let seen = |temperature| Observation {
            load: Load { temperature: Some(temperature), under_voltage: Some(true), ..Load::default() },
            ..Observation::default()
        };
        let said = conditions.update(&seen(81_000), at(1));
        assert_eq!(find(&said, "HighTemperature").status, "True");
        assert_eq!(find(&said, "UnderVoltage").status, "True");
        assert_eq!(find(&conditions.update(&seen(78_000), at(2)), "HighTemperature").status, "True");
        assert_eq!(find(&conditions.update(&seen(74_000), at(3)), "HighTemperature").status, "False");
        assert_eq!(find(&conditions.update(&seen(-5_000), at(4)), "HighTemperature").status, "False");
    }
}
