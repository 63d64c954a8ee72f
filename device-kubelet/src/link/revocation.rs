//! Out of the fleet: the pods end, and what they were made of is erased. Keys stay, so that the revocation can be
//! taken back; they open nothing as long as it holds.

use fleet_wire::digest::Digest;
use jiff::Timestamp;

use super::{driver::causes, standing::Standing};
use crate::{
    enroll::membership::Revocation,
    pods::{DesiredChange, Pods, PodsError},
};

/// Notes that the device was revoked. From now on it shows, also after a reboot.
pub fn note(standing: &Standing, reason: &str) {
    let revocation = Revocation { at: Timestamp::now(), reason: reason.to_owned() };
    if let Err(error) = standing.update(|membership| membership.revoked = Some(revocation)) {
        tracing::error!(error = causes(&error), "cannot write down that this device was revoked");
    }
}

/// Ends all pods (their grace is bounded, as for every pod that is gone from the API), and removes their bundles with
/// the secrets in them, their volumes and logs. The version of the desired state stays: nobody brings an older one.
///
/// # Errors
/// When the disk does not let it: the pods end all the same.
pub async fn erase(pods: &Pods, standing: &Standing) -> Result<(), PodsError> {
    let held = pods.held();
    let change = DesiredChange {
        version: held.version,
        upsert: Vec::new(),
        remove: held.bundles.into_keys().collect(),
        set_digest: Digest::of_set([]),
        node_settings: held.node_settings,
    };
    let erased = pods.apply(change).await;
    let broken = standing.data_dir().join("store/broken");
    // What was set aside for people holds the same secrets.
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(broken)).await;
    if let Ok(Err(error)) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::error!(%error, "damaged files of pods cannot be removed");
    }
    erased
}
