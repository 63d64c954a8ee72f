//! What is kept, and what is remembered of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use harmony_config::openbao::OpenBao;
use harmony_config::store::{Metadata, StoreState};
use harmony_config::{
    Actor, Change, Model, SchemaVersion, Source as _, SourceError, Store as _, StorePath, StoreSource,
};
use serde_json::json;

use super::{Running, path, values, vlan};

fn model(key: &str, version: &str) -> Model {
    let schema = json!({ "type": "object", "properties": { "id": { "type": "integer" } } });
    Model {
        key: key.parse().unwrap(),
        schema: schema.try_into().unwrap(),
        version: SchemaVersion(version.into()),
        secrets: Vec::new(),
        places: Default::default(),
    }
}

fn actor() -> Actor {
    Actor { who: "alice".into(), from: "harmony-config on pi-7".into(), request_id: "r-1".into() }
}

#[tokio::test]
async fn an_entry_has_versions_and_its_revision_never_goes_back() -> Result<()> {
    let store = Running::start().await?;
    let (client, at) = (store.client()?, path("harmony/Vlan"));
    assert_eq!(client.get(&at).await?, None);
    assert!(!client.delete(&at).await?, "there is nothing to delete");

    let first = client.put(&at, &vlan(1), Some(0), &Metadata::new()).await?;
    let second = client.put(&at, &vlan(2), Some(first), &Metadata::new()).await?;
    assert_eq!(second, first + 1);
    let entry = client.get(&at).await?.unwrap();
    assert_eq!((entry.values, entry.revision, entry.version), (vlan(2), second, 2));
    let old = client.get_version(&at, 1).await?.unwrap();
    assert_eq!((old.values, old.revision), (vlan(1), first));
    assert_eq!(client.get_version(&at, 7).await?, None);
    let history = client.history(&at).await?;
    assert_eq!(history.iter().map(|version| version.revision).collect::<Vec<_>>(), [first, second]);
    assert!(history.iter().all(|version| version.created.is_some() && version.deleted.is_none()));

    assert!(client.delete(&at).await?);
    assert_eq!(client.get(&at).await?, None, "404 with a body");
    assert!(client.history(&at).await?[1].deleted.is_some());
    let third = client.put(&at, &vlan(3), Some(0), &Metadata::new()).await?;
    assert!(third > second);
    assert_eq!(client.get(&at).await?.unwrap().version, 3);

    // The engine counts from 1 again, we do not.
    client.forget(&at).await?;
    assert_eq!(client.get(&at).await?, None);
    assert!(client.history(&at).await?.is_empty());
    let fourth = client.put(&at, &vlan(4), None, &Metadata::new()).await?;
    assert!(fourth > third, "{fourth} {third}");
    assert_eq!(client.get(&at).await?.unwrap().version, 1);
    let stale = client.put(&at, &vlan(5), Some(first), &Metadata::new()).await;
    assert!(
        matches!(stale, Err(SourceError::Conflict { expected, found, .. }) if expected == first && found == fourth)
    );
    Ok(())
}

#[tokio::test]
async fn names_of_fields_may_be_anything_and_names_in_paths_may_not() -> Result<()> {
    let store = Running::start().await?;
    let (client, at) = (store.client()?, path("harmony/ns-1/app.example.com/Vlan_42"));
    let odd = values(json!({
        "a/b": 1, "a.b": { "..": "../../sys" }, "größe 😀": "ü", "": null, "?x=#y%2f": [true, 1.5, -7],
        "big": 9_007_199_254_740_992_u64, "small": -9_007_199_254_740_992_i64, "one": 1e-7, "text": "007",
    }));
    client.put(&at, &odd, Some(0), &Metadata::new()).await?;
    assert_eq!(client.get(&at).await?.unwrap().values, odd);
    for bad in [
        "harmony/../sys",
        "harmony/a b",
        "harmony/größe",
        "harmony/a%2fb",
        "harmony//b",
        "harmony/a?version=1",
    ] {
        assert!(bad.parse::<StorePath>().is_err(), "{bad}");
    }
    // Nothing but that entry is there.
    let listed = store.admin("LIST", "kv/metadata/harmony", json!({})).await?;
    assert_eq!(listed["data"]["keys"], json!(["ns-1/"]));
    Ok(())
}

#[tokio::test]
async fn what_others_keep_beside_the_values_stays() -> Result<()> {
    let store = Running::start().await?;
    let (client, at) = (store.client()?, path("harmony/Vlan"));
    store.admin("POST", "kv/data/harmony/Vlan", json!({ "data": { "id": 1 } })).await?;
    store
        .admin("POST", "kv/metadata/harmony/Vlan", json!({ "custom_metadata": { "team": "video" } }))
        .await?;
    let entry = client.get(&at).await?.unwrap();
    assert_eq!((entry.version, entry.metadata_is_current), (1, false), "written by hand");

    let ours = Metadata::from([("owner".to_owned(), "uid-1".to_owned())]);
    let revision = client.put(&at, &vlan(2), Some(entry.revision), &ours).await?;
    assert_eq!(revision, entry.revision + 1);
    let entry = client.get(&at).await?.unwrap();
    assert_eq!(entry.metadata["team"], "video");
    assert_eq!(entry.metadata["owner"], "uid-1");
    assert!(entry.metadata_is_current);
    assert_eq!(entry.revision, revision);

    store.admin("POST", "kv/data/harmony/Vlan", json!({ "data": { "id": 3 } })).await?;
    let entry = client.get(&at).await?.unwrap();
    assert_eq!((entry.revision, entry.metadata_is_current), (revision + 1, false), "by hand again");
    let long = Metadata::from([("note".to_owned(), "x".repeat(513))]);
    assert!(client.put(&at, &vlan(4), None, &long).await.is_err());
    assert_eq!(client.get(&at).await?.unwrap().version, 3, "nothing was written");
    Ok(())
}

/// Policies that are older than PATCH do not have `patch`.
#[tokio::test]
async fn a_policy_without_patch_suffices() -> Result<()> {
    let store = Running::start().await?;
    store
        .policy(
            "old",
            r#"path "kv/data/harmony/*" { capabilities = ["create", "read", "update", "delete"] }
               path "kv/metadata/harmony/*" { capabilities = ["create", "read", "update"] }"#,
        )
        .await?;
    let token = store.token("old", json!({})).await?;
    let mut settings = store.without_login();
    settings.token = Some(harmony_config::openbao::Secret::new(token));
    let (client, at) = (OpenBao::new(&settings)?, path("harmony/Vlan"));
    let ours = Metadata::from([("owner".to_owned(), "uid-1".to_owned())]);
    let first = client.put(&at, &vlan(1), Some(0), &ours).await?;
    client.put(&at, &vlan(2), Some(first), &Metadata::new()).await?;
    let entry = client.get(&at).await?.unwrap();
    assert_eq!((entry.revision, entry.metadata["owner"].as_str()), (first + 1, "uid-1"));
    Ok(())
}

#[tokio::test]
async fn a_model_is_read_and_written_with_the_version_of_its_schema() -> Result<()> {
    let store = Running::start().await?;
    let client = Arc::new(store.client()?);
    let source =
        StoreSource::new(client.clone(), client.prefix().clone()).poll_every(Duration::from_millis(50));
    let model = model("Vlan", "00112233aabbccdd");
    assert!(source.should_persist());
    assert_eq!(source.name(), "openbao");
    assert_eq!(source.read(&model).await?, None);

    let change = |values, expected| Change { values, actor: Box::leak(Box::new(actor())), expected };
    let one = vlan(1);
    let revision = source.write(&model, change(&one, Some(0))).await?;
    let layer = source.read(&model).await?.unwrap();
    assert_eq!((&layer.values, layer.revision), (&one, Some(revision)));
    assert_eq!(layer.version, Some(SchemaVersion("00112233aabbccdd".into())));
    assert_eq!(layer.place, format!("OpenBao {}, kv/harmony/Vlan", store.url()));
    let entry = client.get(&path("harmony/Vlan")).await?.unwrap();
    assert!(entry.metadata["harmony-writer"].starts_with("alice, harmony-config on pi-7"));

    // Somebody writes by hand: whether that fits the schema nobody said.
    let mut changes = source.changes(&model).unwrap();
    let tick = tokio::spawn(async move { changes.next().await });
    e2e::wait::until("a tick", Duration::from_secs(20), async || {
        store.admin("POST", "kv/data/harmony/Vlan", json!({ "data": { "id": "seven" } })).await?;
        Ok(match tick.is_finished() {
            true => e2e::wait::Look::Done(()),
            false => e2e::wait::Look::not_yet("none"),
        })
    })
    .await?;
    assert_eq!(source.read(&model).await?.unwrap().version, None);
    let stale = source.write(&model, change(&one, Some(revision))).await;
    assert!(matches!(stale, Err(SourceError::Conflict { .. })), "{stale:?}");
    assert!(source.delete(&model, &actor()).await?);
    assert_eq!(source.read(&model).await?, None);
    Ok(())
}

#[tokio::test]
async fn its_health_names_product_and_login() -> Result<()> {
    let store = Running::start().await?;
    let client = store.client()?;
    let before = client.health().await;
    assert_eq!((before.state, before.login_ends_in), (StoreState::Ready, None));
    let product = before.product.unwrap();
    assert!(product.starts_with("OpenBao 2.") || product.starts_with("Vault 1."), "{product}");
    let mut settings = store.without_login();
    settings.token =
        Some(harmony_config::openbao::Secret::new(store.token("harmony", json!({ "ttl": "1h" })).await?));
    let client = OpenBao::new(&settings)?;
    client.get(&path("harmony/Vlan")).await?;
    let left = client.health().await.login_ends_in.unwrap();
    assert!((3_500..=3_600).contains(&left.as_secs()), "{left:?}");
    Ok(())
}
