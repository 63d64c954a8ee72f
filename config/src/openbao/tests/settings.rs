//! Settings of the store: from environment and file, as the book lists them.

use std::{collections::BTreeMap, os::unix::ffi::OsStringExt as _};

use super::*;
use crate::openbao::OpenBao;

fn variables(all: &[(&str, &str)]) -> Result<OpenBaoSettings, SettingsError> {
    let all: BTreeMap<_, _> =
        all.iter().map(|(name, value)| (name.to_string(), OsString::from(value))).collect();
    OpenBaoSettings::from_variables(|name| all.get(name).cloned())
}

fn file(name: &str, text: &str) -> Result<OpenBaoSettings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    OpenBaoSettings::from_file(&path)
}

/// A value that each kind of setting takes.
fn sample(setting: &Setting) -> &'static str {
    match setting.field {
        "skip_tls" => "true",
        "timeout_seconds" | "max_value_bytes" => "7",
        "auth" => "approle",
        "oidc_token" => "id",
        _ => "text",
    }
}

#[test]
fn every_setting_stands_in_the_environment_and_in_the_file() {
    for setting in OpenBaoSettings::ALL {
        for name in setting.variables() {
            let read = variables(&[(&name, sample(setting))]).unwrap();
            assert!(read.is_set(setting.field), "{name}");
        }
        let value = match setting.field {
            "skip_tls" => "true".to_owned(),
            "timeout_seconds" | "max_value_bytes" => "7".to_owned(),
            "oidc_scopes" => r#"["text"]"#.to_owned(),
            _ => format!("{:?}", sample(setting)),
        };
        for (name, text) in [
            ("a.toml", format!("{} = {value}", setting.key())),
            ("a.yaml", format!("{}: {value}", setting.key())),
            ("a.json", format!("{{\"{}\": {value}}}", setting.key())),
        ] {
            let read = file(name, &text).unwrap();
            assert!(read.is_set(setting.field), "{text}");
        }
    }
}

#[test]
fn the_names_that_were_promised_are_there() {
    let all: Vec<String> = OpenBaoSettings::ALL.iter().flat_map(Setting::variables).collect();
    for name in ["URL", "TOKEN", "USERNAME", "PASSWORD", "KV_MOUNT", "AUTH_MOUNT", "NAMESPACE", "SKIP_TLS"] {
        assert!(all.contains(&format!("OPENBAO_{name}")), "{name}");
    }
    assert!(all.contains(&"VAULT_ADDR".to_owned()) && all.contains(&"VAULT_TOKEN".to_owned()));
}

#[test]
fn the_book_has_every_setting_with_its_variables() {
    let book = include_str!("../../../../docs/src/configuration/openbao.md");
    for setting in OpenBaoSettings::ALL {
        let variables: Vec<_> = setting.variables().iter().map(|name| format!("`{name}`")).collect();
        let row = format!("| `{}` | {} | {} |", setting.key(), variables.join(", "), setting.description);
        assert!(book.contains(&row), "docs/src/configuration/openbao.md lacks: {row}");
    }
}

#[test]
fn ours_wins_over_those_of_other_programs_and_the_environment_over_the_file() {
    let read = variables(&[
        ("VAULT_ADDR", "https://vault"),
        ("BAO_ADDR", "https://bao"),
        ("OPENBAO_URL", "https://ours"),
        ("BAO_TOKEN", "of-bao"),
        ("VAULT_TOKEN", "of-vault"),
        ("OPENBAO_PREFIX", ""),
    ])
    .unwrap();
    assert_eq!(read.url.as_deref(), Some("https://ours"));
    assert_eq!(read.token.as_ref().map(Secret::expose), Some("of-bao"));
    let both = read.or(file("a.toml", "url = \"https://file\"\nprefix = \"p\"").unwrap());
    assert_eq!(both.url.as_deref(), Some("https://ours"));
    assert_eq!(both.prefix.as_deref(), Some("p"), "an empty variable is none");
}

#[test]
fn a_login_above_is_not_beaten_by_a_token_below() {
    let upper =
        variables(&[("OPENBAO_USERNAME", "alice"), ("OPENBAO_PASSWORD", "p"), ("VAULT_TOKEN", "t")]).unwrap();
    assert_eq!(upper.method(), Some(LoginMethod::Userpass));
    let lower = file("a.toml", "token = \"t\"").unwrap();
    assert_eq!(upper.or(lower).method(), Some(LoginMethod::Userpass));
    let chosen = variables(&[("OPENBAO_TOKEN", "t"), ("OPENBAO_AUTH", "kubernetes")]).unwrap();
    assert_eq!(chosen.method(), Some(LoginMethod::Kubernetes));
}

#[test]
fn what_is_missing_is_said_with_every_way_to_set_it() {
    let nothing = OpenBao::new(&OpenBaoSettings::default()).unwrap_err();
    assert!(matches!(nothing, SettingsError::NoServer));
    let text = nothing.to_string();
    assert!(text.contains("OPENBAO_URL, BAO_ADDR, VAULT_ADDR, or `url` in the file"), "{text}");

    let url = ("OPENBAO_URL", "https://bao.example.com");
    let text = OpenBao::new(&variables(&[url]).unwrap()).unwrap_err().to_string();
    for setting in OpenBaoSettings::ALL {
        assert!(text.contains(&setting.variables()[0]), "{text}");
    }
    for (given, missing) in [
        (("OPENBAO_USERNAME", "alice"), "OPENBAO_PASSWORD"),
        (("OPENBAO_ROLE_ID", "id"), "OPENBAO_SECRET_ID"),
        (("OPENBAO_AUTH", "kubernetes"), "OPENBAO_ROLE,"),
        (("OPENBAO_AUTH", "jwt"), "OPENBAO_JWT_FILE"),
        (("OPENBAO_OIDC_ISSUER", "https://id.example.com"), "OPENBAO_OIDC_CLIENT_ID"),
        (("OPENBAO_AUTH", "token"), "OPENBAO_TOKEN"),
    ] {
        let error = OpenBao::new(&variables(&[url, given]).unwrap()).unwrap_err();
        assert!(matches!(error, SettingsError::Incomplete { .. }), "{error}");
        assert!(error.to_string().contains(missing), "{error}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_and_never_repeated() {
    let secret = "hvs.canary";
    let base = [("OPENBAO_URL", "https://bao.example.com"), ("OPENBAO_TOKEN", secret)];
    for (name, value) in [
        ("OPENBAO_URL", "http://bao.example.com"),
        ("OPENBAO_URL", "https://user:hvs.canary@bao.example.com"),
        ("OPENBAO_URL", "https://bao.example.com/v1"),
        ("OPENBAO_URL", "ftp://bao.example.com"),
        ("OPENBAO_URL", "bao"),
        ("OPENBAO_KV_MOUNT", "../sys"),
        ("OPENBAO_PREFIX", "größe"),
        ("OPENBAO_AUTH_MOUNT", "a?b"),
        ("OPENBAO_CA_FILE", "/nonexistent/ca.pem"),
        ("OPENBAO_NAMESPACE", "a\nb"),
        ("OPENBAO_TIMEOUT_SECONDS", "0"),
    ] {
        let mut all = base.to_vec();
        all.push((name, value));
        let error = OpenBao::new(&variables(&all).unwrap()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
    }
    for (name, value) in
        [("OPENBAO_SKIP_TLS", "maybe"), ("OPENBAO_TIMEOUT_SECONDS", "5s"), ("OPENBAO_AUTH", "magic")]
    {
        let error = variables(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name) && !error.contains(value), "{error}");
    }
    let not_utf8 = OpenBaoSettings::from_variables(|name| {
        (name == "OPENBAO_TOKEN").then(|| OsString::from_vec(b"hvs.canary\xff".to_vec()))
    });
    let error = not_utf8.unwrap_err();
    assert!(error.to_string().contains("OPENBAO_TOKEN"), "{error}");
    assert!(!format!("{error:?}").contains("canary"));
    for (name, text) in [
        ("a.toml", "token = hvs.canary"),
        ("a.toml", "[token]\nhvs = \"hvs.canary\""),
        ("a.yaml", "token: [hvs.canary"),
        ("a.json", "{\"token\": hvs.canary}"),
        ("a.toml", "tokn = \"hvs.canary\""),
        ("a.toml", "skip-tls = \"hvs.canary\""),
        ("a.txt", "hvs.canary"),
    ] {
        let error = file(name, text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{text}: {error:?}");
    }
    let shown = format!("{:?}", variables(&base).unwrap());
    assert!(!shown.contains(secret), "{shown}");
    let client = OpenBao::new(&variables(&base).unwrap()).unwrap();
    assert!(!format!("{client:?}").contains(secret));
}

#[test]
fn a_machine_may_be_its_own_server_without_tls() {
    for url in ["http://127.0.0.1:8200", "http://localhost:8200", "http://[::1]:8200"] {
        OpenBao::new(&variables(&[("OPENBAO_URL", url), ("OPENBAO_TOKEN", "t")]).unwrap()).unwrap();
    }
    let skipped =
        variables(&[("OPENBAO_URL", "http://bao:8200"), ("OPENBAO_TOKEN", "t"), ("OPENBAO_SKIP_TLS", "1")])
            .unwrap();
    OpenBao::new(&skipped).unwrap();
}
