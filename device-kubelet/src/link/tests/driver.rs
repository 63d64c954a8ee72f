#![allow(clippy::unwrap_used)]

use fleet_wire::{message::NodeSettings, name::OwnerEpoch};

use super::*;

fn version(epoch: u64, sequence: u64) -> DesiredVersion {
    DesiredVersion { epoch: OwnerEpoch(epoch), sequence }
}

fn delta(version: DesiredVersion, set: &[u8]) -> Delta {
    Delta {
        version,
        upsert: Vec::new(),
        remove: Vec::new(),
        set_digest: Digest::of(set),
        node_settings: NodeSettings::default(),
    }
}

#[test]
fn older_changes_are_ignored_and_newer_ones_applied() {
    let (held, set) = (version(2, 7), Digest::of(b"held"));
    let change = |version, set: &[u8]| Delta { remove: vec!["a".parse().unwrap()], ..delta(version, set) };
    assert_eq!(judge(&change(version(2, 6), b"x"), held, set), Verdict::Old);
    assert_eq!(judge(&change(version(1, 99), b"x"), held, set), Verdict::Old);
    assert_eq!(judge(&change(version(2, 7), b"x"), held, set), Verdict::Apply);
    assert_eq!(judge(&change(version(2, 8), b"x"), held, set), Verdict::Apply);
    assert_eq!(judge(&change(version(3, 1), b"x"), held, set), Verdict::Apply);
}

#[test]
fn a_hint_makes_the_device_sync_if_it_holds_something_else() {
    let (held, set) = (version(2, 7), Digest::of(b"held"));
    assert_eq!(judge(&delta(version(2, 8), b"other"), held, set), Verdict::Sync);
    assert_eq!(judge(&delta(version(2, 6), b"other"), held, set), Verdict::Sync);
    assert_eq!(judge(&delta(version(2, 7), b"held"), held, set), Verdict::Known);
    assert_eq!(judge(&delta(version(2, 8), b"held"), held, set), Verdict::Apply, "a newer version is kept");
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_does_not_help_is_tried_again_later_each_time() {
    let mut sync = SyncPlan::new();
    sync.soon();
    assert_eq!(sync.due, Some(Instant::now()));
    sync.trying();
    let first = sync.due.unwrap();
    assert!(first > Instant::now());
    sync.soon();
    assert_eq!(sync.due, Some(first), "asking again does not hurry");
    sync.trying();
    assert!(sync.due.unwrap() >= Instant::now() + Duration::from_secs(1));
    sync.done();
    sync.soon();
    assert_eq!(sync.due, Some(Instant::now()));
}
