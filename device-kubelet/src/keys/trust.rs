//! Which curve keys the fleet has, as far as this device believes it: only what the pinned root key signed,
//! and never anything older than what was believed before.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fleet_wire::keys::{CurveKey, FleetKeys, KeyStatement, SignedKeyStatement};

use super::{KeysError, directory, files};

/// The pinned root key, and the newest statement that it signed and this device accepted.
#[derive(Debug, Clone)]
pub struct Trust {
    root: String,
    kept: PathBuf,
    accepted: Option<KeyStatement>,
}

/// What an offered statement is, compared with the accepted one. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Offer {
    Newer,
    Same,
    Older,
    Fork,
}

fn compare(accepted: Option<&KeyStatement>, offered: &KeyStatement) -> Offer {
    match accepted {
        None => Offer::Newer,
        Some(accepted) if offered.sequence > accepted.sequence => Offer::Newer,
        Some(accepted) if offered.sequence < accepted.sequence => Offer::Older,
        Some(accepted) if offered == accepted => Offer::Same,
        Some(_) => Offer::Fork,
    }
}

impl Trust {
    /// What this device has accepted of the fleet with this root key.
    ///
    /// A kept statement of another root key belongs to another fleet, which this device left: it counts for
    /// nothing.
    pub fn load(data_dir: &Path, root: &str) -> Result<Self, KeysError> {
        let kept = directory(data_dir)?.join("fleet-statement.json");
        let accepted = match files::read_private(&kept)? {
            Some(text) => verified(&kept, text.as_bytes(), root).ok().map(|(_, statement)| statement),
            None => None,
        };
        Ok(Self { root: root.to_owned(), kept, accepted })
    }

    /// The same, with what a file says on top, if it is newer. One that has gone missing is no error as long
    /// as a statement was accepted before: a device comes back from a reboot with what it has.
    pub fn load_with_file(data_dir: &Path, root: &str, file: &Path) -> Result<Self, KeysError> {
        let mut trust = Self::load(data_dir, root)?;
        match (fs::read(file), &trust.accepted) {
            (Ok(text), _) => {
                let (signed, _) = verified(file, &text, root)?;
                trust.offer_from(file, &signed)?;
            }
            (Err(source), Some(_)) => {
                let file = file.display();
                tracing::warn!(%file, %source, "the statement of the fleet's keys cannot be read: using the last one");
            }
            (Err(source), None) => return Err(KeysError::Read { path: file.to_owned(), source }),
        }
        Ok(trust)
    }

    /// The pinned root key.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Number of the accepted statement.
    pub fn sequence(&self) -> Option<u64> {
        self.accepted.as_ref().map(|statement| statement.sequence)
    }

    /// The fleet's public curve keys.
    pub fn fleet_keys(&self) -> Result<FleetKeys, KeysError> {
        let statement = self.accepted.as_ref().ok_or(KeysError::NoStatement)?;
        statement.fleet_keys().map_err(|source| KeysError::Statement { path: self.kept.clone(), source })
    }

    /// The key to which requests to enroll are sealed.
    pub fn enroller(&self) -> Option<&CurveKey> {
        self.accepted.as_ref()?.enroller_key.as_ref()
    }

    /// A statement that came over the wire: kept, and `true`, if it is newer. The same again is no news.
    pub fn offer(&mut self, signed: &SignedKeyStatement) -> Result<bool, KeysError> {
        let path = self.kept.clone();
        self.offer_from(&path, signed)
    }

    fn offer_from(&mut self, path: &Path, signed: &SignedKeyStatement) -> Result<bool, KeysError> {
        let refuse = |source| KeysError::Statement { path: path.to_owned(), source };
        let statement = signed.verify(&self.root).map_err(refuse)?;
        // One that cannot be used must not take the place of one that can.
        statement.fleet_keys().map_err(refuse)?;
        let seen = self.sequence().unwrap_or_default();
        match compare(self.accepted.as_ref(), &statement) {
            Offer::Same => Ok(false),
            Offer::Older => {
                Err(KeysError::StatementRollback { path: path.to_owned(), found: statement.sequence, seen })
            }
            Offer::Fork => Err(KeysError::StatementFork { path: path.to_owned(), sequence: seen }),
            Offer::Newer => {
                let text = serde_json::to_vec(signed)
                    .map_err(|source| KeysError::StatementSyntax { path: self.kept.clone(), source })?;
                files::replace_private(&self.kept, &text)?;
                self.accepted = Some(statement);
                Ok(true)
            }
        }
    }
}

fn verified(path: &Path, text: &[u8], root: &str) -> Result<(SignedKeyStatement, KeyStatement), KeysError> {
    let signed: SignedKeyStatement = serde_json::from_slice(text)
        .map_err(|source| KeysError::StatementSyntax { path: path.to_owned(), source })?;
    let statement =
        signed.verify(root).map_err(|source| KeysError::Statement { path: path.to_owned(), source })?;
    Ok((signed, statement))
}

#[cfg(test)]
#[path = "tests/trust.rs"]
mod tests;
