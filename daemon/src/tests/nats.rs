#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn settings(url: &str) -> NatsSettings {
    NatsSettings {
        url: url.into(),
        ca: None,
        login: Login::Credential { key: NkeySeed::random().unwrap(), token: None },
        name: "test".into(),
        inbox_prefix: Some("_INBOX.pi-7".into()),
        subscription_capacity: 16,
    }
}

fn link_events() -> LinkEvents {
    let login = Login::EnrollmentToken("0".repeat(20).parse().unwrap());
    LinkEvents::new("nats://x", Arc::new(Logins::new(login)))
}

proptest! {
    #[test]
    fn a_delay_stays_within_its_bounds(attempt in 0usize..10_000, random in 0.0f64..1.0) {
        let delay = delay(attempt, random);
        prop_assert!(delay >= BACKOFF_BASE / 2);
        prop_assert!(delay <= BACKOFF_MAX);
    }

    #[test]
    fn a_later_attempt_never_waits_less(attempt in 1usize..10_000, random in 0.0f64..1.0) {
        prop_assert!(delay(attempt + 1, random) >= delay(attempt, random));
    }
}

#[test]
fn the_bound_doubles_up_to_its_maximum() {
    let bounds: Vec<_> = [1, 2, 3, 7, 8, usize::MAX].map(|attempt| delay(attempt, 1.0).as_millis()).into();
    assert_eq!(bounds, [500, 1000, 2000, 30_000, 30_000, 30_000]);
}

#[test]
fn jitter_spreads_over_half_of_the_bound() {
    assert_eq!(delay(20, 0.0), BACKOFF_MAX / 2);
    assert_eq!(delay(20, 1.0), BACKOFF_MAX);
}

#[test]
fn several_servers_are_separated_by_commas() {
    assert_eq!(servers("nats://a:4222, tls://b:4222").unwrap().len(), 2);
    let error = servers("http://a:4222").unwrap_err().to_string();
    assert!(error.contains("nats-url") && error.contains("http://a:4222"), "{error}");
}

#[tokio::test]
async fn connecting_returns_at_once_although_no_server_answers() {
    // Port 1 of the loopback: refused.
    let connection = connect(&settings("nats://127.0.0.1:1")).await.unwrap();
    assert_eq!(*connection.state.borrow(), LinkState::Disconnected);
    assert!(connection.client.new_inbox().starts_with("_INBOX.pi-7."));
}

#[tokio::test]
async fn a_ca_file_without_certificate_is_an_error_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |ca| NatsSettings { ca: Some(ca), ..settings("tls://127.0.0.1:1") };
    let empty = with(CaSource::File(file.path().into()));
    assert!(matches!(connect(&empty).await, Err(NatsError::NoCertificate { .. })));
    let missing = with(CaSource::File("/nowhere/ca.pem".into()));
    assert!(matches!(connect(&missing).await, Err(NatsError::CaFile { .. })));
    let garbage = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    for text in ["", "text", garbage] {
        let error = connect(&with(CaSource::Pem(text.into()))).await.unwrap_err();
        assert!(matches!(error, NatsError::NoCertificate { .. }), "{error}");
    }
}

#[test]
fn the_state_follows_the_events_and_survives_an_absent_reader() {
    let events = link_events();
    events.observe(Event::Connected);
    let reader = events.state.subscribe();
    assert_eq!(*reader.borrow(), LinkState::Connected);
    events.report("authorization violation".into());
    events.observe(Event::Disconnected);
    assert_eq!(*reader.borrow(), LinkState::Disconnected);
    assert_eq!(events.last_error().as_deref(), Some("authorization violation"));
    events.observe(Event::Connected);
    assert_eq!(events.last_error().as_deref(), None);
    events.observe(Event::SlowConsumer(1));
    events.observe(Event::SlowConsumer(2));
    assert_eq!(events.dropped.load(Ordering::Relaxed), 2);
}

#[test]
fn a_flood_of_dropped_messages_is_a_few_lines() {
    let start = Instant::now();
    let mut drops = Drops::default();
    assert_eq!(drops.count(start), Some(1));
    for _ in 0..10_000 {
        assert_eq!(drops.count(start + TELL_DROPS_EVERY / 2), None);
    }
    assert_eq!(drops.count(start + TELL_DROPS_EVERY), Some(10_001));
    assert_eq!(drops.count(start + TELL_DROPS_EVERY), None);
}

#[tokio::test(start_paused = true)]
async fn an_expired_login_is_told_from_a_lost_connection_once() {
    let events = link_events();
    assert!(!events.take_expiry().await, "the first connection");
    events.observe(Event::Connected);
    events.observe(Event::ServerError(ServerError::Other("User Authentication Expired".into())));
    events.observe(Event::Disconnected);
    assert!(events.take_expiry().await);
    assert!(!events.take_expiry().await, "the second attempt waits as after any failure");
    events.observe(Event::Connected);
    events.observe(Event::Disconnected);
    assert!(!events.take_expiry().await, "a lost connection");
}

#[tokio::test(start_paused = true)]
async fn the_reason_is_waited_for_when_the_client_is_ahead_of_its_events() {
    let events = Arc::new(link_events());
    events.observe(Event::Connected);
    let asked = tokio::spawn({
        let events = Arc::clone(&events);
        async move { events.take_expiry().await }
    });
    tokio::task::yield_now().await;
    events.observe(Event::ServerError(ServerError::Other("User Authentication Expired".into())));
    events.observe(Event::Disconnected);
    assert!(asked.await.unwrap());
}

#[test]
fn refused_logins_are_counted_and_other_errors_are_not() {
    let events = link_events();
    let refused = events.refused.subscribe();
    let error = |text: &str| Event::ClientError(async_nats::ClientError::Other(text.into()));
    events.observe(error("IO error"));
    assert_eq!(*refused.borrow(), 0);
    events.observe(error("authorization violation"));
    events.observe(error("authorization violation"));
    assert_eq!(*refused.borrow(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_leaves_a_process_ready_and_a_long_one_does_not() {
    let health = crate::health::Health::new();
    let state = watch::Sender::new(LinkState::Disconnected);
    let watcher = tokio::spawn(report(state.subscribe(), health.check("nats")));
    let later = |time| async move {
        tokio::time::sleep(time).await;
    };
    later(Duration::from_millis(1)).await;
    assert!(!health.is_ready(), "never connected");
    state.send_replace(LinkState::Connected);
    later(Duration::from_millis(1)).await;
    assert!(health.is_ready());
    state.send_replace(LinkState::Disconnected);
    later(READY_PATIENCE / 2).await;
    assert!(health.is_ready());
    state.send_replace(LinkState::Connected);
    later(READY_PATIENCE * 2).await;
    assert!(health.is_ready());
    state.send_replace(LinkState::Disconnected);
    later(READY_PATIENCE * 2).await;
    assert!(!health.is_ready());
    watcher.abort();
}

#[test]
fn who_was_let_in_is_who_was_shown_and_not_who_was_set_meanwhile() {
    let events = link_events();
    let logins = Arc::clone(&events.logins);
    logins.show();
    let later = logins.set(Login::Credential { key: NkeySeed::random().unwrap(), token: None });
    events.observe(Event::Connected);
    assert_eq!(logins.accepted.load(Ordering::Relaxed), 0, "an attempt with the older one was under way");
    events.observe(Event::Disconnected);
    logins.show();
    events.observe(Event::Connected);
    assert_eq!(logins.accepted.load(Ordering::Relaxed), later);
}
