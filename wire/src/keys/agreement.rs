//! What two curve keys agree on.
//!
//! Every message between two parties is a NaCl box with one and the same key, which X25519 gives from the secret half
//! of one and the public half of the other. That costs tens of microseconds, more than sealing a message with it, and
//! gives the same result each time: so it is computed once for each pair. The boxes are those of `nkeys`.

use crypto_box::{
    PublicKey, SalsaBox, SecretKey,
    aead::{AeadCore as _, AeadInPlace as _, OsRng},
};
use nkeys::XKey;
use zeroize::Zeroizing;

use crate::envelope::EnvelopeError;

/// Begins every box, as `nkeys` writes it.
const BOX_VERSION: &[u8] = b"xkv1";
const NONCE: usize = 24;
const TAG: usize = 16;
/// What a box is longer than what it holds, in bytes.
pub(crate) const BOX_OVERHEAD: usize = BOX_VERSION.len() + NONCE + TAG;

/// The key of all boxes between two curve keys.
pub struct Agreement(SalsaBox);

impl std::fmt::Debug for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Agreement")
    }
}

impl Agreement {
    /// Of two keys, one of which has its secret half here.
    ///
    /// # Errors
    /// [`EnvelopeError::Seal`] if neither has.
    pub fn new(one: &XKey, other: &XKey) -> Result<Self, EnvelopeError> {
        let (seed, public) = match (one.seed(), other.seed()) {
            (Ok(seed), _) => (seed, other.public_key()),
            (Err(_), Ok(seed)) => (seed, one.public_key()),
            (Err(_), Err(_)) => return Err(EnvelopeError::Seal),
        };
        let seed = Zeroizing::new(seed);
        let (_, secret) = nkeys::decode_seed(&seed).map_err(|_| EnvelopeError::Seal)?;
        let secret = Zeroizing::new(secret);
        let (_, public) = nkeys::from_public_key(&public).map_err(|_| EnvelopeError::Seal)?;
        Ok(Self(SalsaBox::new(&PublicKey::from(public), &SecretKey::from(*secret))))
    }

    /// Seals.
    ///
    /// # Errors
    /// [`EnvelopeError::Seal`]; it does not happen to contents that fit into memory.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let mut sealed = Vec::with_capacity(BOX_OVERHEAD + plain.len());
        self.seal_after(&mut sealed, |sealed| {
            sealed.extend_from_slice(plain);
            Ok(())
        })?;
        Ok(sealed)
    }

    /// Appends a box to `message`; `write` appends what it holds, which is sealed where it lies.
    pub(crate) fn seal_after(
        &self,
        message: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), EnvelopeError>,
    ) -> Result<(), EnvelopeError> {
        let nonce = SalsaBox::generate_nonce(&mut OsRng);
        message.extend_from_slice(BOX_VERSION);
        message.extend_from_slice(&nonce);
        let tag_at = message.len();
        message.extend_from_slice(&[0; TAG]);
        write(message)?;
        let (_, body) = message.split_at_mut_checked(tag_at).ok_or(EnvelopeError::Seal)?;
        let (tag, plain) = body.split_at_mut_checked(TAG).ok_or(EnvelopeError::Seal)?;
        let sum = self.0.encrypt_in_place_detached(&nonce, &[], plain).map_err(|_| EnvelopeError::Seal)?;
        tag.copy_from_slice(&sum);
        Ok(())
    }

    /// Opens.
    ///
    /// # Errors
    /// [`EnvelopeError::Seal`] for what is no box, or not one of these two keys.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let rest = sealed.strip_prefix(BOX_VERSION).ok_or(EnvelopeError::Seal)?;
        let (nonce, rest) = rest.split_at_checked(NONCE).ok_or(EnvelopeError::Seal)?;
        let (tag, body) = rest.split_at_checked(TAG).ok_or(EnvelopeError::Seal)?;
        let mut plain = body.to_vec();
        self.0
            .decrypt_in_place_detached(nonce.into(), &[], &mut plain, tag.into())
            .map_err(|_| EnvelopeError::Seal)?;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The boxes are those of `nkeys`, in both directions, of any length.
        #[test]
        fn boxes_are_those_of_nkeys(plain in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (ours, theirs) = (XKey::new(), XKey::new());
            let ours_public = XKey::from_public_key(&ours.public_key()).unwrap();
            let theirs_public = XKey::from_public_key(&theirs.public_key()).unwrap();
            let agreement = Agreement::new(&ours, &theirs_public).unwrap();
            let sealed = agreement.seal(&plain).unwrap();
            prop_assert_eq!(sealed.len(), plain.len() + BOX_OVERHEAD);
            prop_assert_eq!(&agreement.open(&sealed).unwrap(), &plain);
            prop_assert_eq!(&Agreement::new(&ours_public, &theirs).unwrap().open(&sealed).unwrap(), &plain);
            // `nkeys` itself opens no empty box.
            if !plain.is_empty() {
                prop_assert_eq!(&theirs.open(&sealed, &ours_public).unwrap(), &plain);
            }
            prop_assert_eq!(&agreement.open(&theirs.seal(&plain, &ours_public).unwrap()).unwrap(), &plain);
        }
    }

    #[test]
    fn what_was_changed_or_cut_does_not_open() {
        let (ours, theirs) = (XKey::new(), XKey::new());
        let agreement = Agreement::new(&ours, &theirs).unwrap();
        let sealed = agreement.seal(b"settings").unwrap();
        for length in 0..sealed.len() {
            assert!(agreement.open(&sealed[..length]).is_err(), "{length} bytes");
        }
        for byte in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[byte] ^= 1;
            assert!(agreement.open(&changed).is_err(), "byte {byte}");
        }
        let stranger = Agreement::new(&ours, &XKey::new()).unwrap();
        assert!(stranger.open(&sealed).is_err());
    }

    #[test]
    fn two_public_halves_agree_on_nothing() {
        let public = |key: XKey| XKey::from_public_key(&key.public_key()).unwrap();
        assert!(Agreement::new(&public(XKey::new()), &public(XKey::new())).is_err());
    }
}
