//! Looking after settings: verification, keys, backups, the doctor; faults of each kind, wrong usage.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod home;

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
};

use harmony_config::{Layer, Model, keyring::Keyring, last_known_good::LastKnownGood};
use home::{CANARY, Home};
use serde_json::{Value, json};

fn copy_database(home: &Home, to: &str) {
    // No process has it open: everything is in the one file.
    let settings = home.settings();
    fs::copy(settings.join("config.db"), settings.join(to)).unwrap();
}

fn put_back(home: &Home, from: &str) {
    let settings = home.settings();
    for beside in ["config.db-wal", "config.db-shm"] {
        let _ = fs::remove_file(settings.join(beside));
    }
    fs::copy(settings.join(from), settings.join("config.db")).unwrap();
}

fn checks(home: &Home, variables: &[(&str, &str)]) -> (i32, Vec<(String, String, String)>) {
    let (code, out, error) = home.run_with(&["doctor", "-o", "json"], "", variables);
    let checks: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |check: &Value| (text(&check["what"]), text(&check["status"]), text(&check["next"]));
    (code, checks.as_array().unwrap().iter().map(row).collect())
}

fn status<'c>(checks: &'c [(String, String, String)], what: &str) -> &'c str {
    &checks.iter().find(|check| check.0 == what).unwrap_or_else(|| panic!("{checks:?}")).1
}

#[test]
fn an_older_copy_is_found_out_and_accepted_on_purpose_only() {
    let home = Home::with_settings();
    assert_eq!(home.json(&["verify"])["sound"], true);
    copy_database(&home, "old.db");
    home.ok(&["set", "Switch", "host", "sw-2"]);
    put_back(&home, "old.db");

    let (code, _, error) = home.run(&["get", "Switch"], "");
    assert_eq!(code, 4);
    assert!(error.contains("harmony-config restore --accept"), "{error}");
    let (code, out, _) = home.run(&["verify", "-o", "json"], "");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["sound"]), (4, &json!(false)));
    assert_eq!(checks(&home, &[]).0, 4);

    home.ok(&["restore", "--accept"]);
    assert_eq!(home.ok(&["get", "Switch", "host"]), "sw-1.example\n");
    assert_eq!(home.run(&["verify"], "").0, 0);
}

#[test]
fn a_backup_gives_any_time_back() {
    let home = Home::with_settings();
    home.ok(&["backup"]);
    home.ok(&["set", "Switch", "host", "sw-2"]);
    home.ok(&["set", "Switch", "host", "sw-3"]);
    home.ok(&["backup"]);
    assert_eq!(home.run(&["restore"], "").0, 4, "nothing is replaced");
    assert_eq!(home.run(&["restore", "--to", "yesterday"], "").0, 2);
    assert_eq!(home.run(&["restore", "--from", "/nowhere"], "").0, 3);

    fs::remove_file(home.settings().join("config.db")).unwrap();
    for beside in ["config.db-wal", "config.db-shm"] {
        let _ = fs::remove_file(home.settings().join(beside));
    }
    assert_eq!(home.run(&["get", "Switch"], "").0, 3);
    let done = home.json(&["restore", "--to", "line:2"]);
    assert_eq!(done["line"], 2);
    assert_eq!(home.ok(&["get", "Switch", "host"]), "sw-2\n");
    assert_eq!(home.ok(&["reveal", "Switch", "password"]), format!("{CANARY}\n"));
    let other = home.path("other.db");
    home.ok(&["restore", "--into", other.to_str().unwrap()]);
    assert!(other.exists());
    assert_eq!(home.run(&["verify"], "").0, 0);
}

#[test]
fn keys_are_rotated_and_old_ones_dropped() {
    let home = Home::with_settings();
    home.service();
    for purpose in ["encryption", "cache", "updates"] {
        let done = home.json(&["rotate", purpose]);
        assert_eq!((&done["key"], &done["dropped"]), (&json!("v2"), &json!([])));
        assert_eq!(status(&checks(&home, &[]).1, "keys"), "warn");
        let done = home.json(&["rotate", purpose, "--no-new-key", "--drop-old"]);
        assert_eq!((&done["key"], &done["dropped"]), (&json!("v2"), &json!(["v1"])));
        assert_eq!(status(&checks(&home, &[]).1, "keys"), "ok");
        let done = home.json(&["rotate", purpose, "--drop-old"]);
        assert_eq!((&done["key"], &done["dropped"]), (&json!("v3"), &json!(["v2"])));
        assert_eq!(home.service().password.expose(), CANARY);
        let found = home.json(&["verify"]);
        assert_eq!(found["sound"], true);
        assert_eq!(status(&checks(&home, &[]).1, "last known good"), "ok");
    }
    assert_eq!(home.run(&["set", "Switch", "hots", "x"], "").0, 4, "the schema is still known");
    assert_eq!(home.run(&["rotate", "everything"], "").0, 2);
}

#[test]
fn the_doctor_tells_of_a_store_that_went_back() {
    let home = Home::with_settings();
    let keyring = Keyring::open(&home.settings().join("keys")).unwrap();
    let file = home.settings().join("config.lkg.json");
    let file = LastKnownGood::open(&file, keyring).unwrap().for_owner("switchd");
    let model = Model::of::<home::Switch>().unwrap();
    let seen = |revision: u64| {
        let values =
            json!({ "host": format!("sw-{revision}"), "password": CANARY }).as_object().unwrap().clone();
        let layer = Layer {
            values,
            place: "a store".to_owned(),
            fields: Default::default(),
            version: None,
            revision: Some(revision),
        };
        file.remember("openbao", &model, Some(&layer)).unwrap();
    };
    seen(7);
    assert!(!home.ok(&["doctor"]).contains("went back"));
    seen(3);
    let text = home.ok(&["doctor"]);
    let line = text.lines().find(|line| line.starts_with("warn store: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("openbao went back: Switch of switchd is at revision 3"), "{line}");
    assert!(line.contains("7 was seen") && line.contains("Next: ") && line.contains("address"), "{line}");
    seen(8);
    assert!(!home.ok(&["doctor"]).contains("went back"));
}

#[test]
fn the_doctor_looks_at_everything() {
    let home = Home::with_settings();
    home.service();
    fs::set_permissions(home.settings(), fs::Permissions::from_mode(0o700)).unwrap();
    home.ok(&["backup"]);
    let (code, found) = checks(&home, &[("HARMONY_CONFIG_Switch__HOST", "x")]);
    assert_eq!(code, 0);
    for what in ["folder", "keys", "database", "last known good", "backup", "environment"] {
        assert_eq!(status(&found, what), "ok", "{what}: {found:?}");
    }
    let text = home.ok(&["doctor"]);
    assert!(text.lines().all(|line| line.starts_with("ok   ")), "{text}");

    let variables = [
        ("HARMONY_CONFIG_switch__HOST", CANARY),
        ("HARMONY_CONFIG_Nobody", "{}"),
        ("HARMONY_CONFIG_Switch__HOTS", "x"),
    ];
    let (code, found) = checks(&home, &variables);
    let mut nexts: Vec<_> =
        found.iter().filter(|check| check.1 == "warn").map(|check| check.2.clone()).collect();
    nexts.sort();
    assert_eq!((code, nexts.len()), (0, 3), "{found:?}");
    assert!(nexts.iter().any(|next| next.contains("did you mean HARMONY_CONFIG_Switch")), "{nexts:?}");
    assert!(nexts.iter().any(|next| next.contains("did you mean host")), "{nexts:?}");

    let broken = std::ffi::OsStr::from_bytes(b"canary-7f3a91\xff");
    let done = home.command(&["doctor"]).env("HARMONY_CONFIG_Switch__HOST", broken).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(4), "{text}");
    assert!(
        text.contains("the value of HARMONY_CONFIG_Switch__HOST is not UTF-8") && !text.contains(CANARY),
        "{text}"
    );

    fs::set_permissions(home.settings(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(home.settings().join("config.lkg.json"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(home.settings().join("config.lkg.json"), "{").unwrap();
    let (code, found) = checks(&home, &[]);
    assert_eq!((code, status(&found, "folder"), status(&found, "last known good")), (4, "fail", "fail"));
    fs::remove_dir_all(home.settings().join("backup")).unwrap();
    assert_eq!(status(&checks(&home, &[]).1, "backup"), "warn");
    fs::write(home.settings().join("config.db"), "no database at all, whatever its name says").unwrap();
    assert_eq!(status(&checks(&home, &[]).1, "database"), "fail");
}

#[test]
fn what_was_changed_by_hand_is_neither_shown_nor_called_sound() {
    let home = Home::with_settings();
    // Puts everything into the one file.
    home.ok(&["get", "Switch"]);
    let file = home.settings().join("config.db");
    let bytes = fs::read(&file).unwrap();
    let needle = b"sw-1.example";
    let mut changed = bytes.clone();
    let mut found = 0;
    for at in 0..bytes.len() - needle.len() {
        if bytes[at..].starts_with(needle) {
            changed[at + 3] = b'9';
            found += 1;
        }
    }
    assert!(found > 0, "the values stand in the file");
    fs::write(&file, changed).unwrap();
    for arguments in
        [&["get", "Switch"][..], &["reveal", "Switch"], &["verify"], &["doctor"], &["rotate", "cache"]]
    {
        let (code, out, error) = home.run(arguments, "");
        assert_eq!(code, 4, "{arguments:?}: {out}{error}");
        assert!(!out.contains("sw-9") && !out.contains(CANARY), "{out}");
    }
    assert_eq!(status(&checks(&home, &[]).1, "keys"), "ok", "no key was made that is of no use");
}

#[test]
fn the_doctor_of_a_first_use_finds_no_fault_and_of_lost_keys_it_does() {
    let home = Home::new();
    let (code, found) = checks(&home, &[]);
    assert_eq!((code, status(&found, "folder")), (0, "warn"), "{found:?}");
    assert!(found.iter().all(|check| check.0 != "keys"), "nothing is missing yet: {found:?}");

    let home = Home::with_settings();
    fs::remove_dir_all(home.settings().join("keys")).unwrap();
    let (code, found) = checks(&home, &[]);
    assert_eq!((code, status(&found, "keys")), (4, "fail"), "{found:?}");
}

#[test]
fn lost_or_open_keys_are_said_and_never_made_anew() {
    let home = Home::with_settings();
    let keys = home.settings().join("keys");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, _, error) = home.run(&["list"], "");
    assert_eq!(code, 1);
    assert!(error.contains("chmod"), "{error}");
    fs::remove_dir_all(&keys).unwrap();
    for arguments in
        [&["list"][..], &["set", "Switch", "host", "x"], &["set", "-s", "switchd", "Switch", "host", "x"]]
    {
        let (code, _, error) = home.run(arguments, "");
        assert_eq!(code, 3, "{error}");
        assert!(error.contains("next: put the folder of the keys back"), "{error}");
    }
    assert!(!keys.exists());
    assert_eq!(status(&checks(&home, &[]).1, "keys"), "fail");
}

#[test]
fn what_is_not_there_is_said_and_not_made() {
    let home = Home::new();
    for arguments in [
        &["list"][..],
        &["get", "Switch"],
        &["search", "x"],
        &["explain", "Switch"],
        &["reveal", "Switch"],
        &["history"],
        &["rollback", "Switch", "--to", "1"],
        &["verify"],
        &["rotate", "cache"],
        &["template", "Switch"],
        &["export"],
        &["backup"],
        &["restore"],
        &["restore", "--accept"],
        &["delete", "Switch"],
    ] {
        let (code, out, error) = home.run(arguments, "");
        assert_eq!((code, out.as_str()), (3, ""), "{arguments:?}: {error}");
        assert!(error.contains("next: "), "{arguments:?}: {error}");
    }
    assert_eq!(status(&checks(&home, &[]).1, "folder"), "warn");
    assert_eq!(home.run(&["set", "Switch", "host", "x"], "").0, 2, "whose?");
    assert!(!home.settings().exists());

    let home = Home::with_settings();
    for arguments in [
        &["get", "Nobody"][..],
        &["get", "Switch", "nothing"],
        &["get", "Switch", "--service", "nobody"],
        &["reveal", "Switch", "nothing"],
        &["explain", "Nobody"],
    ] {
        assert_eq!(home.run(arguments, "").0, 3, "{arguments:?}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let home = Home::with_settings();
    for arguments in [
        &[][..],
        &["fetch"],
        &["get"],
        &["get", "a/b"],
        &["get", "Switch", "a..b"],
        &["set", "Switch"],
        &["rollback", "Switch"],
        &["rotate"],
        &["get", "Switch", "--output", "xml"],
        &["restore", "--accept", "--to", "line:1"],
        &["backup", "--copies", "0"],
        &["set", "--service", "no/name", "Switch", "host", "x"],
    ] {
        assert_eq!(home.run(arguments, "").0, 2, "{arguments:?}");
    }
    home.ok(&["set", "--service", "other", "Thing", "n", "1"]);
    let (code, _, error) = home.run(&["get", "Switch"], "");
    assert_eq!(code, 2);
    assert!(error.contains("--service with one of: other, switchd"), "{error}");
    assert_eq!(home.ok(&["get", "Switch", "host", "--service", "switchd"]), "sw-1.example\n");
}

#[test]
fn every_subcommand_has_help_with_examples() {
    let home = Home::new();
    for verb in [
        "get",
        "set",
        "delete",
        "list",
        "search",
        "explain",
        "reveal",
        "history",
        "rollback",
        "verify",
        "rotate",
        "template",
        "export",
        "import",
        "backup",
        "restore",
        "doctor",
        "completion",
    ] {
        let help = home.ok(&[verb, "--help"]);
        assert!(help.contains("Examples:\n"), "{verb}: {help}");
    }
    assert!(home.ok(&["--help"]).contains("Exit codes: "));
    assert!(home.ok(&["completion", "bash"]).contains("harmony-config"));
    assert_eq!(home.ok(&["version"]), format!("harmony-config {}\n", env!("CARGO_PKG_VERSION")));
}
