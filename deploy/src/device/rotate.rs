//! `fleet device rotate`: asks a device for new keys of its own. The device makes them, the enroller takes
//! them.

use clap::Args;
use fleet_wire::enrollment::{FINGERPRINT, IDENTITY_KEY, ROTATE_KEYS};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;

use super::{Named, Waiting, look, rows::State};
use crate::{
    cluster::Cluster,
    error::FleetError,
    output::{note, plain, print},
};

/// `fleet device rotate`
#[derive(Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    device: Named,
    #[command(flatten)]
    waiting: Waiting,
}

/// Does it.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn run(cluster: &Cluster, args: RotateArgs) -> Result<(), FleetError> {
    let name = args.device.name;
    let (device, _) = look::one(cluster, &name).await?;
    match device.state {
        Some(State::Ready) => {}
        Some(State::NotReady) => note(&format!("{name} is not ready: it rotates when it is back")),
        state => {
            return Err(FleetError::refused(
                format!("{name} is no member: {}", state.map_or("", State::words)),
                format!("`fleet device show {name}` says what to do"),
            ));
        }
    }
    let before =
        cluster.nodes().annotate(name.as_str(), ROTATE_KEYS, &format!("{:.0}", Timestamp::now())).await?;
    let before = identity(&before).map(str::to_owned);
    if !args.waiting.wait {
        return print(&format!("{name} is asked for new keys\n"));
    }
    let node = cluster
        .nodes()
        .wait(
            name.as_str(),
            format!("the rotation of {name}'s keys"),
            format!("`fleet device show {name}`; it is done when the device connects"),
            args.waiting.timeout,
            |node| node.is_some_and(|node| identity(node) != before.as_deref()),
        )
        .await?;
    let fingerprint = node.and_then(|node| node.metadata.annotations?.remove(FINGERPRINT));
    print(&format!("{name} has new keys: {}\n", fingerprint.as_deref().map(plain).unwrap_or_default()))
}

fn identity(node: &Node) -> Option<&str> {
    node.metadata.annotations.as_ref()?.get(IDENTITY_KEY).map(String::as_str)
}
