//! The content of configMap and secret volumes: all files change at once, or none.
//!
//! The layout is a kubelet's, because programs watch for it: files lie in a directory with a time in its name,
//! `..data` points to it, and what a container sees are links through `..data`. A new content is a new directory
//! and one rename of the link.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;

/// Files by their path in the volume.
pub(super) type Files = BTreeMap<String, File>;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Content.
    pub(super) data: Vec<u8>,
    /// Permissions.
    pub(super) mode: u32,
}

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes the volume contain exactly these files; does nothing if it does.
pub(super) fn write(volume: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    for path in files.keys() {
        check(path)?;
    }
    let current = fs::read_link(volume.join(DATA)).ok().map(|target| volume.join(target));
    if let Some(current) = &current
        && same(current, files)?
    {
        return Ok(());
    }
    let fresh = fresh_directory(volume)?;
    for (path, file) in files {
        let folders = Path::new(path).ancestors().skip(1).map(|folder| fresh.join(folder));
        for folder in folders.collect::<Vec<_>>().iter().rev() {
            super::make_dir(folder, 0o755)?;
        }
        let path = fresh.join(path);
        fs::write(&path, &file.data)?;
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        if group.is_some() {
            std::os::unix::fs::chown(&path, None, group)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let link = volume.join(NEW_DATA);
    let _ = fs::remove_file(&link);
    symlink(fresh.file_name().unwrap_or_default(), &link)?;
    fs::rename(&link, volume.join(DATA))?;
    publish(volume, files)?;
    // Everything that is neither the new content nor a link into it is left over.
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Whatever the year: many devices boot in 1970.
        let has_time = name.strip_prefix("..").is_some_and(|time| time.starts_with(['1', '2']));
        if has_time && entry.path() != fresh {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn check(path: &str) -> io::Result<()> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let first = path.components().next().map(|part| part.as_os_str().to_string_lossy().starts_with(".."));
    if plain && first == Some(false) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {}", path.display())))
}

fn same(directory: &Path, files: &Files) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(current) = todo.pop() {
        let Ok(entries) = fs::read_dir(&current) else { return Ok(false) };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let name = path.strip_prefix(directory).unwrap_or(&path).to_string_lossy().into_owned();
            match files.get(&name) {
                Some(file) if fs::read(&path)? == file.data => found.insert(name),
                _ => return Ok(false),
            };
        }
    }
    Ok(found.len() == files.len())
}

fn fresh_directory(volume: &Path) -> io::Result<PathBuf> {
    let time = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    for counter in 0_u32.. {
        let path = volume.join(format!("{time}.{counter}"));
        match fs::create_dir(&path) {
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Links the first part of each path through `..data`, and removes links to what is gone.
fn publish(volume: &Path, files: &Files) -> io::Result<()> {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = files.keys().map(|path| first(path)).collect();
    for name in &wanted {
        let link = volume.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |data: &str| File { data: data.as_bytes().to_vec(), mode: 0o640 };
        list.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    #[test]
    fn content_is_swapped_as_a_whole_and_left_alone_when_equal() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path();
        write(volume, &files(&[("a", "1"), ("d/e", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(volume.join("d/e")).unwrap(), "2");
        assert_eq!(fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let before = fs::read_link(volume.join(DATA)).unwrap();
        write(volume, &files(&[("a", "1"), ("d/e", "2")]), None).unwrap();
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), before);
        write(volume, &files(&[("a", "3"), ("b", "4")]), None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(volume.join("b")).unwrap(), "4");
        assert!(!volume.join("d").exists());
        assert!(!volume.join(before).exists());
    }

    #[test]
    fn content_from_before_the_clock_was_set_is_removed_too() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path();
        let old = volume.join("..1970_01_01_00_00_07.0");
        fs::create_dir(&old).unwrap();
        fs::write(old.join("a"), "1").unwrap();
        symlink("..1970_01_01_00_00_07.0", volume.join(DATA)).unwrap();
        write(volume, &files(&[("a", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "2");
        assert!(!old.exists());
    }

    #[test]
    fn no_path_leaves_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..data", ""] {
            assert!(write(dir.path(), &files(&[(path, "1")]), None).is_err(), "{path}");
        }
    }
}
