//! Digests by which both sides compare what they hold without sending it.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::name::PodUid;

/// SHA-256, shown as 43 characters of URL-safe base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of bytes as they stand.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Digest of a set of bundles: of `uid '\n' digest` in order of the uids.
    ///
    /// The set is what a heartbeat compares; the empty set has a digest of its own.
    pub fn of_set<'a>(set: impl IntoIterator<Item = (&'a PodUid, &'a Digest)>) -> Self {
        let ordered: BTreeMap<&PodUid, &Digest> = set.into_iter().collect();
        let mut hash = Sha256::new();
        hash.update(b"harmony-fleet desired set v1\n");
        for (uid, digest) in ordered {
            hash.update(uid.as_str().as_bytes());
            hash.update(b"\n");
            hash.update(digest.0);
        }
        Self(hash.finalize().into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        URL_SAFE_NO_PAD.decode(&text).ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(
            || serde::de::Error::custom("a digest is 32 bytes in URL-safe base64 without padding"),
        )
    }
}
