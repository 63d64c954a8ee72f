//! The example `openbao_chain`, as somebody who tries the library runs it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::binaries;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Running;

/// Runs it with nothing in its environment but this.
async fn run(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Result<(bool, String)> {
    let mut child = Command::new(binaries::own("examples/openbao_chain")?)
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes()).await?;
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await??;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(text)?))
}

#[tokio::test]
async fn environment_wins_over_the_file_and_the_file_over_the_store() -> Result<()> {
    let store = Running::start().await?;
    let (settings, folder) = (store.folder.path().join("store.toml"), store.folder.path().join("settings"));
    std::fs::create_dir(&folder)?;
    let (settings_path, folder_path) = (settings.display().to_string(), folder.display().to_string());
    let base =
        [("OPENBAO_SETTINGS", settings_path.as_str()), ("HARMONY_CONFIG_FOLDER", folder_path.as_str())];

    let (ok, text) = run(&[], &base[1..], "").await?;
    assert!(!ok && text.contains("OPENBAO_URL"), "{text}");
    std::fs::write(&settings, format!("url = {:?}\nkv-mount = \"kv\"\n", store.url()))?;
    let (ok, text) = run(&[], &base, "").await?;
    assert!(!ok && text.contains("OPENBAO_TOKEN") && text.contains("`role-id` in the file"), "{text}");

    let token = store.token("harmony", json!({ "ttl": "1h" })).await?;
    let with = |more: &[(&'static str, &'static str)]| {
        let mut all: Vec<(&str, &str)> = base.to_vec();
        all.push(("OPENBAO_TOKEN", &token));
        all.extend(more);
        all
    };
    // Nothing anywhere: every field is named, and where it can be set.
    let (ok, text) = run(&[], &with(&[]), "").await?;
    assert!(!ok, "{text}");
    for word in ["url", "user", "password", "HARMONY_CONFIG_SwitchAccess", "bao kv put"] {
        assert!(text.contains(word), "{word}: {text}");
    }

    let (ok, text) =
        run(&["set", "https://switch.example.com", "ann"], &with(&[]), "canary-password\n").await?;
    assert!(ok && text.contains("kept"), "{text}");
    let kept = store.admin("GET", "kv/data/harmony/SwitchAccess", json!(null)).await?;
    assert_eq!(kept["data"]["data"]["password"], "canary-password", "the store has it, and encrypts it");

    let (ok, text) = run(&[], &with(&[]), "").await?;
    assert!(ok && text.contains("https://switch.example.com as ann"), "{text}");
    assert!(text.contains("15 characters") && !text.contains("canary"), "{text}");
    std::fs::write(folder.join("SwitchAccess.toml"), "user = \"carl\"\n")?;
    let (ok, text) = run(&[], &with(&[]), "").await?;
    assert!(ok && text.contains("https://switch.example.com as carl"), "{text}");
    let (ok, text) = run(&[], &with(&[("HARMONY_CONFIG_SwitchAccess__USER", "bob")]), "").await?;
    assert!(ok && text.contains("https://switch.example.com as bob"), "{text}");
    // Which source gave what.
    for place in ["variable HARMONY_CONFIG_SwitchAccess__USER", "kv/harmony/SwitchAccess"] {
        assert!(text.contains(place), "{place}: {text}");
    }
    assert!(!text.contains("canary"), "{text}");

    let state = store.folder.path().join("state").display().to_string();
    let remembering: Vec<_> =
        with(&[]).into_iter().chain([("HARMONY_CONFIG_STATE", state.as_str())]).collect();
    let (ok, text) = run(&[], &remembering, "").await?;
    assert!(ok, "{text}");
    let sealed = std::fs::read_to_string(store.folder.path().join("state/config.lkg.json"))?;
    assert!(!sealed.contains("canary"), "{sealed}");

    // The store is away: what environment and file have suffices, or it is said what is missing and why.
    store.process.kill().await?;
    let begun = Instant::now();
    let (ok, text) = run(&[], &with(&[]), "").await?;
    assert!(!ok && text.contains("password") && text.contains("no connection"), "{text}");
    let (ok, text) = run(&[], &remembering, "").await?;
    assert!(ok && text.contains("https://switch.example.com as carl"), "{text}");
    assert!(text.contains("15 characters") && text.contains("last known good"), "{text}");
    let whole = r#"{"url":"https://other.example.com","user":"eve","password":"canary"}"#;
    let (ok, text) = run(&[], &with(&[("HARMONY_CONFIG_SwitchAccess", whole)]), "").await?;
    assert!(
        ok && text.contains("Unreachable") && text.contains("https://other.example.com as eve"),
        "{text}"
    );
    assert!(!text.contains("canary"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    Ok(())
}
