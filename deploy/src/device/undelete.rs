//! `fleet device undelete`: asks the enroller to take a revocation back. The device has its old keys then.

use clap::Args;
use fleet_wire::enrollment::{Record, RecordState, UNDELETE, record_name};
use jiff::Timestamp;

use super::{Named, Waiting};
use crate::{cluster::Cluster, error::FleetError, output::print};

/// `fleet device undelete`
#[derive(Debug, Args)]
pub struct UndeleteArgs {
    #[command(flatten)]
    device: Named,
    #[command(flatten)]
    waiting: Waiting,
}

/// Does it.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn run(cluster: &Cluster, args: UndeleteArgs) -> Result<(), FleetError> {
    let name = args.device.name;
    let record_name = record_name(&name);
    let Some(secret) = cluster.records().find(&record_name).await? else {
        return Err(FleetError::not_found(
            format!("there is no record of {name}: it was never enrolled, or its retention time is over"),
            format!("`fleet device enroll {name}` invites it anew"),
        ));
    };
    let record = Record::parse(&secret).map_err(|error| {
        FleetError::damaged_record(format!("Secret {}/{record_name}", cluster.records_namespace()), &error)
    })?;
    if record.state == RecordState::Enrolled {
        if cluster.nodes().find(name.as_str()).await?.is_some() {
            return print(&format!("{name} is a member: there is nothing to take back\n"));
        }
        return Err(FleetError::refused(
            format!("{name} is just being revoked: its record still says enrolled"),
            "try again in a moment; if it stays so, look at the enroller's log",
        ));
    }
    cluster.records().annotate(&record_name, UNDELETE, &format!("{:.0}", Timestamp::now())).await?;
    if !args.waiting.wait {
        return print(&format!("{name}: its revocation is being taken back\n"));
    }
    cluster
        .records()
        .wait(
            &record_name,
            format!("the return of {name}"),
            "look at the enroller's log".to_owned(),
            args.waiting.timeout,
            |record| {
                record
                    .and_then(|record| Record::parse(record).ok())
                    .is_some_and(|record| record.state == RecordState::Enrolled)
            },
        )
        .await?;
    print(&format!("{name} is a member again\n"))
}
