//! What a store can do to its clients, and that none of it is silent, endless or loud about secrets.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::http_meddler::{Act, Request};
use e2e::secret_store::Product;
use e2e::wait::{Look, until};
use harmony_config::openbao::{OpenBao, OpenBaoSettings, Secret};
use harmony_config::store::{Metadata, StoreState, WentBack};
use harmony_config::{Key, Model, SchemaVersion, Source as _, SourceError, Store as _, StoreSource};
use serde_json::json;
use tracing::instrument::WithSubscriber as _;

use super::{Running, always, path, values, vlan};

/// Time for one call, with room for a slow machine around it.
const BOUND: Duration = Duration::from_millis(6_500);

fn model() -> Model {
    Model {
        key: "Vlan".parse::<Key>().unwrap(),
        schema: json!({ "type": "object" }).try_into().unwrap(),
        version: SchemaVersion("00112233aabbccdd".into()),
        secrets: Vec::new(),
        places: Default::default(),
    }
}

/// An absence: the chain goes on without it.
fn absent(error: &SourceError, word: &str) {
    assert!(error.is_absence(), "{error:?}");
    assert!(error.to_string().contains(word), "{error}");
}

#[tokio::test]
async fn a_sealed_store_says_so_at_once_and_serves_again_once_unsealed() -> Result<()> {
    let store = Running::start().await?;
    let (client, at) = (store.client()?, path("harmony/Vlan"));
    let revision = client.put(&at, &vlan(1), Some(0), &Metadata::new()).await?;
    store.seal().await?;
    let begun = Instant::now();
    absent(&client.get(&at).await.unwrap_err(), "sealed");
    absent(
        &client.put(&at, &vlan(2), Some(revision), &Metadata::new()).await.unwrap_err(),
        "bao operator unseal",
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(client.health().await.state, StoreState::Sealed);
    // A client that begins now, too.
    absent(&store.client()?.get(&at).await.unwrap_err(), "sealed");
    store.unseal().await?;
    assert_eq!(client.get(&at).await?.unwrap().values, vlan(1));
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_away_at_construction_or_later_is_an_absence() -> Result<()> {
    let store = Running::start().await?;
    let at = path("harmony/Vlan");
    store.client()?.put(&at, &vlan(1), Some(0), &Metadata::new()).await?;
    store.process.kill().await?;
    let begun = Instant::now();
    let client = store.client()?;
    assert!(begun.elapsed() < Duration::from_secs(1), "construction asks nobody");
    absent(&client.get(&at).await.unwrap_err(), "no connection");
    assert!(matches!(client.health().await.state, StoreState::Unreachable(_)));
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());

    store.store.start().await?;
    assert_eq!(client.get(&at).await?.unwrap().values, vlan(1));
    store.process.kill().await?;
    absent(&client.get(&at).await.unwrap_err(), "OPENBAO_URL");
    store.store.start().await?;
    assert_eq!(client.get(&at).await?.unwrap().values, vlan(1));
    Ok(())
}

#[tokio::test]
async fn a_store_that_needs_ten_seconds_is_given_up_after_five() -> Result<()> {
    let store = Running::start().await?;
    let at = path("harmony/Vlan");
    store.client()?.put(&at, &vlan(1), Some(0), &Metadata::new()).await?;
    let slow = Arc::new(AtomicBool::new(true));
    let is_slow = Arc::clone(&slow);
    let proxy = store
        .behind(move |_| {
            always(match is_slow.load(Ordering::SeqCst) {
                true => Act::Delay(Duration::from_secs(10)),
                false => Act::Pass,
            })
        })
        .await?;
    let client = store.client_behind(&proxy)?;
    let begun = Instant::now();
    absent(&client.get(&at).await.unwrap_err(), "no answer within 5 s");
    let took = begun.elapsed();
    assert!((Duration::from_millis(4_900)..BOUND).contains(&took), "{took:?}");
    // Ten models do not wait ten times.
    let begun = Instant::now();
    for _ in 0..10 {
        absent(&client.get(&at).await.unwrap_err(), "a moment ago");
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let write = client.put(&at, &vlan(2), None, &Metadata::new()).await.unwrap_err();
    absent(&write, "it may have been written or not");

    slow.store(false, Ordering::SeqCst);
    until("the store to be asked again", Duration::from_secs(10), async || {
        Ok(Look::Done(client.get(&at).await?.map(|entry| entry.values)))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_flapping_store_serves() -> Result<()> {
    let store = Running::start().await?;
    let at = path("harmony/Vlan");
    let count = Arc::new(AtomicUsize::new(0));
    let proxy = store
        .behind(move |_| {
            always(match count.fetch_add(1, Ordering::SeqCst) % 3 {
                2 => Act::Pass,
                _ => Act::Drop,
            })
        })
        .await?;
    let client = store.client_behind(&proxy)?;
    let revision = client.put(&at, &vlan(1), Some(0), &Metadata::new()).await?;
    client.put(&at, &vlan(2), Some(revision), &Metadata::new()).await?;
    for _ in 0..5 {
        assert_eq!(client.get(&at).await?.unwrap().version, 2);
    }
    Ok(())
}

#[tokio::test]
async fn who_may_not_is_told_what_and_the_chain_goes_on() -> Result<()> {
    let store = Running::start().await?;
    store.policy("others", r#"path "kv/data/others/*" { capabilities = ["read"] }"#).await?;
    let token = store.token("others", json!({})).await?;
    let settings = OpenBaoSettings { token: Some(Secret::new(token.clone())), ..store.without_login() };
    let client = Arc::new(OpenBao::new(&settings)?);
    let error = client.get(&path("harmony/Vlan")).await.unwrap_err();
    assert!(matches!(error, SourceError::Denied { .. }), "{error:?}");
    absent(&error, "kv/harmony/Vlan");
    assert!(error.to_string().contains("policies") && !error.to_string().contains(&token), "{error}");
    let write = client.put(&path("others/Vlan"), &vlan(1), None, &Metadata::new()).await.unwrap_err();
    assert!(matches!(write, SourceError::Denied { .. }), "{write:?}");
    let source = StoreSource::new(client, path("harmony"));
    absent(&source.read(&model()).await.unwrap_err(), "permission denied");

    let wrong = OpenBaoSettings { token: Some(Secret::new("hvs.wrong".into())), ..store.without_login() };
    let error = OpenBao::new(&wrong)?.get(&path("harmony/Vlan")).await.unwrap_err();
    absent(&error, "the login token at auth/token is refused");
    Ok(())
}

#[tokio::test]
async fn a_mount_that_is_not_there_is_no_empty_store() -> Result<()> {
    let store = Running::start().await?;
    store.admin("POST", "sys/mounts/old", json!({ "type": "kv", "options": { "version": "1" } })).await?;
    for mount in ["nowhere", "old"] {
        let client = OpenBao::new(&OpenBaoSettings { kv_mount: Some(mount.into()), ..store.settings()? })?;
        let error = client.put(&path("harmony/Vlan"), &vlan(1), None, &Metadata::new()).await.unwrap_err();
        absent(&error, "key-value engine of version 2");
        assert!(error.to_string().contains("OPENBAO_KV_MOUNT"), "{error}");
    }
    let client = OpenBao::new(&OpenBaoSettings { kv_mount: Some("nowhere".into()), ..store.settings()? })?;
    absent(&client.get(&path("harmony/Vlan")).await.unwrap_err(), "key-value engine of version 2");
    Ok(())
}

/// The login's tokens live 2 s and 4 s at most: renewed, then had anew, while reads go on.
#[tokio::test]
async fn tokens_that_end_in_the_middle_are_renewed_and_had_anew() -> Result<()> {
    let store = Running::start().await?;
    store.admin("POST", "sys/auth/userpass", json!({ "type": "userpass" })).await?;
    let user =
        json!({ "password": "p", "token_policies": "harmony", "token_ttl": "2s", "token_max_ttl": "4s" });
    store.admin("POST", "auth/userpass/users/alice", user).await?;
    let (logins, renewals) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (login, renewal) = (Arc::clone(&logins), Arc::clone(&renewals));
    let proxy = store
        .behind(move |request: Request| {
            if request.path.contains("/login/") {
                login.fetch_add(1, Ordering::SeqCst);
            }
            if request.path.contains("/renew-self") {
                renewal.fetch_add(1, Ordering::SeqCst);
            }
            always(Act::Pass)
        })
        .await?;
    let settings = OpenBaoSettings {
        url: Some(proxy.url()),
        username: Some("alice".into()),
        password: Some(Secret::new("p".into())),
        ..store.without_login()
    };
    let (client, at) = (OpenBao::new(&settings)?, path("harmony/Vlan"));
    client.put(&at, &vlan(1), Some(0), &Metadata::new()).await?;
    until("three logins, with renewals between them", Duration::from_secs(40), async || {
        // Any read that fails ends the wait with an error of its own below.
        client.get(&at).await.unwrap();
        let (logins, renewals) = (logins.load(Ordering::SeqCst), renewals.load(Ordering::SeqCst));
        Ok(match logins >= 3 && renewals >= 2 {
            true => Look::Done(()),
            false => Look::not_yet(format!("{logins} logins, {renewals} renewals")),
        })
    })
    .await?;

    // Somebody revokes it between two calls: the next write logs in first.
    let before = logins.load(Ordering::SeqCst);
    store.admin("POST", "sys/leases/revoke-prefix/auth/userpass", json!({})).await?;
    client.put(&at, &vlan(2), None, &Metadata::new()).await?;
    assert!(logins.load(Ordering::SeqCst) > before);
    Ok(())
}

/// Nobody reads meanwhile: the renewal itself sees that the store is away, and that it is back.
#[tokio::test]
async fn a_renewal_that_failed_is_tried_again_until_the_store_is_back() -> Result<()> {
    let store = Running::start().await?;
    store.admin("POST", "sys/auth/userpass", json!({ "type": "userpass" })).await?;
    let user = json!({ "password": "p", "token_policies": "harmony", "token_ttl": "2s" });
    store.admin("POST", "auth/userpass/users/alice", user).await?;
    let settings = OpenBaoSettings {
        username: Some("alice".into()),
        password: Some(Secret::new("p".into())),
        ..store.without_login()
    };
    let client = OpenBao::new(&settings)?;
    assert_eq!(client.get(&path("harmony/Vlan")).await?, None);
    store.process.kill().await?;
    until("the renewal to fail", Duration::from_secs(20), async || {
        let health = client.health().await;
        Ok(match health.login_error {
            Some(error) if error.contains("no connection") => Look::Done(()),
            other => Look::not_yet(format!("{other:?}")),
        })
    })
    .await?;
    store.store.start().await?;
    until("a login without a call", Duration::from_secs(40), async || {
        let health = client.health().await;
        Ok(match (health.login_error, health.login_ends_in) {
            (None, Some(left)) if left > Duration::ZERO => Look::Done(()),
            other => Look::not_yet(format!("{other:?}")),
        })
    })
    .await
}

#[tokio::test]
async fn a_login_that_is_refused_is_not_hammered() -> Result<()> {
    let store = Running::start().await?;
    store.admin("POST", "sys/auth/userpass", json!({ "type": "userpass" })).await?;
    store.admin("POST", "auth/userpass/users/alice", json!({ "password": "p" })).await?;
    let logins = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&logins);
    let proxy = store
        .behind(move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
            always(Act::Pass)
        })
        .await?;
    let settings = OpenBaoSettings {
        url: Some(proxy.url()),
        username: Some("alice".into()),
        password: Some(Secret::new("canary-password".into())),
        ..store.without_login()
    };
    let client = OpenBao::new(&settings)?;
    for _ in 0..50 {
        let error = client.get(&path("harmony/Vlan")).await.unwrap_err();
        absent(&error, "the login userpass at auth/userpass is refused");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
    assert!(logins.load(Ordering::SeqCst) <= 3, "{logins:?}");
    Ok(())
}

#[tokio::test]
async fn a_store_that_was_restored_from_an_older_backup_is_noticed() -> Result<()> {
    let store = Running::start().await?;
    let at = path("harmony/Vlan");
    let client = Arc::new(store.client()?);
    let old = client.put(&at, &vlan(1), Some(0), &Metadata::new()).await?;
    let backup = store.back_up().await?;
    let new = client.put(&at, &vlan(2), Some(old), &Metadata::new()).await?;
    let report = StoreSource::new(client.clone(), path("harmony"));
    let refuse = StoreSource::new(client.clone(), path("harmony")).on_return(WentBack::Refuse);
    for source in [&report, &refuse] {
        assert_eq!(source.read(&model()).await?.unwrap().revision, Some(new));
        assert!(source.went_back().is_empty());
    }
    store.restore(&backup).await?;
    let layer = report.read(&model()).await?.unwrap();
    assert_eq!((layer.values, layer.revision), (vlan(1), Some(old)));
    assert_eq!(report.went_back(), [(at.clone(), new, old)]);
    let error = refuse.read(&model()).await.unwrap_err();
    assert!(matches!(error, SourceError::Tampered { .. }), "{error:?}");
    assert!(
        error.to_string().contains(&new.to_string()) && error.to_string().contains(&old.to_string()),
        "{error}"
    );
    let late = client.put(&at, &vlan(3), Some(new), &Metadata::new()).await;
    assert!(matches!(late, Err(SourceError::Conflict { .. })), "{late:?}");

    let mut last = old;
    while last <= new {
        last = client.put(&at, &vlan(4), Some(last), &Metadata::new()).await?;
    }
    assert_eq!(refuse.read(&model()).await?.unwrap().revision, Some(last), "it caught up");
    Ok(())
}

#[tokio::test]
async fn a_value_over_a_limit_is_refused_before_or_by_the_store() -> Result<()> {
    let store = Running::start().await?;
    let at = path("harmony/Large");
    let large = |bytes: usize| values(json!({ "text": "x".repeat(bytes) }));
    let asked = Arc::new(AtomicUsize::new(0));
    let writes = Arc::clone(&asked);
    let proxy = store
        .behind(move |request: Request| {
            if request.method == "POST" {
                writes.fetch_add(1, Ordering::SeqCst);
            }
            always(Act::Pass)
        })
        .await?;
    let error =
        store.client_behind(&proxy)?.put(&at, &large(600_000), None, &Metadata::new()).await.unwrap_err();
    assert!(
        matches!(error, SourceError::TooLarge { size, limit: 524_288, .. } if size > 600_000),
        "{error:?}"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 0, "it was not sent");

    let generous = OpenBaoSettings { max_value_bytes: Some(16 * 1024 * 1024), ..store.settings()? };
    let generous = OpenBao::new(&generous)?;
    let error = generous.put(&at, &large(2 * 1024 * 1024), None, &Metadata::new()).await.unwrap_err();
    assert!(matches!(error, SourceError::TooLarge { .. }), "{error:?}");
    assert_eq!(generous.get(&at).await?, None);
    generous.put(&at, &large(500_000), None, &Metadata::new()).await?;
    Ok(())
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_no_token_goes_elsewhere() -> Result<()> {
    let store = Running::start().await?;
    let seen = Arc::new(Mutex::new(Vec::<Request>::new()));
    let log = Arc::clone(&seen);
    let elsewhere = store
        .behind(move |request| {
            log.lock().unwrap().push(request);
            always(Act::Pass)
        })
        .await?;
    let target = elsewhere.url();
    let proxy = store
        .behind(move |request: Request| {
            always(Act::Redirect(format!("{target}{}?with=secrets", request.path)))
        })
        .await?;
    let with_token = store.client_behind(&proxy)?;
    let settings = OpenBaoSettings {
        url: Some(proxy.url()),
        username: Some("alice".into()),
        password: Some(Secret::new("p".into())),
        ..store.without_login()
    };
    for client in [with_token, OpenBao::new(&settings)?] {
        let error = client.get(&path("harmony/Vlan")).await.unwrap_err();
        absent(&error, "which is not followed");
        assert!(!error.to_string().contains("with=secrets"), "{error}");
        assert!(client.put(&path("harmony/Vlan"), &vlan(1), None, &Metadata::new()).await.is_err());
    }
    assert!(seen.lock().unwrap().is_empty(), "somebody else was asked");
    Ok(())
}

#[tokio::test]
async fn a_server_with_another_authority_gets_no_token() -> Result<()> {
    let store = Running::start().await?;
    let at = path("harmony/Vlan");
    let with = |ca: Option<std::path::PathBuf>, skip_tls| {
        let settings =
            OpenBaoSettings { url: Some(store.tls_url()), ca_file: ca, skip_tls, ..store.settings()? };
        anyhow::Ok(OpenBao::new(&settings)?)
    };
    assert_eq!(with(Some(store.ca_file()), None)?.get(&at).await?, None);
    let other = e2e::pki::Pki::open(&store.folder.path().join("other"))?;
    other.authority("store-ca")?;
    for ca in [Some(other.cert("store-ca")), None] {
        absent(&with(ca, None)?.get(&at).await.unwrap_err(), "certificate");
    }
    assert_eq!(with(None, Some(true))?.get(&at).await?, None, "who wants it may believe anybody");
    Ok(())
}

#[tokio::test]
async fn a_namespace_is_for_openbao_only() -> Result<()> {
    let store = Running::start().await?;
    let client = OpenBao::new(&OpenBaoSettings { namespace: Some("team-a".into()), ..store.settings()? })?;
    let result = client.get(&path("harmony/Vlan")).await;
    match &store.product {
        Product::Vault(_) => {
            let error = result.unwrap_err();
            absent(&error, "for OpenBao only");
            assert!(
                error.to_string().contains("Vault 1.14") && error.to_string().contains("OPENBAO_NAMESPACE"),
                "{error}"
            );
        }
        // There is no such namespace there: refused, or not found, but not by us.
        Product::OpenBao(_) => {
            if let Err(error) = result {
                assert!(!error.to_string().contains("for OpenBao only"), "{error}");
            }
        }
    }
    Ok(())
}

/// Everything that is ever logged, at the lowest level, of all crates.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_a_log_an_error_or_debug_output() -> Result<()> {
    let store = Running::start().await?;
    store.admin("POST", "sys/auth/userpass", json!({ "type": "userpass" })).await?;
    let user = json!({ "password": "canary-password", "token_policies": "harmony", "token_ttl": "2s", "token_max_ttl": "4s" });
    store.admin("POST", "auth/userpass/users/alice", user).await?;
    let token = store.token("harmony", json!({ "ttl": "1h" })).await?;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let at = path("harmony/Vlan");
    let secret = values(json!({ "password": "canary-value" }));
    let mut shown = String::new();
    let work = async {
        let base = store.without_login();
        let user = OpenBaoSettings {
            username: Some("alice".into()),
            password: Some(Secret::new("canary-password".into())),
            ..base.clone()
        };
        let wrong = OpenBaoSettings { password: Some(Secret::new("canary-wrong".into())), ..user.clone() };
        let fixed = OpenBaoSettings { token: Some(Secret::new(token.clone())), ..base };
        for settings in [user, wrong, fixed] {
            let client = OpenBao::new(&settings)?;
            let results = (
                client.put(&at, &secret, None, &Metadata::new()).await,
                client.put(&at, &secret, Some(1), &Metadata::new()).await,
                client.get(&at).await,
                client.history(&at).await,
                client.get(&path("elsewhere/Vlan")).await,
            );
            shown.push_str(&format!("{settings:?} {client:?} {results:?} {:?}", client.health().await));
        }
        store.process.kill().await?;
        let client = OpenBao::new(&OpenBaoSettings {
            token: Some(Secret::new(token.clone())),
            ..store.without_login()
        })?;
        shown.push_str(&format!("{:?}", client.get(&at).await));
        anyhow::Ok(())
    };
    work.with_subscriber(subscriber).await?;
    let logged = String::from_utf8(log.0.lock().unwrap().clone())?;
    assert!(logged.len() > 1_000, "the log was on: {logged}");
    for (what, text) in [("log", &logged), ("debug output", &shown)] {
        for canary in ["canary", token.as_str(), "hvs.", "s.canary"] {
            assert!(!text.contains(canary), "{canary} in the {what}: {text}");
        }
    }
    Ok(())
}
