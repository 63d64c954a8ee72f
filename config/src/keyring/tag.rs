//! The written form of what keys make: `v<key version>.<base64url>`, for sealed values and for tags.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::KeyVersion;

pub(super) const NONCE: usize = 12;
pub(super) const TAG: usize = 16;
const MAC: usize = 32;

/// A text is no sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no sealed value: those look like v1.<base64url>, and are written by this library only")]
pub struct BadSealed;

/// A text is no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no authentication tag: those look like v1.<base64url of 32 bytes>")]
pub struct BadMac;

/// A sealed value: `v<key version>.<base64url of nonce, ciphertext and tag>`. Its length tells that of what is sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sealed {
    version: KeyVersion,
    text: String,
}

impl Sealed {
    pub(super) fn new(version: KeyVersion, bytes: &[u8]) -> Self {
        Self { version, text: write(version, bytes) }
    }

    /// Which encryption key opens it.
    #[must_use]
    pub fn version(&self) -> KeyVersion {
        self.version
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Nonce, ciphertext and tag.
    pub(super) fn bytes(&self) -> Vec<u8> {
        // Checked when it was made.
        read(&self.text).map(|(_, bytes)| bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Sealed({}, {} characters)", self.version, self.text.len())
    }
}

impl FromStr for Sealed {
    type Err = BadSealed;

    fn from_str(text: &str) -> Result<Self, BadSealed> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Sealed {
    type Error = BadSealed;

    fn try_from(text: String) -> Result<Self, BadSealed> {
        match read(&text) {
            Some((version, bytes)) if bytes.len() >= NONCE + TAG => Ok(Self { version, text }),
            _ => Err(BadSealed),
        }
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> Self {
        sealed.text
    }
}

/// An authentication tag (HMAC-SHA256): `v<key version>.<base64url>`.
///
/// To see whether bytes belong to it use [`super::Keyring::verify`], which compares in constant time; `==` is for two
/// tags that are both trusted.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac {
    version: KeyVersion,
    tag: [u8; MAC],
}

impl Mac {
    pub(super) fn new(version: KeyVersion, bytes: &[u8]) -> Self {
        let mut tag = [0; MAC];
        for (to, from) in tag.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self { version, tag }
    }

    /// Which cache key made it.
    #[must_use]
    pub fn version(&self) -> KeyVersion {
        self.version
    }

    pub(super) fn tag(&self) -> &[u8; MAC] {
        &self.tag
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&write(self.version, &self.tag))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Mac({self})")
    }
}

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let (version, bytes) = read(text).ok_or(BadMac)?;
        Ok(Self { version, tag: bytes.try_into().map_err(|_| BadMac)? })
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

fn write(version: KeyVersion, bytes: &[u8]) -> String {
    format!("{version}.{}", BASE64URL_NOPAD.encode(bytes))
}

/// One text for one value: no leading zeros, no padding, no bits to spare.
fn read(text: &str) -> Option<(KeyVersion, Vec<u8>)> {
    let (version, bytes) = text.strip_prefix('v')?.split_once('.')?;
    let number: u32 = version.parse().ok().filter(|number| *number > 0)?;
    (number.to_string() == version)
        .then(|| BASE64URL_NOPAD.decode(bytes.as_bytes()).ok().map(|bytes| (KeyVersion(number), bytes)))?
}
