//! `hostPath` volumes: what must be there, or is made.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Component, Path},
};

/// Checks the path for its `type`, and makes what the type says is to be made.
pub(super) fn check(path: &Path, type_: &str) -> Result<(), String> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("hostPath {} must be absolute and must not contain '..'", path.display()));
    }
    let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    match type_ {
        // No check: the runtime makes a directory if there is nothing, as it always did.
        "" if found.is_none() => make_directory(path),
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => make_directory(path),
        "DirectoryOrCreate" | "Directory" => match found {
            Some(kind) if kind.is_dir() => Ok(()),
            _ => wrong("a directory"),
        },
        "FileOrCreate" if found.is_none() => {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|error| format!("hostPath {} cannot be made: {error}", path.display()))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(|error| error.to_string())
        }
        "FileOrCreate" | "File" => match found {
            Some(kind) if kind.is_file() => Ok(()),
            _ => wrong("a file"),
        },
        "Socket" if found.is_some_and(|kind| kind.is_socket()) => Ok(()),
        "Socket" => wrong("a socket file"),
        "CharDevice" if found.is_some_and(|kind| kind.is_char_device()) => Ok(()),
        "CharDevice" => wrong("a character device"),
        "BlockDevice" if found.is_some_and(|kind| kind.is_block_device()) => Ok(()),
        "BlockDevice" => wrong("a block device"),
        other => Err(format!("hostPath type {other:?} is not known")),
    }
}

fn make_directory(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|error| format!("hostPath {} cannot be made: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_type_accepts_what_it_says_and_refuses_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let paths = [dir.path(), &file, &socket, Path::new("/dev/null"), &dir.path().join("none")];
        for (type_, accepted) in [
            ("Directory", [true, false, false, false, false]),
            ("File", [false, true, false, false, false]),
            ("Socket", [false, false, true, false, false]),
            ("CharDevice", [false, false, false, true, false]),
            ("BlockDevice", [false; 5]),
        ] {
            for (path, accepted) in paths.iter().zip(accepted) {
                assert_eq!(check(path, type_).is_ok(), accepted, "{type_} {}", path.display());
            }
        }
        let made = dir.path().join("a/b");
        check(&made, "DirectoryOrCreate").unwrap();
        assert!(made.is_dir());
        check(&made.join("c"), "FileOrCreate").unwrap();
        assert!(made.join("c").is_file());
        assert!(check(Path::new("relative"), "").is_err());
        assert!(check(Path::new("/a/../b"), "").is_err());
    }
}
