//! `fleet device …`: what operators do with devices.
//!
//! | module | pure | with the API server |
//! |---|---|---|
//! | [`labels`] | which labels an operator may give | |
//! | [`request`] | what a certificate request really asks for | |
//! | [`rows`] | Nodes, records, tokens, requests and Leases → devices and their state | |
//! | [`look`] | | reads all of those |
//! | [`enroll`] | token and intent | writes the token |
//! | [`list`], [`show`] | rendering | |
//! | [`approve`], [`rotate`], [`revoke`], [`undelete`] | what stands against it | one write each |

pub mod approve;
pub mod enroll;
pub mod labels;
pub mod list;
pub mod look;
pub mod request;
pub mod revoke;
pub mod rotate;
pub mod rows;
pub mod show;
pub mod undelete;

use std::time::Duration;

use clap::{Args, Subcommand};
use fleet_wire::name::DeviceName;

use crate::{cluster::Cluster, error::FleetError};

/// What is done with devices.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Invites a device: writes a file that makes it a member once it is carried there.
    #[command(
        after_help = "Examples:\n  fleet device enroll pi-7 -l site=hall-3\n  fleet device enroll pi-7 \
                            --expires 15m -o - | ssh pi-7 sudo device-kubelet enroll --intent -"
    )]
    Enroll(Box<enroll::EnrollArgs>),
    /// Lists devices, invitations and requests.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  fleet device list\n  fleet device list -l \
                                                  site=hall-3 -o wide\n  fleet device list -o json"
    )]
    List(list::ListArgs),
    /// Shows everything about one device: what is wrong, and what to do next.
    #[command(after_help = "Examples:\n  fleet device show pi-7\n  fleet device show pi-7 -o yaml")]
    Show(show::ShowArgs),
    /// Lets a device in that asked for it.
    #[command(
        after_help = "Examples:\n  fleet device approve pi-7\n  fleet device approve pi-7 --fingerprint \
                            SHA256:…    # as the device shows it"
    )]
    Approve(approve::ApproveArgs),
    /// Refuses a device that asked.
    #[command(after_help = "Examples:\n  fleet device deny pi-7 --yes")]
    Deny(approve::DenyArgs),
    /// Asks a device for new keys of its own.
    #[command(after_help = "Examples:\n  fleet device rotate pi-7 --wait")]
    Rotate(rotate::RotateArgs),
    /// Throws a device out: deletes its Node. Its keys stay dead until `undelete`.
    #[command(after_help = "Examples:\n  fleet device revoke pi-7\n  fleet device revoke pi-7 --yes --wait")]
    Revoke(revoke::RevokeArgs),
    /// Takes a revocation back, as long as the record is kept.
    #[command(after_help = "Examples:\n  fleet device undelete pi-7 --wait")]
    Undelete(undelete::UndeleteArgs),
}

/// A device's name as an argument.
#[derive(Debug, Args)]
pub struct Named {
    /// Name of the device.
    name: DeviceName,
}

/// How long a command waits for the fleet to do it.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Wait until it has happened.
    #[arg(long)]
    wait: bool,
    /// How long to wait, e.g. 90s or 5m.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

/// `90s`, `15m`, `24h`, `7d`, or several of them.
///
/// # Errors
/// When it is none, or negative.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write it as 90s, 15m, 24h or 7d");
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let span = match days {
        Some(days) => {
            days.checked_mul(24).and_then(jiff::SignedDuration::try_from_hours).ok_or_else(wrong)?
        }
        None => text.parse().map_err(|_| wrong())?,
    };
    Duration::try_from(span).map_err(|_| wrong())
}

/// Does it.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn run(cluster: &Cluster, verb: Verb) -> Result<(), FleetError> {
    match verb {
        Verb::Enroll(args) => enroll::run(cluster, *args).await,
        Verb::List(args) => list::run(cluster, args).await,
        Verb::Show(args) => show::run(cluster, args).await,
        Verb::Approve(args) => approve::approve(cluster, args).await,
        Verb::Deny(args) => approve::deny(cluster, args).await,
        Verb::Rotate(args) => rotate::run(cluster, args).await,
        Verb::Revoke(args) => revoke::run(cluster, args).await,
        Verb::Undelete(args) => undelete::run(cluster, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_do() {
        let minutes = |minutes: u64| Ok(Duration::from_secs(minutes * 60));
        assert_eq!(duration("15m"), minutes(15));
        assert_eq!(duration("1h"), minutes(60));
        assert_eq!(duration("1h 30m"), minutes(90));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), minutes(7 * 24 * 60));
        for wrong in ["", "7", "-1h", "soon", "99999999999999999d", "1h*24h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
