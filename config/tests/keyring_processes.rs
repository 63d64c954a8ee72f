//! Keys as several processes, and a user who may not write, find them: this test starts itself again.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use harmony_config::keyring::{Keyring, Purpose};

const FOLDER: &str = "KEYRING_TEST_FOLDER";
/// Nobody in particular: not root, whom no mode stops.
const NOBODY: u32 = 65534;

fn child(folder: &Path) -> Command {
    child_of(&std::env::current_exe().unwrap(), folder)
}

fn child_of(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--ignored", "--exact", "child_opens_the_keys", "--nocapture"]).env(FOLDER, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
#[ignore = "the other tests start it"]
fn child_opens_the_keys() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let keyring = Keyring::open(Path::new(&folder)).unwrap_or_else(|error| panic!("{error}"));
    println!("tag {}", keyring.mac(b"which keys are these?"));
    assert_eq!(keyring.versions(Purpose::Encryption).unwrap().len(), 1);
}

#[test]
fn processes_that_start_at_once_share_the_keys_that_one_of_them_made() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("deep/below/keys");
        let children: Vec<_> = (0..6).map(|_| child(&keys).spawn().unwrap()).collect();
        let mut tags = Vec::new();
        for child in children {
            let (success, said) = said(child);
            assert!(success, "{said}");
            let tag = said.lines().find_map(|line| line.split_once("tag ")).unwrap().1.to_owned();
            tags.push(tag);
        }
        tags.dedup();
        assert_eq!(tags.len(), 1, "{tags:?}");
    }
}

#[test]
fn a_folder_in_which_nothing_can_be_written_is_an_error_on_the_first_start_only() {
    let folder = tempfile::tempdir().unwrap();
    let root = is_root();
    let elsewhere = tempfile::tempdir().unwrap();
    let program = for_everybody(elsewhere.path());
    let as_nobody = |keys: &Path| {
        let mut command = child_of(&program, keys);
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        said(command.spawn().unwrap())
    };
    let own = |path: &Path, mode| {
        if root {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    own(folder.path(), 0o700);
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    own(&keys, 0o500);
    let (success, said) = as_nobody(&keys);
    assert!(!success && said.contains("cannot keep"), "{said}");
    assert!(said.contains("writable"), "{said}");

    own(&keys, 0o700);
    let (success, said) = as_nobody(&keys);
    assert!(success, "{said}");
    own(&keys, 0o500);
    let (success, said) = as_nobody(&keys);
    assert!(success, "a start that makes no key writes nothing: {said}");
    own(&keys, 0o700);
}

/// This program where everybody may start it: what cargo builds may lie in a folder that is its user's alone. Copied by
/// another process, since a file that is open for writing here, or in a child of another test, cannot be started.
fn for_everybody(folder: &Path) -> PathBuf {
    let copy = folder.join("program");
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap();
    assert!(copied.success());
    for (path, mode) in [(folder, 0o755), (&copy, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    copy
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}
