//! Answers of the key-value engine, read.

use super::*;

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, body: Zeroizing::new(body.as_bytes().to_vec()) }
}

fn mount() -> StorePath {
    "kv".parse().unwrap()
}

// As Vault 1.14.0 answers.
const READ: &str = r#"{"request_id":"5f3e","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":{"id":1},
"metadata":{"created_time":"2026-11-21T15:50:35.123456789Z","custom_metadata":{"harmony-metadata-of":"2",
"harmony-revision-base":"1000","team":"video"},"deletion_time":"","destroyed":false,"version":2}},"wrap_info":null,
"warnings":null,"auth":null}"#;
const DELETED: &str = r#"{"request_id":"5f3e","data":{"data":null,"metadata":{"created_time":"2026-11-21T15:50:35Z",
"custom_metadata":null,"deletion_time":"2026-11-21T15:51:00Z","destroyed":false,"version":3}}}"#;
const HISTORY: &str = r#"{"data":{"cas_required":false,"created_time":"1970-01-01T00:00:05Z","current_version":10,
"custom_metadata":null,"delete_version_after":"0s","max_versions":0,"oldest_version":9,"updated_time":"x","versions":{
"10":{"created_time":"2026-11-21T15:50:35Z","deletion_time":"","destroyed":false},
"9":{"created_time":"2026-11-21T15:50:30Z","deletion_time":"2026-11-21T15:50:31Z","destroyed":true}}}}"#;

#[test]
fn an_entry_is_read_with_what_stands_beside_it() {
    let entry = found(&mount(), &answer(200, READ)).unwrap().into_entry().unwrap();
    assert_eq!((entry.revision, entry.version, entry.metadata_is_current), (1002, 2, true));
    assert_eq!(entry.metadata, Metadata::from([("team".to_owned(), "video".to_owned())]));
    assert!(!format!("{entry:?}").contains(": 1}"), "values are not shown");
}

#[test]
fn a_deleted_entry_is_replaced_at_its_version_and_an_absent_one_at_none() {
    let head = found(&mount(), &answer(404, DELETED)).unwrap();
    assert_eq!((head.revision(), head.version), (0, 3));
    assert_eq!(head.into_entry(), None);
    let head = found(&mount(), &answer(404, r#"{"errors":[]}"#)).unwrap();
    assert_eq!((head.revision(), head.version), (0, 0));
}

#[test]
fn a_missing_engine_is_no_missing_entry() {
    let text = r#"{"errors":["no handler for route \"kv/data/a\". route entry not found."]}"#;
    assert!(matches!(found(&mount(), &answer(404, text)), Err(OpenBaoError::NoMount { .. })));
    assert!(matches!(versions(&mount(), &answer(404, text)), Err(OpenBaoError::NoMount { .. })));
    // Version 1 of the engine.
    assert!(matches!(written(&mount(), &answer(204, ""), 10), Err(OpenBaoError::NoMount { .. })));
}

#[test]
fn versions_come_in_their_order_with_revisions_after_the_creation() {
    let all = versions(&mount(), &answer(200, HISTORY)).unwrap();
    assert_eq!(all.iter().map(|version| version.version).collect::<Vec<_>>(), [9, 10]);
    assert_eq!(all[1].revision, 5010);
    assert!(all[0].destroyed && all[0].deleted.is_some() && all[1].deleted.is_none());
    assert_eq!(base(&mount(), &answer(200, HISTORY)).unwrap(), Some(5000));
}

#[test]
fn a_refusal_by_check_and_set_is_told_from_others() {
    let text = r#"{"errors":["check-and-set parameter did not match the current version"]}"#;
    assert_eq!(written(&mount(), &answer(400, text), 10).unwrap(), None);
    let text = r#"{"data":{"version":4}}"#;
    assert_eq!(written(&mount(), &answer(200, text), 10).unwrap(), Some(4));
    for (status, text) in [(413, ""), (400, r#"{"errors":["http: request body too large"]}"#)] {
        let error = written(&mount(), &answer(status, text), 10).unwrap_err();
        assert!(matches!(error, OpenBaoError::TooLarge { .. }), "{error}");
    }
    assert!(matches!(
        written(&mount(), &answer(400, "{}"), 10),
        Err(OpenBaoError::Failing { status: 400, .. })
    ));
}

#[test]
fn cut_and_changed_answers_are_errors_and_never_repeat_what_was_in_them() {
    for text in [READ, DELETED, HISTORY] {
        for status in [200, 404] {
            for cut in 0..text.len() {
                let _ = found(&mount(), &answer(status, &text[..cut]));
                let _ = versions(&mount(), &answer(status, &text[..cut]));
                let mut changed = text.as_bytes().to_vec();
                changed[cut] ^= 0x15;
                let _ = found(&mount(), &Answer { status, body: Zeroizing::new(changed) });
            }
        }
    }
    for text in [
        r#"{"data":{"data":"canary","metadata":{"version":1}}}"#,
        r#"{"data":{"data":["canary"],"metadata":{"version":1}}}"#,
        r#"{"data":{"data":{"a":"canary"},"metadata":{"version":"canary"}}}"#,
        r#"{"data":{"data":{"a":"canary"#,
    ] {
        let error = found(&mount(), &answer(200, text)).map(|_| ()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}

#[test]
fn what_the_engine_would_round_is_refused_and_equal_numbers_are_equal() {
    let document = |value: Value| value.as_object().unwrap().clone();
    let at: StorePath = "a".parse().unwrap();
    for exact in [json!(1_u64 << 53), json!(-(1_i64 << 53)), json!(1.5e300), json!("9007199254740993")] {
        assert!(write(&mount(), &at, &document(json!({ "a": exact })), 0, 1000).is_ok());
    }
    for beyond in [json!((1_u64 << 53) + 1), json!(u64::MAX), json!(i64::MIN)] {
        let error = write(&mount(), &at, &document(json!({ "a": { "b": [beyond] } })), 0, 1000).err();
        assert!(matches!(error, Some(OpenBaoError::Number(place)) if place.to_string() == "a.b.0"));
    }
    assert!(same(&json!({ "a": [1.0] }), &json!({ "a": [1] })));
    assert!(!same(&json!({ "a": 1 }), &json!({ "a": 1, "b": null })));
}

#[test]
fn metadata_that_the_engine_would_refuse_is_refused_before() {
    let one = |name: &str, text: &str| Metadata::from([(name.to_owned(), text.to_owned())]);
    assert!(check_metadata(&one("owner", &"x".repeat(512))).is_ok());
    for (name, text) in
        [("", "x"), ("owner", ""), ("a\nb", "x"), ("owner", "x\u{7}"), (BASE, "1"), (OF_VERSION, "1")]
    {
        assert!(check_metadata(&one(name, text)).is_err(), "{name:?}");
    }
    assert!(check_metadata(&one(&"n".repeat(129), "x")).is_err());
    assert!(check_metadata(&(0..63).map(|n| (n.to_string(), "x".to_owned())).collect()).is_err());
}
