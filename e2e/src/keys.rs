//! The fleet's own keys: the root key, the versions of the curve key, and the enroller's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fleet_wire::keys::{FleetKeys, KeyStatement, SignedKeyStatement};
use fleet_wire::name::KeyVersion;
use nkeys::{KeyPair, XKey};

use crate::pki::write_private;
use crate::process::{read_json, write_json};

/// The files with the fleet's keys.
#[derive(Debug, Clone)]
pub struct FleetKeyFiles {
    folder: PathBuf,
}

impl FleetKeyFiles {
    /// The keys of the fleet in `fleet`; makes them at the first call.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn open(fleet: &Path) -> Result<Self> {
        let files = Self { folder: fleet.join("fleet-keys") };
        if !files.statement().exists() {
            files.make()?;
        }
        Ok(files)
    }

    /// The public root key (`O…`) that devices pin.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn root_public(&self) -> Result<String> {
        Ok(self.root()?.public_key())
    }

    /// The statement of the curve keys, signed by the root key.
    #[must_use]
    pub fn statement(&self) -> PathBuf {
        self.folder.join("statement.json")
    }

    /// The signed statement itself.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn signed(&self) -> Result<SignedKeyStatement> {
        read_json(&self.statement())
    }

    /// What the root key has stated.
    ///
    /// # Errors
    /// When the statement does not hold.
    pub fn stated(&self) -> Result<KeyStatement> {
        Ok(self.signed()?.verify(&self.root_public()?)?)
    }

    /// The files with the seeds of the curve key, `<version>.nk`, the newest last.
    ///
    /// # Errors
    /// When the statement does not hold.
    pub fn curve_seeds(&self) -> Result<Vec<String>> {
        let versions = self.stated()?.curve_keys;
        Ok(versions.keys().map(|version| self.seed(*version).display().to_string()).collect())
    }

    /// The files with the seeds of the enroller's key.
    #[must_use]
    pub fn enroller_seeds(&self) -> Vec<String> {
        vec![self.enroller_seed().display().to_string()]
    }

    /// The public curve keys as a device has them after it verified the statement.
    ///
    /// # Errors
    /// When the statement does not hold.
    pub fn public(&self) -> Result<FleetKeys> {
        Ok(self.stated()?.fleet_keys()?)
    }

    /// Makes one more version of the curve key and states it together with those that there were.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn rotate(&self) -> Result<KeyVersion> {
        let mut statement = self.stated()?;
        let last = statement.curve_keys.keys().next_back().context("no curve key")?;
        let version = KeyVersion(last.0 + 1);
        let curve = XKey::new();
        write_private(&self.seed(version), &curve.seed()?)?;
        statement.curve_keys.insert(version, curve.public_key());
        statement.sequence += 1;
        self.state(&statement)?;
        Ok(version)
    }

    fn root(&self) -> Result<KeyPair> {
        let seed = fs::read_to_string(self.folder.join("root.nk")).context("reading the fleet's root key")?;
        Ok(KeyPair::from_seed(seed.trim())?)
    }

    fn seed(&self, version: KeyVersion) -> PathBuf {
        self.folder.join(format!("{version}.nk"))
    }

    fn enroller_seed(&self) -> PathBuf {
        self.folder.join("enroller").join("1.nk")
    }

    fn state(&self, statement: &KeyStatement) -> Result<()> {
        write_json(&self.statement(), &SignedKeyStatement::sign(statement, &self.root()?)?)
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(self.folder.join("enroller"))?;
        let (root, curve, enroller) = (KeyPair::new_operator(), XKey::new(), XKey::new());
        write_private(&self.folder.join("root.nk"), &root.seed()?)?;
        write_private(&self.seed(KeyVersion(1)), &curve.seed()?)?;
        write_private(&self.enroller_seed(), &enroller.seed()?)?;
        self.state(&KeyStatement {
            sequence: 1,
            curve_keys: BTreeMap::from([(KeyVersion(1), curve.public_key())]),
            enroller_key: Some(enroller.public_key().parse()?),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rotation_states_the_new_version_and_keeps_the_old_one() {
        let fleet = tempfile::tempdir().unwrap();
        let keys = FleetKeyFiles::open(fleet.path()).unwrap();
        let before = keys.stated().unwrap();
        assert_eq!(keys.rotate().unwrap(), KeyVersion(2));
        let after = keys.stated().unwrap();
        assert_eq!(after.sequence, before.sequence + 1);
        assert_eq!(after.curve_keys[&KeyVersion(1)], before.curve_keys[&KeyVersion(1)]);
        assert_eq!(after.enroller_key, before.enroller_key);
        assert_eq!(keys.curve_seeds().unwrap().len(), 2);
        assert_eq!(keys.public().unwrap().newest().0, KeyVersion(2));
    }
}
