//! Names: of a model, of a place inside its values, of who acts.
//!
//! Parsed once; what holds one of these types needs no further check before it goes into an environment variable, a
//! file name, a row or the path of a store.

use std::{fmt, str::FromStr, sync::OnceLock};

use serde::{Deserialize, Serialize};

/// Key of a model: the name of its type as it stands, e.g. `BrocadeSwitchAuth`.
///
/// 1 to 64 of `A-Z a-z 0-9 _`, beginning with a letter, without `__` (which separates the key from a field in the
/// names of environment variables). So it is an environment variable's, a file's and a path segment's name at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no key of settings: {why}. A key is 1 to 64 of A-Z, a-z, 0-9 and _, begins with a letter and has no \
     two _ in a row; the name of a Rust type will do"
)]
pub struct BadKey {
    text: String,
    why: &'static str,
}

impl Key {
    /// Most characters.
    pub const MAX: usize = 64;

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that this library gives itself.
    #[cfg(feature = "updates")]
    pub(crate) fn of_ours(name: &'static str) -> Self {
        debug_assert!(name.parse::<Self>().is_ok());
        Self(name.to_owned())
    }
}

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let why = match text.as_bytes() {
            [] => "it is empty",
            bytes if bytes.len() > Self::MAX => "it is too long",
            [first, ..] if !first.is_ascii_alphabetic() => "it does not begin with a letter",
            bytes if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') => {
                "it has other characters"
            }
            _ if text.contains("__") => "it has two _ in a row",
            _ => return Ok(Self(text.to_owned())),
        };
        // The text may be anything, and of any length.
        Err(BadKey { text: text.chars().take(80).collect(), why })
    }
}

impl TryFrom<String> for Key {
    type Error = BadKey;

    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A place inside a model's values: the names of nested fields, outermost first. Written with dots (`tls.ca_file`);
/// a name that has a dot itself is quoted as in TOML. Empty: the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    /// The whole of the values.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// A field of this place.
    #[must_use]
    pub fn join(&self, field: &str) -> Self {
        let mut names = self.0.clone();
        names.push(field.to_owned());
        Self(names)
    }

    /// The place that `inner` is, seen from this one.
    #[must_use]
    pub fn append(&self, inner: &Self) -> Self {
        Self(self.0.iter().chain(&inner.0).cloned().collect())
    }

    /// The names, outermost first.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether `other` is this place or lies in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl<S: Into<String>> FromIterator<S> for FieldPath {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            if at > 0 {
                out.write_str(".")?;
            }
            let bare = !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            match bare {
                true => out.write_str(name)?,
                false => write!(out, "{name:?}")?,
            }
        }
        Ok(())
    }
}

/// Who reads or writes, for the history and the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The person or account, e.g. a user's name on this machine, or the subject of a token.
    pub who: String,
    /// The program and where it runs, e.g. `harmony-config on pi-7`.
    pub from: String,
    /// Joins this act to other log lines.
    pub request_id: String,
}

impl Actor {
    /// The user and program of this process, with a request id of its own.
    #[must_use]
    pub fn of_this_process() -> Self {
        // Neither changes, and the name of the host is in a file.
        static THIS: OnceLock<(String, String)> = OnceLock::new();
        let (who, from) = THIS.get_or_init(Self::this_process).clone();
        Self { who, from, request_id: new_request_id() }
    }

    /// Who, and from where.
    fn this_process() -> (String, String) {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let who = variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(|| "unknown".to_owned());
        let program = std::env::args_os().next().map(std::path::PathBuf::from);
        let program = program
            .as_deref()
            .and_then(std::path::Path::file_name)
            .map_or_else(|| "a program".to_owned(), |name| name.to_string_lossy().into_owned());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
        let host = host.map_or_else(|_| "this machine".to_owned(), |name| name.trim().to_owned());
        (who, format!("{program} on {host}"))
    }
}

/// Sixteen random hex digits.
#[must_use]
pub fn new_request_id() -> String {
    data_encoding::HEXLOWER.encode(&rand::random::<[u8; 8]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_types_name_is_a_key() {
        for good in ["A", "BrocadeSwitchAuth", "Vlan_42", &"k".repeat(64)] {
            assert_eq!(good.parse::<Key>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn what_could_be_a_path_or_another_variable_is_no_key() {
        for bad in ["", "4you", "_x", "a/b", "a.b", "..", "a b", "größe", "A__B", "a\0b", &"k".repeat(65)] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?}");
        }
        let long = "x".repeat(1_000_000).parse::<Key>().unwrap_err();
        assert!(long.to_string().len() < 400, "a huge text is not repeated as a whole");
    }

    #[test]
    fn a_place_is_written_as_toml_writes_it() {
        let place: FieldPath = ["hosts", "a.example", "ca-file"].into_iter().collect();
        assert_eq!(place.to_string(), r#"hosts."a.example".ca-file"#);
        assert!(FieldPath::root().join("hosts").covers(&place));
        assert!(!place.covers(&FieldPath::root().join("hosts")));
    }
}
