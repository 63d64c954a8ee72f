//! The fleet's own keys: the root key, and the first version of the curve key.

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
        let seed = fs::read_to_string(self.root_seed()).context("reading the fleet's root key")?;
        Ok(KeyPair::from_seed(seed.trim())?.public_key())
    }

    /// The statement of the curve keys, signed by the root key.
    #[must_use]
    pub fn statement(&self) -> PathBuf {
        self.folder.join("statement.json")
    }

    /// The seeds of the curve key, `<version>.nk`.
    #[must_use]
    pub fn curve_seeds(&self) -> Vec<PathBuf> {
        vec![self.folder.join("1.nk")]
    }

    /// The public curve keys as a device has them after it verified the statement.
    ///
    /// # Errors
    /// When the statement does not hold.
    pub fn public(&self) -> Result<FleetKeys> {
        let signed: SignedKeyStatement = read_json(&self.statement())?;
        Ok(signed.verify(&self.root_public()?)?.fleet_keys()?)
    }

    fn root_seed(&self) -> PathBuf {
        self.folder.join("root.nk")
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let (root, curve) = (KeyPair::new_operator(), XKey::new());
        write_private(&self.root_seed(), &root.seed()?)?;
        write_private(&self.folder.join("1.nk"), &curve.seed()?)?;
        let curve_keys = BTreeMap::from([(KeyVersion(1), curve.public_key())]);
        let statement = KeyStatement { sequence: 1, curve_keys, enroller_key: None };
        write_json(&self.statement(), &SignedKeyStatement::sign(&statement, &root)?)
    }
}
