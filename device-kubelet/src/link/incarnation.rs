//! The token that proves continuity: each hello hands out a new one, and the next hello shows it. Two
//! devices that show the same one are copies of each other.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Longest token that is kept, in bytes.
const LONGEST: usize = 256;

/// The file that keeps the token.
#[derive(Debug, Clone)]
pub struct Incarnation {
    path: PathBuf,
}

impl Incarnation {
    /// In the device's data folder.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("incarnation") }
    }

    /// The token; `None` on a device that never had one. What is not a token is as good as none.
    pub fn load(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| is_token(token))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a token: it is on disk when this returns. Writes nothing when it is there already.
    pub fn store(&self, token: &str) -> io::Result<()> {
        if !is_token(token) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an incarnation token"));
        }
        if self.load()?.as_deref() == Some(token) {
            return Ok(());
        }
        let temporary = self.path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(token.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
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

    use super::*;

    #[test]
    fn a_token_survives() {
        let dir = tempfile::tempdir().unwrap();
        let incarnation = Incarnation::new(dir.path());
        assert_eq!(incarnation.load().unwrap(), None);
        incarnation.store("abc-1").unwrap();
        incarnation.store("abc-2").unwrap();
        assert_eq!(Incarnation::new(dir.path()).load().unwrap().as_deref(), Some("abc-2"));
    }

    #[test]
    fn garbage_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let incarnation = Incarnation::new(dir.path());
        for bad in ["", "two words", &"x".repeat(LONGEST + 1)] {
            assert!(incarnation.store(bad).is_err(), "{bad:?}");
        }
        fs::write(dir.path().join("incarnation"), "\0\0\0\0").unwrap();
        assert_eq!(incarnation.load().unwrap(), None);
    }
}
