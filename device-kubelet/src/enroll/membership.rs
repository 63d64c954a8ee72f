//! What the device knows of its membership, in `<data-dir>/membership.json`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fleet_wire::name::DeviceName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::keys::{self, KeysError};

const FILE: &str = "membership.json";

/// Why the membership is not known.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{path} is damaged: remove it and enroll the device again (its keys stay)")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] KeysError),
}

/// That the fleet has put the device out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// When this device learned of it, by its own clock.
    pub at: Timestamp,
    /// What it was told.
    pub reason: String,
}

/// What the device is in the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Membership {
    /// Its name; `None`: it was never enrolled in a way that is written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceName>,
    /// The fleet's root key, pinned at enrollment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_key: Option<String>,
    /// Set while it is out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
    /// The newest request for new keys that was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotated: Option<String>,
}

impl Membership {
    /// What is written down; nothing on a fresh device.
    ///
    /// # Errors
    /// When there is a file that cannot be read: a device does not guess whether it was revoked.
    pub fn load(data_dir: &Path) -> Result<Self, MembershipError> {
        let path = data_dir.join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| MembershipError::Damaged { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(MembershipError::Read { path, source }),
        }
    }

    /// Writes it down, as a whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, data_dir: &Path) -> Result<(), MembershipError> {
        let path = data_dir.join(FILE);
        let text = serde_json::to_vec(self)
            .map_err(|source| MembershipError::Damaged { path: path.clone(), source })?;
        Ok(keys::replace_private(&path, &text)?)
    }

    /// Reads, changes and writes; writes nothing if nothing changed.
    ///
    /// # Errors
    /// As [`Membership::load`] and [`Membership::store`].
    pub fn update(data_dir: &Path, change: impl FnOnce(&mut Self)) -> Result<Self, MembershipError> {
        let before = Self::load(data_dir)?;
        let mut after = before.clone();
        change(&mut after);
        if after != before {
            after.store(data_dir)?;
        }
        Ok(after)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn it_is_read_back_and_a_damaged_file_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Membership::load(dir.path()).unwrap(), Membership::default());
        let revoked = Revocation { at: Timestamp::UNIX_EPOCH, reason: "kubectl delete node".into() };
        let written = Membership::update(dir.path(), |membership| {
            membership.device = Some("pi-7".parse().unwrap());
            membership.revoked = Some(revoked.clone());
        })
        .unwrap();
        assert_eq!(Membership::load(dir.path()).unwrap(), written);
        fs::write(dir.path().join(FILE), "").unwrap();
        assert!(matches!(Membership::load(dir.path()), Err(MembershipError::Damaged { .. })));
        assert!(Membership::update(dir.path(), |membership| membership.revoked = None).is_err());
    }
}
