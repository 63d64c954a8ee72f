//! `fleet device revoke`: deletes the Node. The callout stops admitting the device at that moment; the
//! enroller ends its connections and writes down the revocation.

use clap::Args;
use fleet_wire::enrollment::{DEVICE_LABEL, Record, RecordState, record_name};

use super::{Named, Waiting, look};
use crate::{ask::confirm, cluster::Cluster, error::FleetError, output::print};

/// `fleet device revoke`
#[derive(Debug, Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    device: Named,
    /// Revoke without a question.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// Does it.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn run(cluster: &Cluster, args: RevokeArgs) -> Result<(), FleetError> {
    let name = args.device.name;
    let node = cluster.nodes().find(name.as_str()).await?;
    let record = cluster.records().find(&record_name(&name)).await?;
    let Some(node) = node else {
        return match record.as_ref().map(Record::parse) {
            None => Err(look::unknown(&name)),
            Some(Ok(Record { state: RecordState::Revoked(at), .. })) => {
                print(&format!("{name} was revoked at {at}\n"))
            }
            Some(_) => wait(cluster, &name, &args.waiting).await,
        };
    };
    if !look::is_device(&node) {
        return Err(FleetError::refused(
            format!("Node {name} is no device: it lacks the label {DEVICE_LABEL}"),
            "devices are listed by `fleet device list`",
        ));
    }
    if !args.yes {
        confirm(
            &format!("Revoke {name}? It stops its pods, erases its secrets, and is let in no more."),
            "--yes",
        )?;
    }
    cluster.nodes().delete(name.as_str(), node.metadata.uid).await?;
    if record.is_none() {
        return print(&format!("Node {name} is deleted; it had no record\n"));
    }
    wait(cluster, &name, &args.waiting).await
}

async fn wait(
    cluster: &Cluster,
    name: &fleet_wire::name::DeviceName,
    waiting: &Waiting,
) -> Result<(), FleetError> {
    if !waiting.wait {
        return print(&format!("{name} is being revoked: its Node is deleted\n"));
    }
    cluster
        .records()
        .wait(
            &record_name(name),
            format!("the revocation of {name}"),
            "its Node is deleted, so it is let in no more; look at the enroller's log".to_owned(),
            waiting.timeout,
            |record| {
                record
                    .and_then(|record| Record::parse(record).ok())
                    .is_some_and(|record| record.state != RecordState::Enrolled)
            },
        )
        .await?;
    print(&format!("{name} is revoked; `fleet device undelete {name}` takes it back\n"))
}
