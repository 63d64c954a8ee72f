#![allow(clippy::unwrap_used)]

use jiff::Timestamp;

use super::*;
use crate::{enroll::membership::Revocation, settings::DeviceKubelet};

fn settings(given: DeviceKubelet) -> Settings {
    given.into()
}

fn complete() -> DeviceKubelet {
    DeviceKubelet {
        name: Some("pi-7".parse().unwrap()),
        nats_url: Some("nats://10.0.0.1:4222".parse().unwrap()),
        fleet_root_key: Some(nkeys::KeyPair::new_operator().public_key().parse().unwrap()),
        fleet_keys_file: Some("/etc/keys.json".into()),
        ..DeviceKubelet::default()
    }
}

fn member() -> Membership {
    Membership {
        device: Some("pi-7".parse().unwrap()),
        root_key: Some("ORoot".into()),
        ..Membership::default()
    }
}

fn revoked() -> Membership {
    Membership {
        revoked: Some(Revocation { at: Timestamp::UNIX_EPOCH, reason: "deleted".into() }),
        ..member()
    }
}

#[test]
fn a_member_runs_with_its_credential_whatever_else_is_set() {
    let invited = DeviceKubelet { enrollment_file: Some("/boot/enroll.json".into()), ..complete() };
    for flags in [DeviceKubelet::default(), complete(), invited] {
        let profile = profile(&settings(flags), &member(), true, true).unwrap();
        assert_eq!(profile, Profile::Member { device: "pi-7".parse().unwrap(), root_key: "ORoot".into() });
    }
    let other = DeviceKubelet { name: Some("pi-8".parse().unwrap()), ..DeviceKubelet::default() };
    let error = profile(&settings(other), &member(), true, false).unwrap_err().to_string();
    assert!(error.contains("pi-7") && error.contains("pi-8"), "{error}");
}

#[test]
fn a_file_that_is_there_wins_over_a_request_and_that_over_plain_settings() {
    let flags = DeviceKubelet {
        enrollment_file: Some("/boot/enroll.json".into()),
        request_enrollment: true,
        ..complete()
    };
    let of = |invited| profile(&settings(flags.clone()), &Membership::default(), false, invited).unwrap();
    assert_eq!(of(true), Profile::Enroll("/boot/enroll.json".into()));
    assert_eq!(of(false), Profile::Request);
    let plain = profile(&settings(complete()), &Membership::default(), false, false).unwrap();
    assert!(matches!(plain, Profile::Settings { .. }), "{plain:?}");
}

#[test]
fn who_is_not_enrolled_is_told_what_to_do() {
    let error =
        profile(&settings(DeviceKubelet::default()), &Membership::default(), false, false).unwrap_err();
    assert!(error.to_string().contains("device-kubelet enroll --intent"), "{error}");
    let half = DeviceKubelet { nats_url: None, ..complete() };
    let error = profile(&settings(half), &Membership::default(), false, false).unwrap_err();
    assert!(error.to_string().contains("`nats-url`"), "{error}");
}

#[test]
fn a_revoked_device_enrolls_anew_with_a_file_and_stays_itself_without() {
    let flags =
        DeviceKubelet { enrollment_file: Some("/boot/enroll.json".into()), ..DeviceKubelet::default() };
    let anew = profile(&settings(flags.clone()), &revoked(), true, true).unwrap();
    assert!(matches!(anew, Profile::Enroll(_)), "{anew:?}");
    // It asks to be let in again, in case the revocation was taken back.
    let waits = profile(&settings(flags), &revoked(), true, false).unwrap();
    assert!(matches!(waits, Profile::Member { .. }), "{waits:?}");
}

#[test]
fn a_crash_before_the_membership_was_written_enrolls_again() {
    let flags =
        DeviceKubelet { enrollment_file: Some("/boot/enroll.json".into()), ..DeviceKubelet::default() };
    let again = profile(&settings(flags), &Membership::default(), true, true).unwrap();
    assert!(matches!(again, Profile::Enroll(_)), "{again:?}");
}

#[test]
fn a_member_does_not_become_another_device_unless_it_was_revoked() {
    let (pi_7, pi_8) = ("pi-7".parse().unwrap(), "pi-8".parse().unwrap());
    may_ask(&Membership::default(), &pi_8, "OOther").unwrap();
    may_ask(&member(), &pi_7, "ORoot").unwrap();
    assert!(matches!(may_ask(&member(), &pi_8, "ORoot"), Err(EnrollError::OtherName { .. })));
    assert!(matches!(may_ask(&member(), &pi_7, "OOther"), Err(EnrollError::OtherFleet { .. })));
    may_ask(&revoked(), &pi_8, "OOther").unwrap();
}

#[test]
fn an_answer_ends_the_asking_or_says_when_to_go_on() {
    assert_eq!(step(Outcome::Enrolled, 0.5), Step::Done);
    let Step::Again { after, approval: true, .. } = step(Outcome::Pending("approve it".into()), 0.5) else {
        panic!("it waits for approval");
    };
    assert_eq!(after, ASK_EVERY);
    let refused = |code| step(Outcome::Refused(Refusal::new(code, "no")), 0.0);
    assert!(matches!(refused(RefusalCode::Busy), Step::Again { approval: false, .. }));
    assert!(matches!(refused(RefusalCode::Unavailable), Step::Again { .. }));
    for code in [RefusalCode::NotEnrolled, RefusalCode::BadRequest, RefusalCode::Other("Expired".into())] {
        assert!(matches!(refused(code), Step::GiveUp(_)));
    }
}
