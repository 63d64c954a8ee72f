//! May the Lease be taken? A function of what was seen, and when.

use std::time::Duration;

use fleet_wire::name::OwnerEpoch;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// Annotation that counts the owners.
pub const EPOCH_ANNOTATION: &str = "fleet.harmony.io/owner-epoch";

/// What to do about the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Take it with this epoch, provided that nobody wrote it in between.
    Take {
        /// The new epoch.
        epoch: OwnerEpoch,
    },
    /// Its holder lives.
    Wait {
        /// Who that is.
        holder: String,
    },
}

/// When a state of the Lease was first seen. Times in the Lease come from another machine's clock, so
/// expiry is measured by how long nothing changed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    resource_version: Option<String>,
    since: Instant,
}

/// Who holds the Lease; empty when nobody does.
pub fn holder(lease: &Lease) -> String {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default()
}

/// The epoch in the Lease; 0 before the first owner.
pub fn epoch(lease: &Lease) -> OwnerEpoch {
    let counted = lease
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(EPOCH_ANNOTATION))
        .and_then(|text| text.parse().ok());
    OwnerEpoch(counted.unwrap_or(0))
}

/// Decides, and remembers in `sighting` since when the Lease has not changed.
///
/// A new epoch is higher than the one in the Lease, and at least `least`. That is the time, so that it also grows where
/// the Lease was deleted, or came back with an old backup of the cluster: devices refuse an epoch that goes back, and
/// would never listen again.
pub fn decide(
    lease: Option<&Lease>,
    identity: &str,
    sighting: &mut Option<Sighting>,
    now: Instant,
    least: OwnerEpoch,
) -> Claim {
    let Some(lease) = lease else {
        return Claim::Take { epoch: least };
    };
    let take = Claim::Take { epoch: least.max(OwnerEpoch(epoch(lease).0.saturating_add(1))) };
    let holder = holder(lease);
    if holder.is_empty() || holder == identity {
        return take;
    }
    let resource_version = lease.metadata.resource_version.clone();
    let since = match sighting {
        Some(seen) if seen.resource_version == resource_version => seen.since,
        _ => {
            *sighting = Some(Sighting { resource_version, since: now });
            now
        }
    };
    let duration = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    let duration = Duration::from_secs(u64::try_from(duration).unwrap_or(0));
    if now.saturating_duration_since(since) > duration { take } else { Claim::Wait { holder } }
}
