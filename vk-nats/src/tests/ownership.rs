//! Ownership of the fleet by a Lease.

use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::json;

use super::{
    claim::{Claim, EPOCH_ANNOTATION, Sighting, decide},
    *,
};

const FIRST: OwnerEpoch = OwnerEpoch(1);

fn lease(holder: &str, epoch: u64, version: &str) -> Lease {
    let mut lease = owned(None, holder, OwnerEpoch(epoch));
    lease.metadata.resource_version = Some(version.to_owned());
    lease
}

#[tokio::test(start_paused = true)]
async fn a_free_lease_and_ones_own_are_taken_with_the_next_epoch() {
    let now = Instant::now();
    let mut sighting = None;
    assert_eq!(decide(None, "a", &mut sighting, now, FIRST), Claim::Take { epoch: OwnerEpoch(1) });
    assert_eq!(
        decide(Some(&lease("a", 4, "1")), "a", &mut sighting, now, FIRST),
        Claim::Take { epoch: OwnerEpoch(5) }
    );
    assert_eq!(
        decide(Some(&lease("", 4, "1")), "a", &mut sighting, now, FIRST),
        Claim::Take { epoch: OwnerEpoch(5) }
    );
}

#[tokio::test(start_paused = true)]
async fn a_live_holder_is_waited_for_until_nothing_changed_for_its_duration() {
    let start = Instant::now();
    let wait = Claim::Wait { holder: "b".to_owned() };
    let mut sighting: Option<Sighting> = None;
    assert_eq!(decide(Some(&lease("b", 7, "1")), "a", &mut sighting, start, FIRST), wait);
    let later = start + LEASE_DURATION - Duration::from_secs(1);
    assert_eq!(decide(Some(&lease("b", 7, "2")), "a", &mut sighting, later, FIRST), wait, "it renewed");
    let later = later + LEASE_DURATION;
    assert_eq!(decide(Some(&lease("b", 7, "2")), "a", &mut sighting, later, FIRST), wait);
    let later = later + Duration::from_secs(1);
    assert_eq!(
        decide(Some(&lease("b", 7, "2")), "a", &mut sighting, later, FIRST),
        Claim::Take { epoch: OwnerEpoch(8) }
    );
}

#[tokio::test(start_paused = true)]
async fn an_epoch_does_not_go_back_with_a_lease_that_is_gone_or_from_a_backup() {
    let (now, time) = (Instant::now(), OwnerEpoch(1_795_000_000));
    let mut sighting = None;
    assert_eq!(decide(None, "a", &mut sighting, now, time), Claim::Take { epoch: time });
    let restored = lease("", 1_700_000_000, "1");
    assert_eq!(decide(Some(&restored), "a", &mut sighting, now, time), Claim::Take { epoch: time });
    let ahead = lease("", time.0 + 10, "1");
    let next = OwnerEpoch(time.0 + 11);
    assert_eq!(decide(Some(&ahead), "a", &mut sighting, now, time), Claim::Take { epoch: next });
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

/// Has no Lease, takes one, and says nothing at all to the first who asks.
fn api_server_that_is_silent_at_first() -> kube::Client {
    static SILENT: AtomicBool = AtomicBool::new(true);
    let service = tower::service_fn(|request: http::Request<Body>| async move {
        if SILENT.swap(false, Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let (parts, body) = request.into_parts();
        let (status, body) = if parts.method == http::Method::GET {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                                 "message": "not found", "reason": "NotFound", "code": 404 });
            (http::StatusCode::NOT_FOUND, status.to_string().into_bytes())
        } else {
            (http::StatusCode::CREATED, body.collect().await?.to_bytes().to_vec())
        };
        let mut answer = http::Response::new(Body::from(body));
        *answer.status_mut() = status;
        Ok::<_, tower::BoxError>(answer)
    });
    kube::Client::new(service, "default")
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_not_waited_for() {
    let began = Instant::now();
    let acquire = Ownership::acquire(api_server_that_is_silent_at_first(), "fleet", "a");
    let ownership = tokio::time::timeout(LEASE_DURATION, acquire).await.expect("it waits for ever");
    assert!(ownership.epoch > FIRST, "there was none before, and the time tells which is newer");
    assert!(began.elapsed() >= ANSWER_WITHIN);
    assert!(ownership.tenure().holds());
}
