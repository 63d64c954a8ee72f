//! Which messages belong to the live session. Each test fails when the check that it is named after is
//! taken out of `session.rs`.

use fleet_wire::{
    message::{Refusal, RefusalCode, Reply},
    name::{KeyVersion, OwnerEpoch},
    session::{DeviceSession, FleetSession, WINDOW},
    subject::{DownVerb, Leg, UpVerb},
};
use proptest::prelude::*;

use crate::ends::{Ends, Fleet, agreed, public, refusal};

#[test]
fn a_session_carries_messages_both_ways() {
    let mut ends = Ends::live();
    assert!(ends.device.is_live() && ends.fleet.is_live());
    assert_eq!(ends.device.id(), ends.fleet.id());
    ends.assert_live();
}

#[test]
fn nothing_is_said_without_a_session() {
    let mut ends = Ends::of("pi-7", &Fleet::new([1]), &[1]);
    let (up, down) = (ends.up(UpVerb::Status), ends.down(DownVerb::Changed));
    assert_eq!(refusal(ends.device.seal(&up, &())), Some("Session"));
    assert_eq!(refusal(ends.device.seal_frame(&up, 1, b"")), Some("Session"));
    assert_eq!(refusal(ends.fleet.seal(&down, None, &())), Some("Session"));
    assert_eq!(refusal(ends.fleet.seal_frame(&down, 1, b"")), Some("Session"));
    // An answered hello alone proves nothing: it may have been a replay.
    let hello = ends.hello();
    ends.answer_hello(&hello, "h");
    assert!(!ends.fleet.is_live());
    assert_eq!(refusal(ends.fleet.seal(&down, None, &())), Some("Session"));
}

#[test]
fn a_repeated_message_is_refused_at_either_end() {
    let mut ends = Ends::live();
    let status = ends.say("status");
    assert_eq!(refusal(ends.hear(&status)), None);
    assert_eq!(refusal(ends.hear(&status)), Some("Replayed"));
    let command = ends.command("command");
    assert_eq!(refusal(ends.obey(&command)), None);
    assert_eq!(refusal(ends.obey(&command)), Some("Replayed"));
}

/// The first message of a session makes it live: that must count as having been seen, too.
#[test]
fn the_message_that_opens_a_session_is_not_taken_twice() {
    let mut ends = Ends::of("pi-7", &Fleet::new([1]), &[1]);
    let hello = ends.hello();
    let answer = ends.answer_hello(&hello, "h");
    ends.take_answer(&answer, "h").unwrap();
    let first = ends.say("first");
    assert_eq!(refusal(ends.hear(&first)), None);
    assert_eq!(refusal(ends.hear(&first)), Some("Replayed"));
}

#[test]
fn a_reflected_message_is_refused_at_either_end() {
    let mut ends = Ends::live();
    let status = ends.say("status");
    let command = ends.command("command");
    let (up, down) = (ends.up(UpVerb::Status), ends.down(DownVerb::Changed));
    // Both ends can open what either sealed. The readable sender betrays the plain reflection …
    assert_eq!(refusal(ends.device.open(&up, &status)), Some("Sender"));
    assert_eq!(refusal(ends.fleet.open(&down, &command)), Some("Sender"));
    // … and the binding the one whose outside was rewritten.
    let mut forged = status[..7].to_vec();
    forged.push(0);
    forged.extend_from_slice(&status[8 + "pi-7".len()..]);
    assert_eq!(refusal(ends.device.open(&up, &forged)), Some("Binding"));
    let mut forged = command[..7].to_vec();
    forged.push(4);
    forged.extend_from_slice(b"pi-7");
    forged.extend_from_slice(&command[8..]);
    assert_eq!(refusal(ends.fleet.open(&down, &forged)), Some("Binding"));
}

#[test]
fn a_message_is_good_for_its_own_subject_only() {
    let mut ends = Ends::live();
    let status = ends.say("status");
    for verb in [UpVerb::Heartbeat, UpVerb::Hello, UpVerb::Unknown("statuses".into())] {
        let subject = ends.up(verb);
        assert_eq!(refusal(ends.fleet.open(&subject, &status)), Some("Binding"), "{subject}");
    }
    let command = ends.command("command");
    for subject in [ends.down(DownVerb::Revoked), ends.inbox("h"), ends.stream("s", Leg::Down)] {
        assert_eq!(refusal(ends.device.open(&subject, &command)), Some("Binding"), "{subject}");
    }
    // None of the attempts used up the messages.
    assert_eq!(refusal(ends.hear(&status)), None);
    assert_eq!(refusal(ends.obey(&command)), None);
}

#[test]
fn an_answer_is_good_for_its_own_request_only() {
    let mut ends = Ends::live();
    let (first, second) = (ends.inbox("r1"), ends.inbox("r2"));
    let answer = ends.fleet.seal(&first, Some(7), &"taken").unwrap();
    assert_eq!(refusal(ends.device.open(&second, &answer)), Some("Binding"));
    let opened = ends.device.open(&first, &answer).unwrap();
    assert_eq!(opened.header.answers, Some(7));
}

#[test]
fn a_message_of_one_device_is_refused_for_another() {
    let fleet = Fleet::new([1]);
    let (mut pi, mut cam) = (Ends::of("pi-7", &fleet, &[1]), Ends::of("cam-1", &fleet, &[1]));
    pi.shake_hands();
    cam.shake_hands();
    let status = pi.say("status");
    let theirs = cam.up(UpVerb::Status);
    assert_eq!(refusal(cam.fleet.open(&theirs, &status)), Some("Sender"));
    let command = pi.command("command");
    assert_eq!(refusal(cam.obey(&command)), Some("Seal"));
}

/// Two names for one key (a copied disk under a new name): the seal opens, the binding does not.
#[test]
fn a_device_of_the_same_key_but_another_name_is_refused() {
    let fleet = Fleet::new([1]);
    let mut pi = Ends::of("pi-7", &fleet, &[1]);
    pi.shake_hands();
    let twin_name: fleet_wire::name::DeviceName = "pi-8".parse().unwrap();
    let mut twin = DeviceSession::new(twin_name, pi.key.clone(), fleet.public(&[1]), OwnerEpoch(0));
    let command = pi.command("command");
    let subject = pi.down(DownVerb::Changed);
    assert_eq!(refusal(twin.open(&subject, &command)), Some("Binding"));
}

#[test]
fn a_message_of_an_older_session_is_refused() {
    let mut ends = Ends::live();
    let old_status = ends.say("old");
    let old_command = ends.command("old");
    ends.shake_hands();
    assert_eq!(refusal(ends.hear(&old_status)), Some("Session"));
    assert_eq!(refusal(ends.obey(&old_command)), Some("Session"));
    ends.assert_live();
}

#[test]
fn the_old_session_lives_until_the_new_one_is_used() {
    let mut ends = Ends::live();
    let in_flight = ends.say("in flight");
    let hello = ends.hello();
    let answer = ends.answer_hello(&hello, "h2");
    assert_eq!(refusal(ends.hear(&in_flight)), None);
    ends.assert_live();
    ends.take_answer(&answer, "h2").unwrap();
    let first = ends.say("first of the new one");
    assert_eq!(refusal(ends.hear(&first)), None);
    ends.assert_live();
}

#[test]
fn a_replayed_hello_does_not_disturb_the_live_session() {
    let mut ends = Ends::of("pi-7", &Fleet::new([1]), &[1]);
    let hello = ends.hello();
    let answer = ends.answer_hello(&hello, "h");
    ends.take_answer(&answer, "h").unwrap();
    ends.assert_live();
    for _ in 0..10 {
        let answer = ends.answer_hello(&hello, "replayed");
        assert_eq!(refusal(ends.take_answer(&answer, "replayed")), Some("Session"));
        ends.assert_live();
    }
}

#[test]
fn a_replayed_hello_does_not_push_out_the_session_that_opens() {
    let mut ends = Ends::of("pi-7", &Fleet::new([1]), &[1]);
    let old = ends.hello();
    let hello = ends.hello();
    let answer = ends.answer_hello(&hello, "h");
    ends.answer_hello(&old, "replayed");
    ends.answer_hello(&old, "replayed");
    ends.take_answer(&answer, "h").unwrap();
    ends.assert_live();
}

#[test]
fn a_device_takes_the_answer_to_its_last_hello_only_and_once() {
    let mut ends = Ends::of("pi-7", &Fleet::new([1]), &[1]);
    let first = ends.hello();
    let first_answer = ends.answer_hello(&first, "h1");
    let second = ends.hello();
    let second_answer = ends.answer_hello(&second, "h2");
    assert_eq!(refusal(ends.take_answer(&first_answer, "h1")), Some("Session"));
    ends.take_answer(&second_answer, "h2").unwrap();
    ends.assert_live();
    let id = ends.device.id();
    assert_eq!(refusal(ends.take_answer(&second_answer, "h2")), Some("Session"));
    assert_eq!(ends.device.id(), id);
}

#[test]
fn a_refused_hello_leaves_the_session_as_it_is() {
    let mut ends = Ends::live();
    let id = ends.device.id();
    ends.hello();
    let inbox = ends.inbox("h2");
    let refusal = Reply::<()>::Refused(Refusal::new(RefusalCode::Busy, "later"));
    let answer = ends.fleet.seal_sessionless(&inbox, &refusal).unwrap();
    let reply: Reply<()> = ends.device.open_hello_reply(&inbox, &answer).unwrap();
    assert_eq!(reply, refusal);
    assert_eq!(ends.device.id(), id);
    ends.assert_live();
}

#[test]
fn a_message_in_a_session_is_no_answer_to_a_hello() {
    let mut ends = Ends::live();
    ends.hello();
    let inbox = ends.inbox("h2");
    let answer = ends.fleet.seal(&inbox, None, &"welcome").unwrap();
    assert_eq!(refusal(ends.take_answer(&answer, "h2")), Some("Session"));
}

#[test]
fn a_lost_session_can_be_said_without_one() {
    let mut ends = Ends::live();
    let subject = ends.down(DownVerb::Rehello);
    let message = ends.fleet.seal_sessionless(&subject, &"the cluster side restarted").unwrap();
    let opened = ends.device.open(&subject, &message).unwrap();
    assert_eq!(opened.header.session, None);
    // The other way there is no such thing: only a hello comes without a session.
    let status = ends.say("status");
    ends.fleet =
        FleetSession::new(ends.name.clone(), public(&ends.key), Fleet::new([1]).secret(), OwnerEpoch(2));
    assert_eq!(refusal(ends.hear(&status)), Some("Seal"));
}

#[test]
fn a_restarted_cluster_side_knows_no_session() {
    let fleet = Fleet::new([1]);
    let mut ends = Ends::of("pi-7", &fleet, &[1]);
    ends.shake_hands();
    ends.fleet = FleetSession::new(ends.name.clone(), public(&ends.key), fleet.secret(), OwnerEpoch(2));
    let status = ends.say("status");
    assert_eq!(refusal(ends.hear(&status)), Some("Session"));
    ends.shake_hands();
    ends.assert_live();
}

#[test]
fn an_older_epoch_is_refused_everywhere() {
    let fleet = Fleet::new([1]);
    let mut ends = Ends::of("pi-7", &fleet, &[1]);
    ends.device = DeviceSession::new(ends.name.clone(), ends.key.clone(), fleet.public(&[1]), OwnerEpoch(5));
    let subject = ends.down(DownVerb::Rehello);
    let (name, key) = (ends.name.clone(), public(&ends.key));
    let owner = |epoch| FleetSession::new(name.clone(), key.clone(), fleet.secret(), OwnerEpoch(epoch));
    let (mut old, new) = (owner(4), owner(6));

    // Without a session.
    let message = old.seal_sessionless(&subject, &"").unwrap();
    assert_eq!(refusal(ends.device.open(&subject, &message)), Some("Epoch"));
    // In answer to a hello.
    std::mem::swap(&mut ends.fleet, &mut old);
    let hello = ends.hello();
    let answer = ends.answer_hello(&hello, "h");
    assert_eq!(refusal(ends.take_answer(&answer, "h")), Some("Epoch"));
    assert!(!ends.device.is_live());
    assert_eq!(ends.device.epoch(), OwnerEpoch(5));

    // A newer owner is followed, and what the older one says in a live session is refused from then on.
    ends.fleet = owner(5);
    ends.shake_hands();
    let late = ends.command("late");
    let frame_subject = ends.stream("s", Leg::Down);
    let frame = ends.fleet.seal_frame(&frame_subject, 1, b"late").unwrap();
    let message = new.seal_sessionless(&subject, &"").unwrap();
    ends.device.open(&subject, &message).unwrap();
    assert_eq!(ends.device.epoch(), OwnerEpoch(6));
    assert_eq!(refusal(ends.obey(&late)), Some("Epoch"));
    assert_eq!(refusal(ends.device.open_frame(&frame_subject, &frame)), Some("Epoch"));
}

#[test]
fn a_version_of_the_key_that_is_not_known_is_named() {
    let fleet = Fleet::new([1, 2]);
    let mut ends = Ends::of("pi-7", &fleet, &[1, 2]);
    let hello = ends.hello();
    let subject = ends.up(UpVerb::Hello);
    let older = Fleet::new([1]);
    let mut other = FleetSession::new(ends.name.clone(), public(&ends.key), older.secret(), OwnerEpoch(1));
    let error = other.open(&subject, &hello).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
    assert_eq!(error.label(), "KeyVersion");
}

#[test]
fn a_device_that_knows_an_older_key_is_answered_and_refused_with_it() {
    let fleet = Fleet::new([1, 2]);
    let mut ends = Ends::of("pi-7", &fleet, &[1]);
    ends.shake_hands();
    ends.assert_live();
    let subject = ends.down(DownVerb::Rehello);
    let message = ends.fleet.seal_sessionless(&subject, &"").unwrap();
    assert_eq!(refusal(ends.device.open(&subject, &message)), None);
}

/// Both versions are known to both sides, and the seal is good: only the session keeps them apart.
#[test]
fn a_session_keeps_to_one_version_of_the_key() {
    use fleet_wire::envelope::{self, Direction, Route, Stamp};
    let fleet = Fleet::new([1, 2]);
    let mut ends = Ends::of("pi-7", &fleet, &[1, 2]);
    ends.shake_hands();
    let session = ends.device.id();
    let secret = fleet.secret();
    let leaked = secret.get(KeyVersion(1)).unwrap();
    let stamp = || Stamp { session, counter: 900, epoch: OwnerEpoch(9), ..Stamp::default() };
    let down = ends.down(DownVerb::Changed);
    let forged = envelope::seal(
        Route { direction: Direction::Down, subject: &down, device: &ends.name, key_version: KeyVersion(1) },
        stamp(),
        &agreed(leaked, &public(&ends.key)),
        &"stop everything",
    )
    .unwrap();
    assert_eq!(refusal(ends.device.open(&down, &forged)), Some("Session"));
    assert_eq!(ends.device.epoch(), OwnerEpoch(1), "a refused message changes nothing");
    let up = ends.up(UpVerb::Status);
    let forged = envelope::seal(
        Route { direction: Direction::Up, subject: &up, device: &ends.name, key_version: KeyVersion(1) },
        stamp(),
        &agreed(leaked, &public(&ends.key)),
        &"all is well",
    );
    assert_eq!(refusal(ends.fleet.open(&up, &forged.unwrap())), Some("Session"));
}

/// A hello that was overheard is answered with another version of the key than it was sealed with.
#[test]
fn a_hello_is_answered_with_its_own_version_of_the_key() {
    use fleet_wire::envelope::{self, Direction, Nonce, Outside, Route, SessionId, Stamp};
    use sha2::Digest as _;
    let fleet = Fleet::new([1, 2]);
    let mut ends = Ends::of("pi-7", &fleet, &[1, 2]);
    let hello = ends.hello();
    let secret = fleet.secret();
    let key = |version| secret.get(KeyVersion(version)).unwrap();
    let (up, inbox) = (ends.up(UpVerb::Hello), ends.inbox("h"));
    let up = Route { direction: Direction::Up, subject: &up, device: &ends.name, key_version: KeyVersion(2) };
    let opened = Outside::parse(&hello).unwrap().open(up, &agreed(key(2), &public(&ends.key))).unwrap();
    let (device_nonce, fleet_nonce) = (opened.header.nonce.unwrap(), Nonce([7; 16]));
    let hash = sha2::Sha256::new()
        .chain_update(b"harmony-fleet session v1\n")
        .chain_update(device_nonce.0)
        .chain_update(fleet_nonce.0)
        .chain_update(ends.name.as_str());
    let session = SessionId(hash.finalize()[..16].try_into().unwrap());
    let mut answer = |version| {
        let stamp = Stamp { session: Some(session), nonce: Some(fleet_nonce), ..Stamp::default() };
        let key_version = KeyVersion(version);
        let route = Route { direction: Direction::Down, subject: &inbox, device: &ends.name, key_version };
        let answer =
            envelope::seal(route, stamp, &agreed(key(version), &public(&ends.key)), &"welcome").unwrap();
        ends.device.open_hello_reply::<String>(&inbox, &answer)
    };
    assert_eq!(refusal(answer(1)), Some("Session"));
    assert_eq!(refusal(answer(2)), None);
}

#[test]
fn messages_may_overtake_each_other_within_the_window() {
    let mut ends = Ends::live();
    let slow = ends.say("slow");
    let later: Vec<_> = (0..WINDOW - 1).map(|_| ends.say("later")).collect();
    for message in later.iter().rev() {
        assert_eq!(refusal(ends.hear(message)), None);
    }
    assert_eq!(refusal(ends.hear(&slow)), None, "just within the window");
    assert_eq!(refusal(ends.hear(&slow)), Some("Replayed"));
}

#[test]
fn a_message_older_than_the_window_is_refused() {
    let mut ends = Ends::live();
    let slow = ends.say("slow");
    let later: Vec<_> = (0..WINDOW).map(|_| ends.say("later")).collect();
    assert_eq!(refusal(ends.hear(later.last().unwrap())), None);
    assert_eq!(refusal(ends.hear(&slow)), Some("Replayed"));
}

#[test]
fn frames_belong_to_their_stream_and_session() {
    let mut ends = Ends::live();
    let (up, down) = (ends.stream("s1", Leg::Up), ends.stream("s1", Leg::Down));
    let frame = ends.device.seal_frame(&up, 1, b"line\n").unwrap();
    let opened = ends.fleet.open_frame(&up, &frame).unwrap();
    assert_eq!((opened.bytes().unwrap(), opened.header.counter), (&b"line\n"[..], 1));
    assert_eq!(refusal(opened.body::<String>()), Some("Format"));
    let credit = ends.fleet.seal_frame(&down, 1, b"credit").unwrap();
    assert_eq!(ends.device.open_frame(&down, &credit).unwrap().bytes().unwrap(), b"credit");

    let other = ends.stream("s2", Leg::Up);
    assert_eq!(refusal(ends.fleet.open_frame(&other, &frame)), Some("Binding"));
    let status = ends.say("status");
    let subject = ends.up(UpVerb::Status);
    let opened = ends.fleet.open_frame(&subject, &status).unwrap();
    assert_eq!(refusal(opened.bytes()), Some("Format"), "a body is no frame");

    ends.shake_hands();
    assert_eq!(refusal(ends.fleet.open_frame(&up, &frame)), Some("Session"));
    assert_eq!(refusal(ends.device.open_frame(&down, &credit)), Some("Session"));
}

#[test]
fn frames_leave_the_window_of_messages_alone() {
    let mut ends = Ends::live();
    let slow = ends.say("slow");
    let up = ends.stream("s1", Leg::Up);
    for number in 1..=2 * WINDOW {
        let frame = ends.device.seal_frame(&up, number, b"").unwrap();
        ends.fleet.open_frame(&up, &frame).unwrap();
    }
    assert_eq!(refusal(ends.hear(&slow)), None);
}

#[test]
fn a_frame_without_a_session_is_refused() {
    let mut ends = Ends::live();
    let down = ends.stream("s1", Leg::Down);
    let sessionless = ends.fleet.seal_sessionless(&down, &"").unwrap();
    assert_eq!(refusal(ends.device.open_frame(&down, &sessionless)), Some("Session"));
    let hello = ends.hello();
    let subject = ends.up(UpVerb::Hello);
    assert_eq!(refusal(ends.fleet.open_frame(&subject, &hello)), Some("Session"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However messages are lost, doubled and reordered, each is taken at most once, and what is taken was said.
    #[test]
    fn a_bad_network_makes_no_message_count_twice(
        order in prop::collection::vec(0usize..20, 1..60)
    ) {
        let mut ends = Ends::live();
        let said: Vec<_> = (0..20).map(|number| ends.say(&number.to_string())).collect();
        let mut taken = std::collections::HashSet::new();
        for number in order {
            match ends.hear(&said[number]) {
                Ok(body) => {
                    prop_assert_eq!(body, number.to_string());
                    prop_assert!(taken.insert(number));
                }
                Err(error) => {
                    prop_assert_eq!(error.label(), "Replayed");
                    prop_assert!(taken.contains(&number));
                }
            }
        }
    }
}
