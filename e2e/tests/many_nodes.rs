//! More devices than the cluster has pod CIDRs for: all share one block, and the controller manager is
//! content with that, also after a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::control_plane::ControlPlaneOptions;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::wait::{Look, stays, until};
use fleet_wire::enrollment::Enrollment;
use nkeys::{KeyPair, XKey};

const CLUSTER_CIDR: &str = "10.200.0.0/16";
/// Reserved for devices: one of the 256 blocks that the cluster's CIDR has.
const DEVICES_CIDR: &str = "10.200.255.0/24";
const DEVICES: usize = 300;

scenarios!(
    options();
    three_hundred_devices_share_one_block,
);

fn options() -> FleetOptions {
    let mut options = FleetOptions::with_devices([]).bare();
    options.control_plane = ControlPlaneOptions {
        allocate_node_cidrs: Some(CLUSTER_CIDR.to_owned()),
        ..ControlPlaneOptions::default()
    };
    options.pod_cidr = Some(DEVICES_CIDR.to_owned());
    options
}

async fn three_hundred_devices_share_one_block(fleet: &Fleet) -> Result<()> {
    let enrollments = (0..DEVICES)
        .map(|number| {
            Ok(Enrollment {
                device: format!("pi-{number}").parse()?,
                identity_key: KeyPair::new_user().public_key().parse()?,
                curve_key: XKey::new().public_key().parse()?,
                subject: None,
                labels: BTreeMap::new(),
                taint: true,
                pod_cidr: fleet.options.pod_cidr.clone(),
                report_pod_ip: false,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    fleet.enroll_all(&enrollments).await?;
    let manager = &fleet.control_plane.controller_manager;
    manager.restart(Duration::from_secs(30)).await?;

    // A server that joins afterwards still gets a block of its own.
    let server = r#"{ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "server" } }"#;
    fleet.kubectl.apply(server).await?;
    let block = until("the server's own block", Duration::from_secs(60), async || {
        let node = fleet.kubectl.json("get node server").await?;
        Ok(match node["spec"]["podCIDR"].as_str() {
            Some(block) => Look::Done(block.to_owned()),
            None => Look::not_yet(&node["spec"]),
        })
    })
    .await?;
    ensure!(block != DEVICES_CIDR, "the server got the devices' block");

    let nodes = fleet.kubectl.json("get nodes --selector fleet.harmony.io/device=true").await?;
    let nodes = nodes["items"].as_array().context("no nodes")?;
    ensure!(nodes.len() == DEVICES, "{} nodes", nodes.len());
    for node in nodes {
        ensure!(node["spec"]["podCIDR"] == DEVICES_CIDR, "{}", node["spec"]);
    }
    stays("the controller manager", Duration::from_secs(5), async || {
        Ok(if manager.is_running() { Look::Done(()) } else { Look::not_yet(manager.log_tail(5)) })
    })
    .await
}
