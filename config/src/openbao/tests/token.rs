//! When a token is renewed, and when it is used no more.

use super::*;

fn grant(seconds: Option<u64>) -> Grant {
    Grant { token: Secret::new("t".into()), lifetime: seconds.map(Duration::from_secs), renewable: true }
}

#[test]
fn a_token_is_renewed_after_about_two_thirds_of_its_life() {
    let since = Instant::now();
    let held = Held::new(grant(Some(300)), since);
    for (jitter, least, most) in [(0.0, 160, 180), (0.5, 199, 201), (1.0, 220, 240)] {
        let at = held.renew_at(jitter).unwrap() - since;
        assert!((least..=most).contains(&at.as_secs()), "{at:?}");
    }
    assert_eq!(Held::new(grant(None), since).renew_at(0.5), None, "a root token does not end");
}

#[test]
fn a_token_is_not_used_when_it_ends() {
    let since = Instant::now();
    let held = Held::new(grant(Some(10)), since);
    assert!(held.is_good(since + Duration::from_secs(9)));
    assert!(!held.is_good(since + Duration::from_millis(9_600)));
    assert!(Held::new(grant(None), since).is_good(since + Duration::from_secs(1_000_000)));
}

#[test]
fn less_and_less_means_that_the_longest_life_is_near() {
    let first = Duration::from_secs(300);
    assert!(!is_near_the_end(first, &grant(Some(300))));
    assert!(!is_near_the_end(first, &grant(Some(150))));
    assert!(is_near_the_end(first, &grant(Some(149))));
    assert!(!is_near_the_end(first, &grant(None)));
}

#[test]
fn failures_wait_longer_and_longer_but_not_for_ever() {
    assert_eq!(backoff(1, 1.0), Duration::from_secs(1));
    assert_eq!(backoff(3, 1.0), Duration::from_secs(4));
    assert_eq!(backoff(3, 0.0), Duration::from_secs(2));
    assert_eq!(backoff(u32::MAX, 1.0), Duration::from_secs(30));
}
