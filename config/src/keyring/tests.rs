//! Keys: made once, read with their modes checked, never replaced.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use proptest::prelude::*;

use super::*;

fn keys() -> (tempfile::TempDir, Keyring) {
    let folder = tempfile::tempdir().unwrap();
    let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
    (folder, keyring)
}

fn key() -> Key {
    "Vlan".parse().unwrap()
}

#[test]
fn the_first_start_makes_three_different_keys_that_only_the_owner_reads() {
    let (_folder, keyring) = keys();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(keyring.folder()), 0o700);
    let mut seen = Vec::new();
    for purpose in Purpose::ALL {
        assert_eq!(mode(&file::path(keyring.folder(), purpose)), 0o600);
        assert_eq!(keyring.versions(purpose).unwrap(), [KeyVersion(1)]);
        let key = *keyring.read(purpose).versions.newest().1;
        assert!(!seen.contains(&key) && key != [0; KEY]);
        seen.push(key);
    }
    for entry in fs::read_dir(keyring.folder()).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn a_second_start_reads_the_same_keys_and_writes_nothing() {
    let (_folder, keyring) = keys();
    let sealed = keyring.seal(&root("a", &key()), b"x").unwrap();
    let stamps =
        |folder: &Path| Purpose::ALL.map(|purpose| kept::stamp(&file::path(folder, purpose)).unwrap());
    let before = stamps(keyring.folder());
    let again = Keyring::open(keyring.folder()).unwrap();
    assert_eq!(*again.open_sealed(&root("a", &key()), &sealed).unwrap(), b"x");
    assert_eq!(before, stamps(keyring.folder()));
}

#[test]
fn a_start_that_was_cut_off_between_two_keys_goes_on_with_the_first() {
    let (_folder, keyring) = keys();
    let folder = keyring.folder();
    let first = fs::read(folder.join("encryption.json")).unwrap();
    fs::remove_file(folder.join("cache.json")).unwrap();
    fs::remove_file(folder.join("keyring.json")).unwrap();
    fs::write(folder.join("cache.json.new"), "{\"form").unwrap();
    Keyring::open(folder).unwrap();
    assert_eq!(fs::read(folder.join("encryption.json")).unwrap(), first);
}

#[test]
fn what_others_may_read_is_refused_with_what_to_do() {
    for name in ["", "encryption.json", "cache.json", "updates.json", "keyring.json"] {
        let (_folder, keyring) = keys();
        let path = keyring.folder().join(name);
        let was = fs::metadata(&path).unwrap().mode();
        fs::set_permissions(&path, fs::Permissions::from_mode(was | 0o040)).unwrap();
        let error = Keyring::open(keyring.folder()).unwrap_err();
        assert!(matches!(error, KeyringError::Kept(KeptError::Loose { .. })), "{name}: {error}");
        assert!(error.to_string().contains("chmod"), "{error}");
    }
}

#[test]
fn a_lost_key_is_never_made_again() {
    for purpose in Purpose::ALL {
        let (_folder, keyring) = keys();
        fs::remove_file(file::path(keyring.folder(), purpose)).unwrap();
        let error = Keyring::open(keyring.folder()).unwrap_err();
        assert!(matches!(error, KeyringError::Missing { .. }), "{error}");
        assert!(!file::path(keyring.folder(), purpose).exists());
    }
}

#[test]
fn nothing_is_sealed_with_keys_that_are_gone_from_the_disk() {
    let (_folder, keyring) = keys();
    fs::remove_dir_all(keyring.folder()).unwrap();
    let error = keyring.seal(&root("a", &key()), b"x").unwrap_err();
    assert!(matches!(error, KeyringError::Missing { .. }), "{error}");
    assert!(keyring.rotate(Purpose::Encryption).is_err());
}

#[test]
fn keys_that_cannot_be_kept_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Keyring::open(&file.join("keys")).unwrap_err();
    assert!(matches!(error, KeyringError::Kept(KeptError::Write { .. })), "{error}");
    assert!(error.to_string().contains("writable"), "{error}");
}

#[test]
fn damage_is_named_and_nothing_is_replaced() {
    let other = r#"{"format":1,"purpose":"cache","keys":[]}"#;
    for (content, says) in [
        ("", "not as it was written"),
        ("{\"format\":1,", "not as it was written"),
        (other, "another purpose"),
        (r#"{"format":1,"purpose":"encryption","keys":[]}"#, "no key"),
        (r#"{"format":1,"purpose":"encryption","keys":[{"version":1,"made":"","key":"AAAA"}]}"#, "32 bytes"),
        (r#"{"format":2,"purpose":"encryption","whatever":1}"#, "format 2"),
    ] {
        let (_folder, keyring) = keys();
        let path = keyring.folder().join("encryption.json");
        kept::replace(&path, content.as_bytes()).unwrap();
        let error = Keyring::open(keyring.folder()).unwrap_err().to_string();
        assert!(error.contains(says), "{content}: {error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn after_a_rotation_the_new_key_seals_and_the_old_one_opens_until_it_is_dropped() {
    let (_folder, keyring) = keys();
    let (key, mac) = (key(), keyring.mac(b"x"));
    let old = keyring.seal(&root("a", &key), b"x").unwrap();
    assert_eq!(keyring.rotate(Purpose::Encryption).unwrap(), KeyVersion(2));
    let new = keyring.seal(&root("a", &key), b"x").unwrap();
    assert_eq!((old.version(), new.version()), (KeyVersion(1), KeyVersion(2)));
    assert_eq!(keyring.versions(Purpose::Cache).unwrap(), [KeyVersion(1)], "the others are not touched");
    keyring.verify(b"x", &mac).unwrap();
    assert_eq!(*keyring.open_sealed(&root("a", &key), &old).unwrap(), b"x");

    let error = keyring.drop_version(Purpose::Encryption, KeyVersion(2)).unwrap_err();
    assert!(matches!(error, KeyringError::Newest { .. }), "{error}");
    keyring.drop_version(Purpose::Encryption, KeyVersion(1)).unwrap();
    let error = keyring.open_sealed(&root("a", &key), &old).unwrap_err();
    assert!(error.to_string().contains("there are: v2"), "{error}");
    assert!(keyring.drop_version(Purpose::Encryption, KeyVersion(1)).is_err());
    assert_eq!(*keyring.open_sealed(&root("a", &key), &new).unwrap(), b"x");
}

#[test]
fn a_running_process_uses_what_another_has_rotated() {
    let (_folder, one) = keys();
    let two = Keyring::open(one.folder()).unwrap();
    one.rotate(Purpose::Encryption).unwrap();
    one.rotate(Purpose::Cache).unwrap();
    let sealed = two.seal(&root("a", &key()), b"x").unwrap();
    assert_eq!(sealed.version(), KeyVersion(2));
    assert_eq!(two.mac(b"x").version(), KeyVersion(2));
    one.verify(b"x", &two.mac(b"x")).unwrap();
}

#[test]
fn threads_that_rotate_at_once_each_get_a_number_of_their_own() {
    let (_folder, keyring) = keys();
    let mut got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| keyring.rotate(Purpose::Cache).unwrap().0)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    got.sort_unstable();
    assert_eq!(got, (2..=9).collect::<Vec<_>>());
    assert_eq!(Keyring::open(keyring.folder()).unwrap().versions(Purpose::Cache).unwrap().len(), 9);
}

#[test]
fn a_sealed_value_opens_only_where_it_was_sealed() {
    let (_folder, keyring) = keys();
    let (vlan, other): (Key, Key) = (key(), "Other".parse().unwrap());
    let place: FieldPath = ["auth", "password"].into_iter().collect();
    let context = Context { owner: "a", key: &vlan, place: &place };
    let sealed = keyring.seal(&context, b"x").unwrap();
    assert_eq!(*keyring.open_sealed(&context, &sealed).unwrap(), b"x");
    let (joined, split): (FieldPath, FieldPath) =
        (["authpassword"].into_iter().collect(), ["auth", "pass", "word"].into_iter().collect());
    for moved in [
        Context { owner: "b", ..context },
        Context { key: &other, ..context },
        Context { place: &FieldPath::root(), ..context },
        Context { place: &joined, ..context },
        Context { place: &split, ..context },
    ] {
        let error = keyring.open_sealed(&moved, &sealed).unwrap_err();
        assert!(matches!(error, KeyringError::Unopenable { .. }), "{moved:?}: {error}");
    }
    // Under another version of the key: the number is authenticated, too.
    keyring.rotate(Purpose::Encryption).unwrap();
    let renamed: Sealed = sealed.as_str().replacen("v1.", "v2.", 1).parse().unwrap();
    assert!(matches!(keyring.open_sealed(&context, &renamed), Err(KeyringError::Unopenable { .. })));
    // With the keys of another machine.
    let (_folder, foreign) = keys();
    assert!(matches!(foreign.open_sealed(&context, &sealed), Err(KeyringError::Unopenable { .. })));
}

#[test]
fn two_seals_of_one_value_differ() {
    let (_folder, keyring) = keys();
    assert_ne!(
        keyring.seal(&root("a", &key()), b"x").unwrap(),
        keyring.seal(&root("a", &key()), b"x").unwrap()
    );
}

#[test]
fn no_debug_text_shows_a_key() {
    let (_folder, keyring) = keys();
    let shown = format!("{keyring:?} {keyring:#?}");
    for purpose in Purpose::ALL {
        let text = fs::read_to_string(file::path(keyring.folder(), purpose)).unwrap();
        let key = text.split('"').rev().nth(1).unwrap();
        assert_eq!(key.len(), 43);
        assert!(!shown.contains(key));
        let bytes = format!("{:?}", keyring.read(purpose).versions.newest().1);
        assert!(!shown.contains(bytes.trim_matches(['[', ']'])));
    }
    assert!(shown.contains("encryption") && shown.contains("KeyVersion(1)"), "{shown}");
}

fn root<'a>(owner: &'a str, key: &'a Key) -> Context<'a> {
    static ROOT: std::sync::OnceLock<FieldPath> = std::sync::OnceLock::new();
    Context { owner, key, place: ROOT.get_or_init(FieldPath::root) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_sealed_value_with_one_other_character_does_not_open(
        plain in prop::collection::vec(any::<u8>(), 0..40),
        other in prop::sample::select(b"AZaz09-_.v=+/ ".to_vec()),
    ) {
        let (_folder, keyring) = keys();
        let key = key();
        let sealed = keyring.seal(&root("a", &key), &plain).unwrap();
        for at in 0..sealed.as_str().len() {
            let mut text = sealed.as_str().as_bytes().to_vec();
            if text[at] == other {
                continue;
            }
            text[at] = other;
            let text = String::from_utf8(text).unwrap();
            if let Ok(changed) = text.parse::<Sealed>() {
                prop_assert!(keyring.open_sealed(&root("a", &key), &changed).is_err(), "{text}");
            }
        }
        for length in 0..sealed.as_str().len() {
            if let Ok(cut) = sealed.as_str()[..length].parse::<Sealed>() {
                prop_assert!(keyring.open_sealed(&root("a", &key), &cut).is_err());
            }
        }
    }

    #[test]
    fn a_tag_with_one_other_bit_is_refused(bytes in prop::collection::vec(any::<u8>(), 1..40), bit in 0_u32..8) {
        let (_folder, keyring) = keys();
        let mac = keyring.mac(&bytes);
        prop_assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        keyring.verify(&bytes, &mac).unwrap();
        for at in 0..MAC {
            let mut tag = *mac.tag();
            tag[at] ^= 1_u8 << bit;
            let changed = Mac::new(mac.version(), &tag);
            prop_assert!(matches!(keyring.verify(&bytes, &changed), Err(KeyringError::WrongMac)));
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1_u8 << bit;
            prop_assert!(matches!(keyring.verify(&changed, &mac), Err(KeyringError::WrongMac)));
        }
    }

    #[test]
    fn any_text_is_read_or_refused_and_read_as_it_is_written(text in "v?[0-9]{0,11}\\.?[A-Za-z0-9_=-]{0,60}") {
        if let Ok(sealed) = text.parse::<Sealed>() {
            prop_assert_eq!(String::from(sealed), text.clone());
        }
        if let Ok(mac) = text.parse::<Mac>() {
            prop_assert_eq!(mac.to_string(), text);
        }
    }
}

/// Bytes of a tag.
const MAC: usize = 32;
