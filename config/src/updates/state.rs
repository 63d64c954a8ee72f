//! What is kept: the update in effect, and the highest epoch of each signer.
//!
//! The update is kept as it was signed, its payload sealed with this machine's encryption key; at each start it is
//! verified anew against those who are trusted then. Epochs are kept by signer: one who is trusted no more, since his
//! key was stolen, cannot have made all later updates look old.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    UpdatesError,
    envelope::{Base64, Envelope, Head, KeyId},
    verify::Trust,
};
use crate::{
    key::{FieldPath, Key},
    keyring::{Context, Keyring, KeyringError, Sealed},
    witness::{Found, Witnessed},
};

/// Largest file in bytes: an update in base64 of its seal, and the head.
pub(super) const LIMIT: u64 = 4 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    epochs: BTreeMap<KeyId, u64>,
    current: Option<Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    head: Base64,
    signature: Base64,
    payload: Sealed,
}

/// The update in effect, as it was signed.
pub(super) struct Current {
    /// Without a payload.
    pub(super) envelope: Envelope,
    /// The payload in plain text.
    pub(super) plain: Zeroizing<Vec<u8>>,
}

impl State {
    /// What was found; `None` if there was never anything.
    pub(super) fn of(file: &Witnessed, found: Found) -> Result<Option<Self>, UpdatesError> {
        match found {
            Found::New => Ok(None),
            Found::Gone => Err(UpdatesError::Lost { path: file.path().to_owned() }),
            Found::Body { body, .. } => serde_json::from_slice(&body).map(Some).map_err(|_| content(file)),
        }
    }

    pub(super) fn body(&self, file: &Witnessed) -> Result<Vec<u8>, UpdatesError> {
        serde_json::to_vec(self).map_err(|_| content(file))
    }

    /// The highest epoch that was accepted of those who are trusted.
    pub(super) fn floor(&self, trust: &Trust) -> Option<u64> {
        self.epochs.iter().filter(|(key, _)| trust.trusts(key)).map(|(_, epoch)| *epoch).max()
    }

    /// It cannot be earlier than when the update in effect was signed, whatever the clock says.
    pub(super) fn not_before(&self, file: &Witnessed) -> Result<Option<Timestamp>, UpdatesError> {
        Ok(self.head(file)?.map(|head| head.issued))
    }

    pub(super) fn is_current(&self, envelope: &Envelope) -> bool {
        self.current.as_ref().is_some_and(|kept| kept.head.0 == envelope.head_bytes)
    }

    pub(super) fn put(
        &mut self,
        keyring: &Keyring,
        envelope: &Envelope,
        plain: &[u8],
    ) -> Result<(), UpdatesError> {
        let Head { key_id, audience, epoch, .. } = &envelope.head;
        self.epochs.insert(key_id.clone(), *epoch);
        self.current = Some(Kept {
            head: Base64(envelope.head_bytes.clone()),
            signature: Base64(envelope.signature.clone()),
            payload: seal(keyring, audience, plain)?,
        });
        Ok(())
    }

    /// The update in effect.
    pub(super) fn current(
        &self,
        keyring: &Keyring,
        file: &Witnessed,
    ) -> Result<Option<Current>, UpdatesError> {
        let (Some(kept), Some(head)) = (&self.current, self.head(file)?) else { return Ok(None) };
        let plain = open(keyring, &head.audience, &kept.payload)?;
        let envelope = Envelope {
            head,
            head_bytes: kept.head.0.clone(),
            signature: kept.signature.0.clone(),
            payload: Vec::new(),
            sealed: None,
        };
        Ok(Some(Current { envelope, plain }))
    }

    pub(super) fn reseal(&mut self, keyring: &Keyring, file: &Witnessed) -> Result<(), UpdatesError> {
        let head = self.head(file)?;
        if let (Some(kept), Some(head)) = (&mut self.current, head) {
            let plain = open(keyring, &head.audience, &kept.payload)?;
            kept.payload = seal(keyring, &head.audience, &plain)?;
        }
        Ok(())
    }

    fn head(&self, file: &Witnessed) -> Result<Option<Head>, UpdatesError> {
        let Some(kept) = &self.current else { return Ok(None) };
        serde_json::from_slice(&kept.head.0).map(Some).map_err(|_| content(file))
    }
}

fn seal(keyring: &Keyring, audience: &str, plain: &[u8]) -> Result<Sealed, KeyringError> {
    in_context(audience, |context| keyring.seal(context, plain))
}

fn open(keyring: &Keyring, audience: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    in_context(audience, |context| keyring.open_sealed(context, sealed))
}

/// The payload is good for nothing else than to be the last accepted update of this audience.
fn in_context<T>(audience: &str, of: impl FnOnce(&Context<'_>) -> T) -> T {
    let owner = format!("last accepted update for {audience}");
    of(&Context { owner: &owner, key: &Key::of_ours("Update"), place: &FieldPath::root() })
}

fn content(file: &Witnessed) -> UpdatesError {
    UpdatesError::Content { path: file.path().to_owned() }
}
