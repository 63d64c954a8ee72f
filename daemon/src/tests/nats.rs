#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn settings(url: &str) -> NatsSettings {
    NatsSettings {
        url: url.into(),
        ca_file: None,
        seed: NkeySeed::new(KeyPair::new_user().seed().unwrap()),
        name: "test".into(),
        inbox_prefix: Some("_INBOX.pi-7".into()),
        subscription_capacity: 16,
    }
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
fn the_nonce_is_signed_with_the_users_key() {
    let key = KeyPair::new_user();
    let auth = prove(&key, b"nonce").unwrap();
    assert_eq!(auth.nkey, Some(key.public_key()));
    key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
}

#[test]
fn a_seed_is_not_shown() {
    let seed = KeyPair::new_user().seed().unwrap();
    let shown = format!("{:?}", NatsSettings { seed: NkeySeed::new(seed.clone()), ..settings("nats://x") });
    assert!(!shown.contains(&seed), "{shown}");
    let error = NkeySeed::new("SUAXYZ").key_pair().unwrap_err().to_string();
    assert!(!error.contains("SUAXYZ"), "{error}");
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
    let settings = NatsSettings { ca_file: Some(file.path().into()), ..settings("tls://127.0.0.1:1") };
    assert!(matches!(connect(&settings).await, Err(NatsError::NoCertificate { .. })));
    let settings = NatsSettings { ca_file: Some("/nowhere/ca.pem".into()), ..settings };
    assert!(matches!(connect(&settings).await, Err(NatsError::CaFile { .. })));
}

#[test]
fn the_state_follows_the_events_and_survives_an_absent_reader() {
    let state = Arc::new(watch::Sender::new(LinkState::Disconnected));
    let events = LinkEvents {
        state: Arc::clone(&state),
        last_error: Mutex::default(),
        drops: Mutex::default(),
        url: "nats://x".into(),
    };
    events.observe(Event::Connected);
    let reader = state.subscribe();
    assert_eq!(*reader.borrow(), LinkState::Connected);
    events.report("authorization violation".into());
    events.observe(Event::Disconnected);
    assert_eq!(*reader.borrow(), LinkState::Disconnected);
    assert_eq!(events.last_error().as_deref(), Some("authorization violation"));
    events.observe(Event::Connected);
    assert_eq!(events.last_error().as_deref(), None);
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
