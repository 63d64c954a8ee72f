//! The token that proves continuity: each hello hands out a new one, and the next hello shows it. Two
//! devices that show the same one are copies of each other.
//!
//! On a full disk a token is kept in memory until it can be written: otherwise the next hello would show an
//! old one, and the device be taken for a copy of itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::store::file::replace;

/// Longest token that is kept, in bytes.
const LONGEST: usize = 256;

/// The file that keeps the token.
#[derive(Debug)]
pub struct Incarnation {
    path: PathBuf,
    /// Newer than what is in the file.
    unwritten: Option<String>,
}

impl Incarnation {
    /// In the device's data folder.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("incarnation"), unwritten: None }
    }

    /// The token; `None` on a device that never had one. What is not a token is as good as none.
    pub fn load(&self) -> io::Result<Option<String>> {
        if self.unwritten.is_some() {
            return Ok(self.unwritten.clone());
        }
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| is_token(token))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a token: it is on disk when this returns. Writes nothing when it is there already. When it cannot
    /// be written it is remembered, for [`Incarnation::store_again`].
    pub fn store(&mut self, token: &str) -> io::Result<()> {
        if !is_token(token) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an incarnation token"));
        }
        if self.unwritten.is_none() && self.load()?.as_deref() == Some(token) {
            return Ok(());
        }
        let written = replace(&self.path, token.as_bytes());
        self.unwritten = written.is_err().then(|| token.to_owned());
        written
    }

    /// Writes what could not be written before, if there is something.
    pub fn store_again(&mut self) -> io::Result<()> {
        match self.unwritten.clone() {
            Some(token) => self.store(&token),
            None => Ok(()),
        }
    }
}

fn is_token(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_survives() {
        let dir = tempfile::tempdir().unwrap();
        let mut incarnation = Incarnation::new(dir.path());
        assert_eq!(incarnation.load().unwrap(), None);
        incarnation.store("abc-1").unwrap();
        incarnation.store("abc-2").unwrap();
        assert_eq!(Incarnation::new(dir.path()).load().unwrap().as_deref(), Some("abc-2"));
        let mode = fs::metadata(dir.path().join("incarnation")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "who knows the token may be taken for this device");
    }

    #[test]
    fn garbage_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let mut incarnation = Incarnation::new(dir.path());
        for bad in ["", "two words", &"x".repeat(LONGEST + 1)] {
            assert!(incarnation.store(bad).is_err(), "{bad:?}");
        }
        fs::write(dir.path().join("incarnation"), "\0\0\0\0").unwrap();
        assert_eq!(incarnation.load().unwrap(), None);
    }

    #[test]
    fn a_token_that_cannot_be_written_is_shown_all_the_same_and_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let mut incarnation = Incarnation::new(&data);
        incarnation.store("1.a").unwrap();
        fs::rename(&data, dir.path().join("away")).unwrap();
        assert!(incarnation.store("2.b").is_err());
        assert_eq!(incarnation.load().unwrap().as_deref(), Some("2.b"));
        assert!(incarnation.store_again().is_err());

        fs::rename(dir.path().join("away"), &data).unwrap();
        assert_eq!(Incarnation::new(&data).load().unwrap().as_deref(), Some("1.a"));
        incarnation.store_again().unwrap();
        assert_eq!(Incarnation::new(&data).load().unwrap().as_deref(), Some("2.b"));
    }
}
