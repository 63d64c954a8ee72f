//! The built command on real folders: every subcommand, bad input of each kind, and no secret where none belongs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod home;

use home::{CANARY, Home, Switch};
use serde_json::{Value, json};

#[test]
fn what_a_service_wrote_is_listed_shown_and_found_without_its_secrets() {
    let home = Home::with_settings();
    let list = home.json(&["list"]);
    assert_eq!((list[0]["service"].as_str(), list[0]["key"].as_str()), (Some("switchd"), Some("Switch")));
    assert_eq!(list[0]["secrets"], json!(["password"]));

    let item = home.json(&["get", "Switch"]);
    assert_eq!(item["values"]["host"], "sw-1.example");
    assert_eq!(item["values"].get("password"), None);
    assert_eq!(home.ok(&["get", "Switch", "tls.port"]), "22\n");
    assert_eq!(home.ok(&["get", "Switch", "password"]), "[secret]\n");
    let table = home.ok(&["get", "Switch"]);
    assert!(table.contains("host") && table.contains("password   [secret]"), "{table}");
    assert!(!table.contains('\u{1b}'), "colours are for terminals");

    assert_eq!(home.json(&["search", "SW-1"])[0]["place"], "host");
    assert_eq!(home.json(&["search", "canary"]), json!([]), "secrets are not looked into");
}

#[test]
fn a_field_is_set_by_the_type_that_it_has() {
    let home = Home::with_settings();
    assert!(home.ok(&["set", "Switch", "tls.port", "2222"]).starts_with("Switch is at revision "));
    home.ok(&["set", "Switch", "host", "42"]);
    let values = home.json(&["get", "Switch"])["values"].clone();
    assert_eq!((&values["tls"]["port"], &values["host"]), (&json!(2222), &json!("42")));
    assert_eq!(home.service().host, "42", "the service reads what was set");

    let (code, _, error) = home.run(&["set", "Switch", "tls.port", "many"], "");
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("tls.port: expected a whole number"), "{error}");
    let (code, _, error) = home.run(&["set", "Switch", "tls.port", "70000"], "");
    assert_eq!(code, 4, "{error}");
    let (code, _, error) = home.run(&["set", "Switch", "hots", "x"], "");
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("did you mean host?"), "{error}");
    assert_eq!(home.json(&["get", "Switch"])["values"], values, "what was refused changed nothing");
}

#[test]
fn a_secret_is_never_taken_from_an_argument() {
    let home = Home::with_settings();
    let (code, _, error) = home.run(&["set", "Switch", "password", "hunter2"], "");
    assert_eq!(code, 2);
    assert!(error.contains("password is secret") && !error.contains("hunter2"), "{error}");
    let (code, out, error) = home.run(&["set", "Switch", "password"], "12345\n");
    assert_eq!(code, 0, "{error}");
    assert!(!out.contains("12345") && !error.contains("12345"));
    assert_eq!(home.service().password.expose(), "12345");
    assert_eq!(home.ok(&["reveal", "Switch", "password"]), "12345\n");
}

#[test]
fn a_secret_is_shown_by_reveal_alone_and_that_is_written_down() {
    let home = Home::with_settings();
    assert_eq!(home.ok(&["reveal", "Switch", "password"]), format!("{CANARY}\n"));
    assert_eq!(home.json(&["reveal", "Switch"])["password"], CANARY);
    let history = home.json(&["history", "--all"]);
    let reveals: Vec<_> = history.as_array().unwrap().iter().filter(|line| line["act"] == "reveal").collect();
    assert_eq!(reveals.len(), 2);
    assert_eq!((&reveals[1]["detail"], &reveals[1]["actor"]["who"]), (&json!("password"), &json!("tester")));
}

#[test]
fn nothing_else_shows_a_secret() {
    let home = Home::with_settings();
    home.ok(&["set", "Switch", "host", "sw-2"]);
    for arguments in [
        &["list"][..],
        &["get", "Switch"],
        &["get", "Switch", "password"],
        &["get", "Switch", "--revision", "1"],
        &["search", "password"],
        &["explain", "Switch"],
        &["history", "--all"],
        &["verify"],
        &["template", "Switch"],
        &["export"],
        &["backup"],
        &["doctor"],
        &["rotate", "encryption"],
        &["rotate", "cache"],
        &["rollback", "Switch", "--to", "1"],
        &["delete", "Switch", "password"],
        &["delete", "Switch"],
    ] {
        for format in ["table", "json"] {
            let arguments: Vec<_> = arguments.iter().copied().chain(["--output", format]).collect();
            let (_, out, error) = home.run(&arguments, "");
            assert!(!out.contains(CANARY) && !error.contains(CANARY), "{arguments:?}");
        }
    }
    assert_eq!(home.files_with(CANARY), Vec::<std::path::PathBuf>::new());
}

#[test]
fn explain_says_who_wins() {
    let home = Home::with_settings();
    let (code, out, error) =
        home.run_with(&["explain", "Switch", "-o", "json"], "", &[("HARMONY_CONFIG_Switch__HOST", "sw-9")]);
    assert_eq!(code, 0, "{error}");
    let explained: Value = serde_json::from_str(&out).unwrap();
    let fields = explained["fields"].as_array().unwrap();
    let host = fields.iter().find(|field| field["field"] == "host").unwrap();
    assert_eq!((&host["value"], &host["source"]), (&json!("sw-9"), &json!("environment")));
    assert_eq!(host["hides"][0]["source"], "sqlite");
    let password = fields.iter().find(|field| field["field"] == "password").unwrap();
    assert_eq!(password["value"], "[secret]");

    let variables = [("HARMONY_CONFIG_Switch__HOST", "sw-9")];
    let (_, _, error) = home.run_with(&["set", "Switch", "host", "sw-3"], "", &variables);
    assert!(error.contains("host has another value all the same"), "{error}");
}

#[test]
fn what_was_comes_back() {
    let home = Home::with_settings();
    home.ok(&["set", "Switch", "host", "sw-2"]);
    home.ok(&["delete", "Switch"]);
    assert_eq!(home.run(&["get", "Switch"], "").0, 3);
    assert_eq!(home.run(&["rollback", "Switch", "--to", "99"], "").0, 3);
    assert_eq!(home.run(&["rollback", "Switch", "--to", "1", "--expected", "1"], "").0, 4);
    home.ok(&["rollback", "Switch", "--to", "1"]);
    assert_eq!(home.service().host, "sw-1.example");
    let acts: Vec<_> = home
        .json(&["history", "Switch"])
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["act"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(acts, ["rollback", "delete", "set", "set"]);
    home.ok(&["delete", "Switch", "tls.port"]);
    assert_eq!(home.run(&["delete", "Switch", "tls.nothing"], "").0, 3);
}

#[test]
fn a_whole_item_is_set_from_a_file_or_the_standard_input() {
    let home = Home::with_settings();
    let file = home.path("new.toml");
    std::fs::write(&file, format!("host = \"sw-7\"\npassword = \"{CANARY}-7\"\n")).unwrap();
    home.ok(&["set", "Switch", "--file", file.to_str().unwrap()]);
    assert_eq!(home.service().password.expose(), &format!("{CANARY}-7"));
    std::fs::remove_file(file).unwrap();

    let whole = json!({ "host": "sw-8", "password": "p" }).to_string();
    home.run_ok(&["set", "Switch", "--file", "-"], &whole);
    assert_eq!(home.service().host, "sw-8");
    for (bad, code) in [
        ("{", 4),
        ("[1]", 4),
        (r#"{"host": "x"}"#, 4),
        (r#"{"host": "x", "password": "p", "more": 1}"#, 4),
        (r#"{"host": 5, "password": "canary-7f3a91"}"#, 4),
    ] {
        let (found, out, error) = home.run(&["set", "Switch", "--file", "-"], bad);
        assert_eq!(found, code, "{bad}: {error}");
        assert!(!out.contains(CANARY) && !error.contains(CANARY), "{error}");
    }
    assert_eq!(home.run(&["set", "Switch", "--file", "-", "--expected", "1"], &whole).0, 4, "a conflict");
    assert_eq!(home.run(&["set", "Switch", "--file", "/nowhere.toml"], "").0, 3);
}

#[test]
fn without_a_schema_that_is_said_and_what_may_be_secret_is_sealed() {
    let home = Home::new();
    let arguments = ["set", "--service", "other", "Thing", "--file", "-"];
    let (code, _, error) = home.run(&arguments, &json!({ "token": CANARY, "n": 1 }).to_string());
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("no schema of Thing is known"), "{error}");
    assert_eq!(home.files_with(CANARY), Vec::<std::path::PathBuf>::new());
    assert_eq!(home.json(&["get", "Thing"])["secrets"], json!(["n", "token"]));

    home.ok(&["set", "Thing", "plain", "5"]);
    let (code, _, _) = home.run(&["set", "Thing", "pin", "--secret", "pin"], "0042");
    assert_eq!(code, 0);
    assert_eq!(
        home.json(&["reveal", "Thing"]),
        json!({ "token": CANARY, "n": 1, "plain": 5, "pin": "0042" })
    );
    assert_eq!(home.run(&["template", "Thing"], "").0, 3);

    // From then on it is known.
    let schema = home.path("thing.json");
    let described = json!({ "type": "object", "properties": {
        "token": { "type": "string", "x-secret": true }, "n": { "type": "integer" },
        "plain": { "type": "integer" }, "pin": { "type": "string" } } });
    std::fs::write(&schema, described.to_string()).unwrap();
    home.ok(&["set", "Thing", "plain", "6", "--schema", schema.to_str().unwrap()]);
    assert_eq!(home.run(&["set", "Thing", "plan", "7"], "").0, 4);
    assert!(home.ok(&["template", "Thing"]).contains("plain"));
    assert_eq!(
        home.json(&["get", "Thing"])["secrets"],
        json!(["n", "pin", "token"]),
        "what was secret stays so"
    );
}

#[test]
fn what_only_the_service_can_migrate_is_left_to_it() {
    let home = Home::with_settings();
    let schema = home.path("later.json");
    let later = json!({ "type": "object", "properties": {
        "address": { "type": "string" }, "password": { "type": "string", "x-secret": true } } });
    std::fs::write(&schema, later.to_string()).unwrap();
    let schema = schema.to_str().unwrap();
    for arguments in [
        &["set", "Switch", "address", "sw-2", "--schema", schema][..],
        &["delete", "Switch", "host", "--schema", schema],
    ] {
        let (code, _, error) = home.run(arguments, "");
        assert_eq!(code, 4, "{error}");
        assert!(error.contains("host is no field of this model"), "{error}");
    }
    assert_eq!(home.service().host, "sw-1.example", "nothing was lost");
    let whole = json!({ "address": "sw-2", "password": "p" }).to_string();
    home.run_ok(&["set", "Switch", "--file", "-", "--schema", schema], &whole);
    home.ok(&["rollback", "Switch", "--to", "1"]);
    assert_eq!(home.json(&["export"])["items"]["Switch"]["values"]["host"], "sw-1.example");
}

#[test]
fn a_template_has_every_field() {
    let home = Home::with_settings();
    for format in ["toml", "yaml", "json"] {
        let text = home.ok(&["template", "Switch", "--format", format]);
        assert!(text.contains("What it asks for.") && text.contains("secret"), "{text}");
    }
}

#[test]
fn an_export_moves_to_another_folder() {
    let home = Home::with_settings();
    let export = home.ok(&["export"]);
    assert!(!export.contains(CANARY) && export.contains("\"omitted\""), "{export}");
    let whole = home.ok(&["export", "--reveal-secrets"]);
    assert!(whole.contains(CANARY));

    let other = Home::new();
    let (code, _, error) = other.run(&["import", "-", "--service", "switchd"], &whole);
    assert_eq!(code, 0, "{error}");
    assert_eq!(other.files_with(CANARY), Vec::<std::path::PathBuf>::new());
    let read: Switch = other.service();
    assert_eq!((read.host.as_str(), read.password.expose().as_str()), ("sw-1.example", CANARY));
    home.run_ok(&["import", "-"], &export);
    assert_eq!(home.service().password.expose(), CANARY, "what was left out stays");
    assert_eq!(home.run(&["import", "-"], "{}").0, 4);
    assert_eq!(home.run(&["import", "/nowhere.json"], "").0, 1);
}
