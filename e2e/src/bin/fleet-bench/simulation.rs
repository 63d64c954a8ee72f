//! The simulated devices' process, and what enrolls them.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use e2e::answer;
use e2e::bench::simulated::{DevicePublicKeys, Plan};
use e2e::binaries;
use e2e::fleet::Fleet;
use e2e::process::{Process, Spec, write_json};
use fleet_wire::enrollment::Enrollment;

/// Makes the devices' folders and keys, and enrolls them with a label; gives the process that is them. The
/// label's value is also what their names begin with.
pub async fn prepare(fleet: &Fleet, devices: usize, label: (&str, &str)) -> Result<Process> {
    let folder = fleet.folder().join(label.1);
    fs::create_dir_all(&folder)?;
    // In memory: each real device has a disk of its own. Goes with the fleet's folder.
    answer::run("mount", ["-t", "tmpfs", "harmony-fleet-sim", &folder.display().to_string()]).await?;
    let keys = fleet.keys()?;
    let plan = Plan {
        devices,
        prefix: label.1.to_owned(),
        nats_url: fleet.nats.url(),
        nats_ca_file: fleet.nats.ca_file(),
        fleet_root_key: keys.root_public()?,
        fleet_keys_file: keys.statement(),
        images: vec!["localhost/hello:v1".to_owned()],
        folder: folder.clone(),
    };
    let file = Plan::file(&folder);
    write_json(&file, &plan)?;

    let (program, file) = (binaries::own("fleet-sim")?, file.display().to_string());
    let made: Vec<DevicePublicKeys> = serde_json::from_str(&answer::run(&program, ["keys", &file]).await?)?;
    let labels = BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]);
    let enrollments = made
        .into_iter()
        .map(|keys| {
            Ok(Enrollment {
                device: keys.name.parse()?,
                identity_key: keys.identity.parse()?,
                curve_key: keys.curve.parse()?,
                subject: None,
                labels: labels.clone(),
                taint: true,
                pod_cidr: None,
                report_pod_ip: false,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    fleet.enroll_all(&enrollments).await?;
    let spec = Spec {
        name: format!("fleet-sim-{}", label.1),
        program,
        args: vec!["run".to_owned(), file],
        env: BTreeMap::new(),
        netns: Some(fleet.network.cluster()),
    };
    Ok(Process::new(fleet.folder(), spec))
}
