//! The credential with which a person's programs connect to NATS: the same file, and the same loader, as a
//! device's or a component's.
//!
//! ```text
//! credential.toml   where NATS is; names the two files beside it
//! session.nk        a key of this login alone: each connection proves it
//! access-token      who holds it; written anew whenever the session is renewed
//! ```
//!
//! It never connects: whoever does loads it with [`DeviceCredential::load`], and becomes what the callout makes of
//! the token's roles.

use std::path::PathBuf;

use fleet_daemon::credential::{CaSource, CredentialError, DeviceCredential, NkeySeed, TokenSource};
use harmony_login::{PrivateFile, replace};
use nkeys::KeyPair;
use zeroize::Zeroizing;

use super::{LoginError, Session, Store};

/// Where NATS is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// `tls://host:4222`.
    pub nats_url: String,
    /// CA of its certificate.
    pub nats_ca: Option<CaSource>,
}

impl Store {
    /// The credential's file.
    pub fn credential_file(&self) -> PathBuf {
        self.folder().join("credential.toml")
    }

    /// Where NATS was at the last login.
    pub fn reach(&self) -> Option<Reach> {
        let DeviceCredential { nats_url, nats_ca, .. } =
            DeviceCredential::load(&self.credential_file()).ok()?;
        Some(Reach { nats_url, nats_ca })
    }

    /// Writes the credential of a session, with a fresh key.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make_credential(&self, reach: Reach, session: &Session) -> Result<(), LoginError> {
        let key_file = self.folder().join("session.nk");
        let seed = KeyPair::new_user().seed().map(Zeroizing::new).map_err(|_| CredentialError::Seed)?;
        replace(&key_file, seed.as_bytes())?;
        replace(&self.token_file(), session.access_token.expose().as_bytes())?;
        let credential = DeviceCredential {
            nats_url: reach.nats_url,
            nats_ca: reach.nats_ca,
            key: NkeySeed::from_file(&key_file)?,
            token: Some(TokenSource::File(self.token_file())),
        };
        Ok(credential.store(&self.credential_file())?)
    }

    /// Has the credential, if there is one, show the token that the session has now.
    pub(super) fn renew_credential(&self, session: &Session) -> Result<(), LoginError> {
        if !self.credential_file().exists() {
            return Ok(());
        }
        Ok(replace(&self.token_file(), session.access_token.expose().as_bytes())?)
    }

    fn token_file(&self) -> PathBuf {
        self.folder().join("access-token")
    }

    /// Removes everything of it.
    pub(super) fn remove_credential(&self) -> Result<(), LoginError> {
        for file in [self.credential_file(), self.folder().join("session.nk"), self.token_file()] {
            PrivateFile::at(file).remove()?;
        }
        Ok(())
    }
}
