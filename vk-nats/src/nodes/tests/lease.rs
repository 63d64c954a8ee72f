//! Leases: form and rhythm.

use std::collections::HashSet;

use super::*;

#[tokio::test(start_paused = true)]
async fn renewals_are_spread_over_the_interval_and_keep_their_rhythm() {
    let started = Instant::now();
    let now = started + Duration::from_secs(100);
    let mut seconds = HashSet::new();
    for number in 0..300 {
        let device: DeviceName = format!("pi-{number}").parse().unwrap();
        let due = next_renewal(&device, started, now);
        assert!(due > now && due <= now + RENEW_EVERY);
        assert_eq!(next_renewal(&device, started, due), due + RENEW_EVERY);
        seconds.insert(due.duration_since(now).as_secs());
    }
    assert_eq!(seconds.len(), 15, "every second of the interval is used");
}

#[test]
fn a_lease_is_a_kubelets() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let spec = spec(&"pi-7".parse().unwrap(), Duration::from_secs(40), now);
    assert_eq!(
        spec,
        json!({
            "holderIdentity": "pi-7",
            "leaseDurationSeconds": 40,
            "renewTime": "2026-11-21T12:00:00.000000Z",
        })
    );
}
