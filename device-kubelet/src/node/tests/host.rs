//! The parsers against files as a Raspberry Pi 4 with Raspberry Pi OS has them.

#![allow(clippy::unwrap_used)]

use super::*;

const MEMINFO: &str = "MemTotal:        3884364 kB\nMemFree:         2531844 kB\nMemAvailable:    3383332 kB\n\
                       Buffers:           63520 kB\nSwapTotal:        102396 kB\nSwapFree:         102396 kB\n";
const CPUINFO: &str = "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\n\n\
                       processor\t: 1\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\n\n\
                       processor\t: 2\nBogoMIPS\t: 108.00\n\nprocessor\t: 3\nBogoMIPS\t: 108.00\n\n\
                       Hardware\t: BCM2835\nRevision\t: c03114\nSerial\t\t: 10000000a1b2c3d4\n\
                       Model\t\t: Raspberry Pi 4 Model B Rev 1.4\n";
// The 32-bit kernel of an older Pi names its model where others number their processors.
const CPUINFO_ARMV6: &str = "processor\t: 0\nmodel name\t: ARMv6-compatible processor rev 7 (v6l)\n\
                             Processor\t: ARMv6\n";
const OS_RELEASE: &str =
    "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nID=debian\n";

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn pi(root: &Path) {
    write(root, "proc/meminfo", MEMINFO);
    write(root, "proc/cpuinfo", CPUINFO);
    write(root, "proc/loadavg", "0.08 0.03 0.01 1/183 2211\n");
    write(root, "proc/sys/kernel/pid_max", "4194304\n");
    write(root, "proc/sys/kernel/threads-max", "29562\n");
    write(root, "proc/sys/kernel/osrelease", "6.6.31+rpt-rpi-v8\n");
    write(root, "proc/sys/kernel/random/boot_id", "7a4f9a52-0a7c-4f4e-a5d4-6a7d9d6f1b11\n");
    write(root, "proc/device-tree/serial-number", "10000000a1b2c3d4\0");
    write(root, "etc/machine-id", "b08dfa6083e7567a1921a715000001fb\n");
    write(root, "etc/os-release", OS_RELEASE);
    write(root, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n");
    write(root, "sys/class/hwmon/hwmon1/name", "rpi_volt\n");
    write(root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n");
    write(root, "sys/class/thermal/thermal_zone0/temp", "48199\n");
    write(root, "sys/class/thermal/cooling_device0/type", "fan\n");
}

#[test]
fn a_pi_is_recognized() {
    let dir = tempfile::tempdir().unwrap();
    pi(dir.path());
    let machine = HostFiles::at(dir.path()).machine();
    assert_eq!(
        machine,
        Machine {
            machine_id: "b08dfa6083e7567a1921a715000001fb".into(),
            system_uuid: "10000000a1b2c3d4".into(),
            boot_id: "7a4f9a52-0a7c-4f4e-a5d4-6a7d9d6f1b11".into(),
            kernel: "6.6.31+rpt-rpi-v8".into(),
            os_image: "Debian GNU/Linux 12 (bookworm)".into(),
            processors: 4,
            memory: 3_884_364 * 1024,
            swap: Some(102_396 * 1024),
        }
    );
}

#[test]
fn its_sensors_are_found_and_read() {
    let dir = tempfile::tempdir().unwrap();
    pi(dir.path());
    let files = HostFiles::at(dir.path());
    let sensors = files.sensors();
    assert_eq!(
        files.load(&sensors),
        Load {
            memory_available: Some(3_383_332 * 1024),
            tasks: Some(183),
            tasks_max: Some(29_562),
            under_voltage: Some(false),
            temperature: Some(48_199),
        }
    );
    write(dir.path(), "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n");
    assert_eq!(files.load(&sensors).under_voltage, Some(true));
}

#[test]
fn an_empty_system_is_no_reason_to_fail() {
    let dir = tempfile::tempdir().unwrap();
    let files = HostFiles::at(dir.path());
    let machine = files.machine();
    assert_eq!((machine.processors, machine.memory, machine.os_image.as_str()), (1, 0, "Linux"));
    assert_eq!(files.load(&files.sensors()), Load::default());
}

#[test]
fn a_machine_without_a_board_id_is_known_by_its_machine_id() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "etc/machine-id", "b08dfa6083e7567a1921a715000001fb\n");
    write(dir.path(), "sys/class/dmi/id/product_uuid", "");
    assert_eq!(HostFiles::at(dir.path()).machine().system_uuid, "b08dfa6083e7567a1921a715000001fb");
}

#[test]
fn odd_contents_are_survived() {
    assert_eq!(meminfo("MemTotal: x kB", "MemTotal"), None);
    assert_eq!(meminfo("MemTotal: 18446744073709551615 kB", "MemTotal"), None);
    assert_eq!(meminfo("MemTotalExtra: 1 kB", "MemTotal"), None);
    assert_eq!(processors(CPUINFO_ARMV6), 1);
    assert_eq!(os_image("PRETTY_NAME='Raspbian \\$x'"), "Raspbian $x");
    assert_eq!(os_image("PRETTY_NAME=Alpine"), "Alpine");
    assert_eq!(os_image("PRETTY_NAME=\"\"\n"), "Linux");
    assert_eq!(tasks("0.08 0.03"), None);
    assert_eq!(go_architecture("aarch64"), "arm64");
    assert_eq!(go_architecture("arm"), "arm");
}
