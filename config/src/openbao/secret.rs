//! Tokens and passwords as the client's settings have them.

use std::path::Path;

pub use harmony_login::Secret;
use zeroize::Zeroizing;

/// The first line of a file, without white space around it.
pub(super) fn read(file: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| error.to_string())?;
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        secret => Ok(Secret::new(secret.to_owned())),
    }
}

/// Whether it can stand in a header.
pub(super) fn is_sendable(secret: &Secret) -> bool {
    !secret.expose().is_empty() && secret.expose().bytes().all(|byte| byte.is_ascii_graphic())
}
