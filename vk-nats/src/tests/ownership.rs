use super::{
    claim::{Claim, EPOCH_ANNOTATION, Sighting, decide},
    *,
};

fn lease(holder: &str, epoch: u64, version: &str) -> Lease {
    let mut lease = owned(None, holder, OwnerEpoch(epoch));
    lease.metadata.resource_version = Some(version.to_owned());
    lease
}

#[tokio::test(start_paused = true)]
async fn a_free_lease_and_ones_own_are_taken_with_the_next_epoch() {
    let now = Instant::now();
    let mut sighting = None;
    assert_eq!(decide(None, "a", &mut sighting, now), Claim::Take { epoch: OwnerEpoch(1) });
    assert_eq!(
        decide(Some(&lease("a", 4, "1")), "a", &mut sighting, now),
        Claim::Take { epoch: OwnerEpoch(5) }
    );
    assert_eq!(
        decide(Some(&lease("", 4, "1")), "a", &mut sighting, now),
        Claim::Take { epoch: OwnerEpoch(5) }
    );
}

#[tokio::test(start_paused = true)]
async fn a_live_holder_is_waited_for_until_nothing_changed_for_its_duration() {
    let start = Instant::now();
    let wait = Claim::Wait { holder: "b".to_owned() };
    let mut sighting: Option<Sighting> = None;
    assert_eq!(decide(Some(&lease("b", 7, "1")), "a", &mut sighting, start), wait);
    let later = start + LEASE_DURATION - Duration::from_secs(1);
    assert_eq!(decide(Some(&lease("b", 7, "2")), "a", &mut sighting, later), wait, "it renewed");
    let later = later + LEASE_DURATION;
    assert_eq!(decide(Some(&lease("b", 7, "2")), "a", &mut sighting, later), wait);
    let later = later + Duration::from_secs(1);
    assert_eq!(
        decide(Some(&lease("b", 7, "2")), "a", &mut sighting, later),
        Claim::Take { epoch: OwnerEpoch(8) }
    );
}

#[test]
fn taking_keeps_the_resource_version_and_counts_transitions() {
    let taken = owned(Some(lease("b", 7, "42")), "a", OwnerEpoch(8));
    assert_eq!(taken.metadata.resource_version.as_deref(), Some("42"));
    assert_eq!(taken.metadata.annotations.unwrap()[EPOCH_ANNOTATION], "8");
    let spec = taken.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("a"));
    assert_eq!(spec.lease_transitions, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_tenure_ends_by_itself() {
    let tenure = Tenure::until(Instant::now() + Duration::from_secs(10));
    assert!(tenure.holds());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(!tenure.holds());
}
