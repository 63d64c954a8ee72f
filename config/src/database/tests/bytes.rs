//! Whatever bytes stand in the files that are read, nothing panics and nothing is believed.

use proptest::prelude::*;
use sha2::Digest as _;

use super::*;
use crate::database::{backup, chain::Tail, head::Head, rest, schema};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_backup_log_of_any_bytes_is_refused_or_whole(bytes in any::<Vec<u8>>(), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("00000001-log.jsonl");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(backup::read_log(&path).is_err());
        // A beginning that is right, and then anything.
        let start = r#"{"format":1,"database":"d","tail":{"line":0,"hash":"0000000000000000000000000000000000000000000000000000000000000000"},"mac":"v1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
        let text = [start.as_bytes(), b"\n", &bytes].concat();
        std::fs::write(&path, &text[..cut.index(text.len())]).unwrap();
        if let Ok(log) = backup::read_log(&path) {
            prop_assert!(log.records.is_empty());
        }
    }

    #[test]
    fn a_head_of_any_bytes_is_not_believed(bytes in any::<Vec<u8>>()) {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
        let head = Head::new(&keyring, "d");
        std::fs::write(head.path(), &bytes).unwrap();
        prop_assert!(head.read(&keyring).is_err());
    }

    #[test]
    fn one_flipped_byte_in_a_head_costs_a_slot_at_most(at in 0_usize..1024, flip in 1_u8..) {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
        let head = Head::new(&keyring, "d");
        let settled = Tail { line: 7, ..Tail::NONE };
        head.set(&keyring, settled).unwrap();
        let mut bytes = std::fs::read(head.path()).unwrap();
        bytes[at] ^= flip;
        std::fs::write(head.path(), bytes).unwrap();
        prop_assert_eq!(head.read(&keyring).unwrap().unwrap().settled, settled);
    }

    #[test]
    fn values_at_rest_of_any_text_are_shown_without_their_seals(text in ".*", value in "[a-z]{1,8}") {
        let _ = rest::shown(&text);
        let sealed = json!({ "a": { "$sealed": value }, "b": [ { "$sealed": value } ], "c": { "d": { "$sealed": value } } });
        let (shown, secrets) = rest::shown(&sealed.to_string());
        prop_assert_eq!(secrets.len(), 2);
        prop_assert!(!shown.contains_key("a"));
    }
}

#[test]
fn migrations_that_were_released_are_never_changed() {
    let hashes: Vec<_> = schema::MIGRATIONS
        .iter()
        .map(|sql| data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(sql.as_bytes())))
        .collect();
    assert_eq!(hashes, ["704e24aefda58feeb7de152bffc64e532df1038db2b6aba64c6e66d024807b9c"]);
}
