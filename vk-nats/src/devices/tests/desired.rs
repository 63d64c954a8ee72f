//! The desired set of a device: versions, and what a change carries.

use fleet_wire::name::PodUid;
use serde_json::value::RawValue;

use super::*;

fn set(pods: &[(&str, &str)]) -> Arc<DesiredSet> {
    let bundles = pods.iter().map(|(uid, text)| {
        let json = serde_json::to_string(text).unwrap();
        let digest = Digest::of(json.as_bytes());
        (uid.parse().unwrap(), Built { digest, json: RawValue::from_string(json).unwrap().into() })
    });
    Arc::new(DesiredSet { bundles: bundles.collect() })
}

fn uid(text: &str) -> PodUid {
    text.parse().unwrap()
}

fn settings() -> NodeSettings {
    NodeSettings::default()
}

const EMPTY: &[(&str, &str)] = &[];

/// A ledger whose device holds `pods`.
fn told(pods: &[(&str, &str)]) -> Ledger {
    let mut ledger = Ledger::new(OwnerEpoch(7));
    let set = set(pods);
    ledger.begin(Some(&set), set.digest(), set.digest(), Instant::now());
    assert!(ledger.changed(&set, &settings(), Instant::now()).is_none());
    ledger
}

#[tokio::test]
async fn a_change_carries_only_what_differs_and_the_next_version() {
    let mut ledger = told(&[("a", "1"), ("b", "1")]);
    let next = set(&[("a", "1"), ("b", "2"), ("c", "1")]);
    let delta = ledger.changed(&next, &settings(), Instant::now()).unwrap();
    let upserted: Vec<&str> = delta.upsert.iter().map(|entry| entry.uid.as_str()).collect();
    assert_eq!(upserted, ["b", "c"]);
    assert!(delta.remove.is_empty() && delta.set_digest == next.digest());
    let last = ledger.changed(&set(&[("c", "1")]), &settings(), Instant::now()).unwrap();
    assert_eq!(last.remove, [uid("a"), uid("b")]);
    assert!(last.version > delta.version && last.version.epoch == OwnerEpoch(7));
    assert!(ledger.changed(&set(&[("c", "1")]), &settings(), Instant::now()).is_none(), "no news");
}

#[tokio::test]
async fn a_new_ledger_goes_on_after_what_the_device_has_kept() {
    let kept = |epoch, sequence| DesiredVersion { epoch: OwnerEpoch(epoch), sequence };
    let next = |said: &[DesiredVersion]| {
        let mut ledger = told(EMPTY);
        said.iter().for_each(|kept| ledger.resume(*kept));
        ledger.changed(&set(&[("a", "1")]), &settings(), Instant::now()).unwrap().version
    };
    assert_eq!(next(&[kept(7, 40)]), kept(7, 41));
    // Not back, and not by what an older incarnation counted.
    assert_eq!(next(&[kept(7, 40), kept(7, 3)]), kept(7, 41));
    assert_eq!(next(&[kept(6, 40)]), next(&[]));
    assert_eq!(next(&[kept(7, u64::MAX)]), kept(7, u64::MAX));
}

#[tokio::test]
async fn a_device_that_knows_it_has_to_sync_is_not_told_again() {
    let now = Instant::now();
    let mut ledger = Ledger::new(OwnerEpoch(7));
    let wanted = set(&[("a", "1")]);
    ledger.begin(Some(&wanted), set(EMPTY).digest(), wanted.digest(), now);
    assert!(ledger.changed(&wanted, &settings(), now).is_none());
    let delta = ledger.sync(&wanted, &BTreeMap::from([(uid("old"), Digest::of(b"x"))]), &settings(), now);
    assert_eq!((delta.upsert.len(), delta.remove), (1, vec![uid("old")]));
    assert!(ledger.changed(&set(EMPTY), &settings(), now).is_some());
}

#[tokio::test]
async fn a_set_that_becomes_known_after_hello_is_a_hint_unless_it_is_held() {
    let now = Instant::now();
    let wanted = set(&[("a", "1")]);
    let mut ledger = Ledger::new(OwnerEpoch(7));
    ledger.begin(None, wanted.digest(), wanted.digest(), now);
    assert!(ledger.changed(&wanted, &settings(), now).is_none(), "a restart disturbs nothing");
    let mut ledger = Ledger::new(OwnerEpoch(7));
    ledger.begin(None, set(EMPTY).digest(), set(EMPTY).digest(), now);
    let hint = ledger.changed(&wanted, &settings(), now).unwrap();
    assert!(hint.upsert.is_empty() && hint.remove.is_empty() && hint.set_digest == wanted.digest());
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_with_another_digest_leads_to_a_sync_once_changes_had_time() {
    let mut ledger = told(&[("a", "1")]);
    let next = set(&[("a", "2")]);
    let sent = Instant::now();
    ledger.changed(&next, &settings(), sent).unwrap();
    let old = set(&[("a", "1")]).digest();
    assert!(ledger.heartbeat(&next, old, &settings(), sent + Duration::from_secs(1)).is_none());
    let hint = ledger.heartbeat(&next, old, &settings(), sent + Duration::from_secs(4)).unwrap();
    assert!(hint.upsert.is_empty());
    assert!(ledger.heartbeat(&next, next.digest(), &settings(), sent + Duration::from_secs(9)).is_none());
}

#[tokio::test]
async fn settings_of_the_owner_are_a_new_version_of_the_same_set() {
    let mut ledger = told(&[("a", "1")]);
    let wanted = NodeSettings { report_pod_ip: true };
    let delta = ledger.changed(&set(&[("a", "1")]), &wanted, Instant::now()).unwrap();
    assert!(delta.upsert.is_empty() && delta.node_settings == wanted);
    assert!(ledger.changed(&set(&[("a", "1")]), &wanted, Instant::now()).is_none());
}

#[tokio::test]
async fn what_does_not_fit_is_fetched_in_pages() {
    let large = "x".repeat(INLINE_BUDGET);
    let wanted = set(&[("large", &large), ("small", "1")]);
    let mut ledger = told(EMPTY);
    let delta = ledger.changed(&wanted, &settings(), Instant::now()).unwrap();
    assert!(delta.upsert[0].body.is_none() && delta.upsert[1].body.is_some());
    let digest = delta.upsert[0].digest;
    let mut read = Vec::new();
    while (read.len() as u64) < delta.upsert[0].size {
        let request = FetchRequest { uid: uid("large"), digest, offset: read.len() as u64 };
        read.extend(fetch(Some(&wanted), &request).unwrap().data.0);
    }
    assert_eq!(Digest::of(&read), digest);
    let outdated = FetchRequest { uid: uid("large"), digest: Digest::of(b"old"), offset: 0 };
    assert_eq!(fetch(Some(&wanted), &outdated).unwrap_err().code, RefusalCode::NotFound);
    let beyond = FetchRequest { uid: uid("large"), digest, offset: u64::MAX };
    assert_eq!(fetch(Some(&wanted), &beyond).unwrap_err().code, RefusalCode::BadRequest);
}
