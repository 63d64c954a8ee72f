//! Writers that meet: a second one comes before each request of the first, or an answer is lost after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::Result;
use e2e::http_meddler::{Act, Request};
use futures::FutureExt as _;
use harmony_config::openbao::OpenBao;
use harmony_config::store::Metadata;
use harmony_config::{SourceError, Store as _};

use super::{Running, always, path, vlan};

/// More than the requests of one write: read, write, ask for the base, describe.
const STEPS: usize = 5;

/// The second writer writes before the n-th request of the first. Whatever n is: the first is refused and the
/// second's values stay, or the first came first and the second replaced it; none is lost without a word.
#[tokio::test]
async fn a_second_writer_before_each_step_is_never_overwritten() -> Result<()> {
    let store = Running::start().await?;
    for there_before in [false, true] {
        let mut refused = 0;
        for step in 0..STEPS {
            let at = path(&format!("harmony/Vlan-{there_before}-{step}"));
            let second = Arc::new(store.client()?);
            let expected = match there_before {
                true => second.put(&at, &vlan(1), Some(0), &Metadata::new()).await?,
                false => 0,
            };
            let (count, wrote) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
            let (other, place, written) = (Arc::clone(&second), at.clone(), Arc::clone(&wrote));
            let proxy = store
                .behind(move |request: Request| {
                    let mine =
                        request.path.contains("/harmony/") && count.fetch_add(1, Ordering::SeqCst) == step;
                    let (other, place, written) = (Arc::clone(&other), place.clone(), Arc::clone(&written));
                    async move {
                        if mine {
                            let owner = Metadata::from([("owner".to_owned(), "second".to_owned())]);
                            let revision = other.put(&place, &vlan(22), None, &owner).await.unwrap();
                            written.store(revision, Ordering::SeqCst);
                        }
                        Act::Pass
                    }
                    .boxed()
                })
                .await?;
            let first = store.client_behind(&proxy)?;
            let owner = Metadata::from([("owner".to_owned(), "first".to_owned())]);
            let result = first.put(&at, &vlan(11), Some(expected), &owner).await;
            let entry = second.get(&at).await?.unwrap();
            let other = wrote.load(Ordering::SeqCst);
            let what = format!(
                "there before: {there_before}, step {step}: {result:?}, {entry:?}, second wrote {other}"
            );
            match result {
                Ok(revision) if other == 0 => {
                    assert_eq!((entry.values, entry.revision), (vlan(11), revision), "{what}");
                }
                // The second came after the values, before what describes them.
                Ok(revision) => {
                    assert!(revision < other, "{what}");
                    assert_eq!((entry.values.clone(), entry.revision), (vlan(22), other), "{what}");
                    assert!(!entry.metadata_is_current || entry.metadata["owner"] == "second", "{what}");
                }
                Err(SourceError::Conflict { expected: asked, found, .. }) => {
                    refused += 1;
                    assert_eq!((asked, found), (expected, other), "{what}");
                    assert_eq!((entry.values, entry.revision), (vlan(22), other), "{what}");
                    assert!(entry.metadata_is_current && entry.metadata["owner"] == "second", "{what}");
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
        assert_eq!(refused, 2, "there before: {there_before}: before it reads, and before it writes");
    }
    Ok(())
}

#[tokio::test]
async fn who_does_not_mind_what_is_replaced_writes_after_the_second_writer() -> Result<()> {
    let store = Running::start().await?;
    let (second, at) = (Arc::new(store.client()?), path("harmony/Vlan"));
    second.put(&at, &vlan(1), Some(0), &Metadata::new()).await?;
    let (count, other, place) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&second), at.clone());
    let proxy = store
        .behind(move |request: Request| {
            let first_write = request.method == "POST" && count.fetch_add(1, Ordering::SeqCst) == 0;
            let (other, place) = (Arc::clone(&other), place.clone());
            async move {
                if first_write {
                    other.put(&place, &vlan(22), None, &Metadata::new()).await.unwrap();
                }
                Act::Pass
            }
            .boxed()
        })
        .await?;
    store.client_behind(&proxy)?.put(&at, &vlan(11), None, &Metadata::new()).await?;
    let entry = second.get(&at).await?.unwrap();
    assert_eq!((entry.values, entry.version), (vlan(11), 3));
    Ok(())
}

#[tokio::test]
async fn a_lost_answer_neither_loses_nor_doubles_a_write() -> Result<()> {
    let store = Running::start().await?;
    let at = path("harmony/Vlan");
    // The first answer to each kind of request is lost; then every second request is.
    let count = Arc::new(AtomicUsize::new(0));
    let proxy = store
        .behind(move |_| {
            always(match count.fetch_add(1, Ordering::SeqCst) % 4 {
                0 => Act::DropAnswer,
                2 => Act::Drop,
                _ => Act::Pass,
            })
        })
        .await?;
    let client: OpenBao = store.client_behind(&proxy)?;
    let mut expected = 0;
    for id in 1..=8 {
        expected = client.put(&at, &vlan(id), Some(expected), &Metadata::new()).await?;
        let entry = client.get(&at).await?.unwrap();
        assert_eq!((entry.values, entry.revision, entry.version), (vlan(id), expected, id));
    }
    Ok(())
}

#[tokio::test]
async fn many_writers_lose_nothing() -> Result<()> {
    let store = Running::start().await?;
    let at = path("harmony/Counter");
    store.client()?.put(&at, &vlan(0), Some(0), &Metadata::new()).await?;
    let add = |client: OpenBao| {
        let at = at.clone();
        async move {
            let mut done = 0;
            while done < 10 {
                let entry = client.get(&at).await?.unwrap();
                let id = entry.values["id"].as_u64().unwrap();
                match client.put(&at, &vlan(id + 1), Some(entry.revision), &Metadata::new()).await {
                    Ok(_) => done += 1,
                    Err(SourceError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok::<_, SourceError>(())
        }
    };
    futures::future::try_join_all([add(store.client()?), add(store.client()?), add(store.client()?)]).await?;
    let entry = store.client()?.get(&at).await?.unwrap();
    assert_eq!((entry.values["id"].as_u64(), entry.version), (Some(30), 31));
    Ok(())
}
