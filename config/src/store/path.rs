//! A place in a store: names, joined by `/`.
//!
//! Parsed once. What holds a [`StorePath`] can put it into a URL or a policy as it stands: nothing in it has to be
//! encoded, and nothing in it leads elsewhere.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::key::Key;

/// Path of an entry, of a prefix or of a mount: `harmony/prod/Vlan`.
///
/// Names of 1 to 128 of `A-Z a-z 0-9 . _ -`, joined by `/`; 512 characters in all. No name is `.` or `..`, none is
/// empty. Other characters are refused and not encoded: what one store takes as `a%2Fb` is two names to the next one,
/// and policies are written by people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorePath(String);

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no path in a store: {why}. A path is names of A-Z, a-z, 0-9, '.', '_' and '-', joined by '/', such \
     as harmony/prod/Vlan"
)]
pub struct BadStorePath {
    text: String,
    why: &'static str,
}

impl StorePath {
    /// Most characters.
    pub const MAX: usize = 512;
    /// Most characters of one name.
    pub const MAX_NAME: usize = 128;

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The entry of a model below this path.
    #[must_use]
    pub fn of_model(&self, key: &Key) -> Self {
        // A key is one good name.
        Self(format!("{}/{key}", self.0))
    }

    /// A path below this one.
    ///
    /// # Errors
    /// When both together are too long.
    pub fn join(&self, below: &Self) -> Result<Self, BadStorePath> {
        format!("{}/{}", self.0, below.0).parse()
    }
}

impl FromStr for StorePath {
    type Err = BadStorePath;

    fn from_str(text: &str) -> Result<Self, BadStorePath> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let why = if text.is_empty() {
            "it is empty"
        } else if text.len() > Self::MAX {
            "it is too long"
        } else if text.split('/').any(str::is_empty) {
            "it begins or ends with '/', or has two of them in a row"
        } else if text.split('/').any(|name| name == "." || name == "..") {
            "'.' and '..' are no names"
        } else if text.split('/').any(|name| name.len() > Self::MAX_NAME) {
            "a name in it is too long"
        } else if !text.bytes().all(|byte| good(byte) || byte == b'/') {
            "it has other characters"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(BadStorePath { text: text.chars().take(80).collect(), why })
    }
}

impl TryFrom<String> for StorePath {
    type Error = BadStorePath;

    fn try_from(text: String) -> Result<Self, BadStorePath> {
        text.parse()
    }
}

impl From<StorePath> for String {
    fn from(path: StorePath) -> Self {
        path.0
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kubernetes_and_of_rust_types_are_paths() {
        for good in ["harmony", "harmony/prod/Vlan", "ns-1/app.example.com", "a/_b/-c/...d", &"n".repeat(128)]
        {
            assert_eq!(good.parse::<StorePath>().unwrap().as_str(), good);
        }
        let prefix: StorePath = "harmony/prod".parse().unwrap();
        assert_eq!(prefix.of_model(&"Vlan".parse().unwrap()).as_str(), "harmony/prod/Vlan");
    }

    #[test]
    fn what_leads_elsewhere_or_needs_encoding_is_refused() {
        let long = "n/".repeat(300);
        let long_name = "n".repeat(129);
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a b", "a?b", "a#b", "a%2fb", "größe",
            "a\\b", "a*", "a+b", "a\nb", &long, &long_name,
        ] {
            assert!(bad.parse::<StorePath>().is_err(), "{bad:?}");
        }
        let deep: StorePath = vec!["n".repeat(100); 4].join("/").parse().unwrap();
        assert!(deep.join(&deep).is_err(), "two good ones may be too long together");
    }
}
