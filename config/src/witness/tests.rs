//! The witness: which files are accepted after a crash at any moment.

use proptest::prelude::*;

use super::*;

struct Place {
    _folder: tempfile::TempDir,
    file: Witnessed,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
    let file = Witnessed::new(&folder.path().join("kept.json"), keyring, "test", 1 << 16).unwrap();
    Place { _folder: folder, file }
}

fn write(file: &Witnessed, body: &str) {
    file.update::<WitnessError>(|_| Ok(Some(body.as_bytes().to_vec()))).unwrap();
}

fn body(file: &Witnessed) -> Result<Option<String>, WitnessError> {
    Ok(match file.read()?.0 {
        Found::Body { body, .. } => Some(String::from_utf8(body).unwrap()),
        Found::New | Found::Gone => None,
    })
}

#[test]
fn what_was_written_is_read_also_by_another_start() {
    let place = place();
    assert!(matches!(place.file.read().unwrap().0, Found::New));
    write(&place.file, "[1]");
    write(&place.file, "[2]");
    let again = Witnessed::new(place.file.path(), place.file.keyring.clone(), "test", 1 << 16).unwrap();
    let (Found::Body { generation, body }, _) = again.read().unwrap() else { panic!() };
    assert_eq!((generation, body.as_slice()), (2, b"[2]".as_slice()));
}

#[test]
fn an_older_file_is_refused_and_so_is_one_that_was_set_aside() {
    let place = place();
    write(&place.file, "[1]");
    let older = fs::read(place.file.path()).unwrap();
    write(&place.file, "[2]");
    let newer = fs::read(place.file.path()).unwrap();
    for bytes in [&older, &newer] {
        kept::replace(place.file.path(), &older).unwrap();
        let error = place.file.read().unwrap_err();
        assert!(matches!(error, WitnessError::Older { found: 1, last: 2, .. }), "{error}");
        assert!(
            place.file.update::<WitnessError>(|_| Ok(Some(b"[3]".to_vec()))).is_err(),
            "it is not replaced"
        );
        kept::replace(place.file.path(), bytes).unwrap();
    }
    assert_eq!(body(&place.file).unwrap().unwrap(), "[2]", "the right one is good again");
    let aside = place.file.set_aside().unwrap().unwrap();
    assert_eq!(fs::read(&aside).unwrap(), newer);
    assert!(matches!(place.file.read().unwrap().0, Found::New));
    for bytes in [older, newer] {
        kept::replace(place.file.path(), &bytes).unwrap();
        assert!(matches!(place.file.read().unwrap_err(), WitnessError::Older { .. }));
        place.file.set_aside().unwrap();
    }
    write(&place.file, "[3]");
    assert!(matches!(place.file.read().unwrap().0, Found::Body { generation: 3, .. }));
}

#[test]
fn a_file_without_its_witness_is_refused_and_a_file_that_is_gone_is_told() {
    let place = place();
    write(&place.file, "[1]");
    let bytes = fs::read(place.file.path()).unwrap();
    fs::remove_file(place.file.path()).unwrap();
    assert!(matches!(place.file.read().unwrap().0, Found::Gone));
    kept::replace(place.file.path(), &bytes).unwrap();
    fs::remove_file(&place.file.witness).unwrap();
    let error = place.file.read().unwrap_err();
    assert!(matches!(error, WitnessError::Unwitnessed { .. }), "{error}");
}

#[test]
fn a_witness_of_an_older_backup_refuses_the_newer_file() {
    let place = place();
    write(&place.file, "[1]");
    let witness = fs::read(&place.file.witness).unwrap();
    write(&place.file, "[2]");
    kept::replace(&place.file.witness, &witness).unwrap();
    assert!(matches!(place.file.read().unwrap_err(), WitnessError::Unwitnessed { .. }));
}

#[test]
fn the_whole_folder_can_be_moved() {
    let place = place();
    write(&place.file, "[1]");
    let moved = place._folder.path().with_extension("moved");
    fs::rename(place._folder.path(), &moved).unwrap();
    let keyring = Keyring::open(&moved.join("keys")).unwrap();
    let file = Witnessed::new(&moved.join("kept.json"), keyring, "test", 1 << 16).unwrap();
    assert_eq!(body(&file).unwrap().unwrap(), "[1]");
    fs::remove_dir_all(moved).unwrap();
}

#[test]
fn one_kind_of_file_is_not_good_for_another() {
    let place = place();
    write(&place.file, "[1]");
    let other = Witnessed::new(place.file.path(), place.file.keyring.clone(), "other", 1 << 16).unwrap();
    assert!(matches!(other.read().unwrap_err(), WitnessError::Changed { .. }));
}

#[test]
fn after_a_crash_at_any_step_the_file_is_good_and_the_other_one_is_not() {
    // Which steps of the second write were done.
    for steps in 0..=2 {
        let place = place();
        let file = &place.file;
        write(file, "[1]");
        let first = fs::read(file.path()).unwrap();
        let mut second = None;
        if steps >= 1 {
            let witness = file.read_witness().unwrap().unwrap();
            let (_, bytes) = file.announce(witness, b"[2]").unwrap();
            if steps >= 2 {
                file.replace(&bytes).unwrap();
            }
            second = Some(bytes);
        }
        let expected = if steps >= 2 { "[2]" } else { "[1]" };
        assert_eq!(body(file).unwrap().unwrap(), expected, "after {steps} steps");
        // It is settled now.
        let (stays, goes) = match steps {
            2 => (second.unwrap(), Some(first)),
            _ => (first, second),
        };
        if let Some(goes) = goes {
            kept::replace(file.path(), &goes).unwrap();
            assert!(file.read().is_err(), "after {steps} steps the other file must not be accepted");
            kept::replace(file.path(), &stays).unwrap();
        }
        write(file, "[3]");
        assert_eq!(body(file).unwrap().unwrap(), "[3]");
        kept::replace(file.path(), &stays).unwrap();
        assert!(matches!(file.read().unwrap_err(), WitnessError::Older { .. }));
    }
}

#[test]
fn a_crash_in_the_very_first_write_is_a_first_start_again() {
    let place = place();
    let (_, bytes) = place.file.announce(place.file.no_witness(), b"[1]").unwrap();
    assert!(matches!(place.file.read().unwrap().0, Found::New));
    kept::replace(place.file.path(), &bytes).unwrap();
    assert!(place.file.read().is_err(), "settled without it");
    place.file.set_aside().unwrap();
    write(&place.file, "[2]");
    assert_eq!(body(&place.file).unwrap().unwrap(), "[2]");
}

#[test]
fn a_rotation_of_the_key_leaves_the_file_good_until_the_old_key_is_dropped() {
    use crate::keyring::{KeyVersion, Purpose};
    let place = place();
    write(&place.file, "[1]");
    place.file.keyring.rotate(Purpose::Cache).unwrap();
    assert_eq!(body(&place.file).unwrap().unwrap(), "[1]");
    place.file.keyring.drop_version(Purpose::Cache, KeyVersion(1)).unwrap();
    let error = place.file.read().unwrap_err();
    assert!(matches!(error, WitnessError::Keyring(KeyringError::NoVersion { .. })), "{error}");
}

#[test]
fn many_writers_at_once_lose_nothing() {
    let place = place();
    let add = |_| {
        let file = Witnessed::new(place.file.path(), place.file.keyring.clone(), "test", 1 << 16).unwrap();
        for _ in 0..10 {
            file.update::<WitnessError>(|found| {
                let count: u32 = match found {
                    Found::Body { body, .. } => serde_json::from_slice(&body).unwrap(),
                    Found::New | Found::Gone => 0,
                };
                Ok(Some((count + 1).to_string().into_bytes()))
            })
            .unwrap();
            file.read().unwrap();
        }
    };
    std::thread::scope(|scope| {
        for at in 0..4 {
            scope.spawn(move || add(at));
        }
    });
    assert_eq!(body(&place.file).unwrap().unwrap(), "40");
}

#[test]
fn too_much_is_refused_before_it_is_written() {
    let place = place();
    write(&place.file, "[1]");
    let huge = format!("\"{}\"", "x".repeat(1 << 16)).into_bytes();
    assert!(place.file.update::<WitnessError>(|_| Ok(Some(huge))).is_err());
    assert_eq!(body(&place.file).unwrap().unwrap(), "[1]");
    kept::replace(place.file.path(), &vec![b' '; 1 << 17]).unwrap();
    assert!(matches!(place.file.read().unwrap_err(), WitnessError::Kept(KeptError::TooLarge { .. })));
}

#[test]
fn a_file_of_a_later_format_says_so() {
    let place = place();
    write(&place.file, "[1]");
    kept::replace(place.file.path(), b"{\"format\":9,\"new\":true}").unwrap();
    assert!(matches!(place.file.read().unwrap_err(), WitnessError::Foreign { found: 9, .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_file_with_any_other_byte_or_cut_anywhere_is_refused(other in any::<u8>(), word in "[a-z]{0,4}") {
        let place = place();
        write(&place.file, &format!("{{\"a\":[1, 2],\"b\":\"{word}\"}}"));
        let good = fs::read(place.file.path()).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            if bytes[at] == other { continue }
            bytes[at] = other;
            fs::write(place.file.path(), &bytes).unwrap();
            prop_assert!(place.file.read().is_err(), "byte {} is {}", at, other);
        }
        for length in 0..good.len() {
            fs::write(place.file.path(), &good[..length]).unwrap();
            prop_assert!(place.file.read().is_err(), "cut to {}", length);
        }
        fs::write(place.file.path(), &good).unwrap();
        place.file.read().unwrap();
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let place = place();
        write(&place.file, "[1]");
        fs::write(place.file.path(), bytes).unwrap();
        prop_assert!(place.file.read().is_err());
    }
}
