//! A store that takes longer than anybody waits: what a person reads then.

use std::{sync::Arc, time::Duration};

use axum::Router;
use harmony_config::{
    ConfigManager, StoreSource,
    chain::Answer,
    openbao::{OpenBao, OpenBaoSettings, Secret},
};
use tokio::{net::TcpListener, sync::mpsc};

use super::Vlan;

/// A server that answers everything after ten seconds; gives its address, and a tick with each request.
async fn slow() -> (String, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    let routes = Router::new().fallback(async move || {
        tell.send(()).unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        "{}"
    });
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (url, told)
}

fn store(url: &str, timeout_seconds: Option<u64>) -> StoreSource {
    let settings = OpenBaoSettings {
        url: Some(url.to_owned()),
        token: Some(Secret::new("t".to_owned())),
        timeout_seconds,
        ..OpenBaoSettings::default()
    };
    let store = OpenBao::new(&settings).unwrap();
    let prefix = store.prefix().clone();
    StoreSource::new(Arc::new(store), prefix)
}

#[tokio::test]
async fn what_a_slow_store_says_itself_is_read_and_not_that_somebody_was_impatient() {
    // 7 s are more than the patience with a source that says nothing.
    for (timeout, said) in [(None, "within 5 s"), (Some(7), "within 7 s"), (Some(2), "within 2 s")] {
        let (url, mut requests) = slow().await;
        let manager = ConfigManager::builder().source(store(&url, timeout)).build();
        let asking = tokio::spawn({
            let manager = manager.clone();
            async move { manager.explain::<Vlan>().await.unwrap() }
        });
        requests.recv().await.unwrap();
        // The request is there; from now on only timers run, each when its time has come.
        tokio::time::pause();
        let explanation = asking.await.unwrap();
        tokio::time::resume();
        let Answer::Away { why } = &explanation.sources[0].1 else { panic!("{explanation}") };
        assert!(why.contains(said) && why.contains("/harmony/Vlan") && why.contains(&url), "{why}");
        assert!(why.contains("OPENBAO_URL"), "it says what to look at: {why}");
    }
}

#[tokio::test]
async fn who_says_how_long_to_wait_does_not_wait_longer() {
    let (url, _requests) = slow().await;
    let manager =
        ConfigManager::builder().source(store(&url, None)).patience(Duration::from_millis(50)).build();
    let explanation = manager.explain::<Vlan>().await.unwrap();
    assert!(explanation.to_string().contains("within 50ms"), "{explanation}");
}
