#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use super::*;

fn load(keys: &Path) -> Result<Keyring, SealingError> {
    Keyring::load(keys, Box::new(KeyFileSealer::open(keys)?))
}

fn create(keys: &Path) -> Keyring {
    Keyring::create(keys, Box::new(KeyFileSealer::open(keys).unwrap()), false).unwrap()
}

fn names(keys: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(keys).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_sealed_is_opened_and_never_looks_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let keyring = create(dir.path());
    for content in [&b""[..], b"x", &[7; 100_000]] {
        let (one, two) = (keyring.seal("index", content).unwrap(), keyring.seal("index", content).unwrap());
        assert_ne!(one, two, "a fresh nonce");
        assert!(is_sealed(&one));
        assert_eq!(one.len(), content.len() + 36);
        assert_eq!(keyring.open("index", one), Some(Opened::Current(content.to_vec())));
        assert_eq!(load(dir.path()).unwrap().open("index", two), Some(Opened::Current(content.to_vec())));
    }
}

#[test]
fn another_name_a_flipped_bit_and_a_missing_byte_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keyring = create(dir.path());
    let sealed = keyring.seal("records/u1", b"what a pod remembers").unwrap();
    assert_eq!(keyring.open("records/u2", sealed.clone()), None);
    assert_eq!(keyring.open("bundles/u1", sealed.clone()), None);
    for bit in 0..sealed.len() * 8 {
        let mut damaged = sealed.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(keyring.open("records/u1", damaged), None, "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert_eq!(keyring.open("records/u1", sealed[..length].to_vec()), None, "{length} bytes");
    }
    assert_eq!(keyring.open("records/u1", [&sealed[..], b"x"].concat()), None);
    assert_eq!(keyring.open("records/u1", b"what a pod remembers".to_vec()), None, "not sealed");
}

#[test]
fn keys_are_private_and_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    assert_eq!(names(dir.path()), ["data-key.json", "sealing.key"], "no temporary file stays");
    for name in names(dir.path()) {
        let path = dir.path().join(name);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(dir.path()).err().unwrap();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let key = DataKey::from_slice(3, &[0xab; 32]).unwrap();
    assert_eq!(format!("{key:?}"), "DataKey { version: 3, .. }");
    let shown = format!("{:?}", KeyFileSealer::open(dir.path()).unwrap());
    assert!(!shown.contains(fs::read_to_string(dir.path().join("sealing.key")).unwrap().trim()), "{shown}");
}

#[test]
fn keys_that_are_gone_or_damaged_are_said_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    create(dir.path());
    create(other.path());
    let (key, data) = (dir.path().join("sealing.key"), dir.path().join("data-key.json"));
    let (good_key, good_data) = (fs::read(&key).unwrap(), fs::read_to_string(&data).unwrap());
    let refused = || {
        let before = names(dir.path());
        let error = load(dir.path()).err().unwrap();
        assert_eq!(names(dir.path()), before, "nothing is made anew");
        let text = error.to_string();
        assert!(text.contains("is lost") && text.contains("from a backup"), "{text}");
        error
    };
    fs::remove_file(&key).unwrap();
    assert!(matches!(refused(), SealingError::SealingKeyMissing { .. }));
    crate::keys::replace_private(&key, &fs::read(other.path().join("sealing.key")).unwrap()).unwrap();
    assert!(matches!(refused(), SealingError::OtherSealingKey { .. }));
    for garbage in ["", "c2hvcnQ=", "no base64 at all"] {
        fs::write(&key, garbage).unwrap();
        assert!(matches!(refused(), SealingError::SealingKeyGarbage { .. }));
    }
    fs::write(&key, good_key).unwrap();
    let wrapped = good_data.split("\"wrapped\":\"").nth(1).unwrap();
    let (head, tail) = wrapped.split_at(60);
    let flipped = format!("{head}{}{}", if tail.starts_with('A') { 'B' } else { 'A' }, &tail[1..]);
    for damaged in [
        good_data.replace(wrapped, &flipped),
        good_data.replace("\"version\":1", "\"version\":2"),
        good_data[..good_data.len() / 2].to_owned(),
        String::new(),
        r#"{"format":1,"sealer":"key-file","keys":[]}"#.to_owned(),
    ] {
        assert_ne!(damaged, good_data);
        fs::write(&data, &damaged).unwrap();
        assert!(matches!(refused(), SealingError::DataKeyDamaged { .. }), "{damaged}");
    }
    for foreign in [good_data.replace("key-file", "tpm"), good_data.replace("\"format\":1", "\"format\":9")] {
        fs::write(&data, foreign).unwrap();
        assert!(matches!(load(dir.path()).err().unwrap(), SealingError::Foreign { .. }));
    }
    fs::write(&data, good_data).unwrap();
    load(dir.path()).unwrap();
}

#[test]
fn old_keys_open_until_they_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut keyring = create(dir.path());
    let sealing_key = fs::read(dir.path().join("sealing.key")).unwrap();
    let old = keyring.seal("index", b"one").unwrap();
    keyring.renew().unwrap();
    assert_eq!(names(dir.path()), ["data-key.json", "sealing.key"]);
    assert_ne!(fs::read(dir.path().join("sealing.key")).unwrap(), sealing_key);
    let new = keyring.seal("index", b"two").unwrap();
    for keyring in [&keyring, &load(dir.path()).unwrap()] {
        assert!(keyring.has_old());
        assert_eq!(keyring.open("index", old.clone()), Some(Opened::Old(b"one".to_vec())));
        assert_eq!(keyring.open("index", new.clone()), Some(Opened::Current(b"two".to_vec())));
    }
    keyring.drop_old().unwrap();
    for keyring in [&keyring, &load(dir.path()).unwrap()] {
        assert!(!keyring.has_old());
        assert_eq!(keyring.open("index", old.clone()), None);
        assert_eq!(keyring.open("index", new.clone()), Some(Opened::Current(b"two".to_vec())));
    }
}

#[test]
fn a_change_of_keys_that_was_interrupted_anywhere_loses_nothing() {
    // Of each file, the state before and after the change.
    for (data_key_written, old_key_stays, next_is_there) in
        [(false, true, true), (true, true, true), (true, false, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let mut keyring = create(dir.path());
        let old = keyring.seal("index", b"one").unwrap();
        let (old_key, old_data) =
            (fs::read(file("sealing.key")).unwrap(), fs::read(file("data-key.json")).unwrap());
        keyring.renew().unwrap();
        if next_is_there {
            fs::copy(file("sealing.key"), file("sealing.next")).unwrap();
        }
        if old_key_stays {
            fs::write(file("sealing.key"), &old_key).unwrap();
        }
        if !data_key_written {
            fs::write(file("data-key.json"), &old_data).unwrap();
        }
        for _ in 0..2 {
            let keyring = load(dir.path()).unwrap();
            assert_eq!(names(dir.path()), ["data-key.json", "sealing.key"], "it was ended");
            assert_eq!(keyring.open("index", old.clone()).unwrap().content(), b"one");
            assert_ne!(fs::read(file("sealing.key")).unwrap(), old_key);
        }
        let mut keyring = load(dir.path()).unwrap();
        keyring.renew().unwrap();
        assert_eq!(keyring.open("index", old.clone()).unwrap().content(), b"one");
    }
}

#[test]
fn a_change_of_keys_that_cannot_be_written_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut keyring = create(dir.path());
    let old = keyring.seal("index", b"one").unwrap();
    // A directory in the way stands for a disk that takes nothing.
    let data = dir.path().join("data-key.json");
    let kept = dir.path().join("kept");
    fs::rename(&data, &kept).unwrap();
    fs::create_dir(&data).unwrap();
    assert!(keyring.renew().is_err());
    assert!(!keyring.has_old());
    let meanwhile = keyring.seal("index", b"two").unwrap();
    fs::remove_dir(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    assert_eq!(keyring.open("index", old.clone()), Some(Opened::Current(b"one".to_vec())));
    keyring.renew().unwrap();
    assert_eq!(keyring.open("index", old).unwrap().content(), b"one");
    assert_eq!(load(dir.path()).unwrap().open("index", meanwhile).unwrap().content(), b"two");
}
