//! What a subject means, what is none, and what permissions let through.

use fleet_wire::{
    name::{DeviceName, RequestId, Shard},
    permissions::{Identity, Permissions},
    subject::{
        self, DownVerb, Leg, PREFIX, Subject, SubjectError, UpVerb, device_root, inbox_prefix, is_own_inbox,
    },
};
use proptest::prelude::*;

fn device() -> impl Strategy<Value = DeviceName> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|name| name.parse().unwrap())
}

fn id() -> impl Strategy<Value = RequestId> {
    "[A-Za-z0-9_-]{1,64}".prop_map(|id| id.parse().unwrap())
}

const UP: [UpVerb; 6] =
    [UpVerb::Hello, UpVerb::Sync, UpVerb::Fetch, UpVerb::Status, UpVerb::Events, UpVerb::Heartbeat];
const DOWN: [DownVerb; 5] =
    [DownVerb::Changed, DownVerb::Rehello, DownVerb::Logs, DownVerb::Revoked, DownVerb::Rotate];

fn subject() -> impl Strategy<Value = Subject> {
    let leg = prop::sample::select(vec![Leg::Up, Leg::Down]);
    prop_oneof![
        (device(), prop::sample::select(UP.to_vec())).prop_map(|(d, v)| Subject::Up(d, v)),
        (device(), prop::sample::select(DOWN.to_vec())).prop_map(|(d, v)| Subject::Down(d, v)),
        (device(), "[a-z]{1,10}x").prop_map(|(d, v)| Subject::Up(d, UpVerb::Unknown(v))),
        (device(), "[a-z]{1,10}x").prop_map(|(d, v)| Subject::Down(d, DownVerb::Unknown(v))),
        (device(), id()).prop_map(|(d, i)| Subject::Answer(d, i)),
        (device(), id(), leg).prop_map(|(d, i, l)| Subject::Stream(d, i, l)),
    ]
}

/// NATS' own matching, as nats-server does it.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) => return true,
            (Some(p), Some(s)) if p == "*" || p == s => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

fn permitted(patterns: &[String], subject: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, subject))
}

proptest! {
    #[test]
    fn a_subject_is_read_as_it_was_written(subject in subject()) {
        prop_assert_eq!(Subject::parse(&subject.to_string()), Ok(subject));
    }

    #[test]
    fn what_is_read_is_written_as_it_was(
        text in "fleet\\.v1\\.[0-9]{1,3}\\.[a-z.*>-]{1,12}\\.(up|down|session)(\\.[a-z*>]{0,6}){0,3}"
    ) {
        if let Ok(subject) = Subject::parse(&text) {
            prop_assert_eq!(subject.to_string(), text);
        }
    }

    #[test]
    fn a_changed_token_is_another_subject_or_none(subject in subject(), at in 0usize..8, token in "[a-z*>]{0,4}") {
        let text = subject.to_string();
        let mut tokens: Vec<&str> = text.split('.').collect();
        let at = at % tokens.len();
        prop_assume!(tokens[at] != token);
        tokens[at] = &token;
        prop_assert_ne!(Subject::parse(&tokens.join(".")), Ok(subject));
    }

    #[test]
    fn a_device_may_use_its_own_subjects_and_no_other_ones(subject in subject(), other in device()) {
        let text = subject.to_string();
        let own = Permissions::of(&Identity::Device(subject.device().clone()));
        let (publish, subscribe) = match &subject {
            Subject::Up(..) | Subject::Answer(..) | Subject::Stream(_, _, Leg::Up) => (true, false),
            Subject::Down(..) | Subject::Stream(_, _, Leg::Down) => (false, true),
        };
        prop_assert_eq!(permitted(&own.publish, &text), publish);
        prop_assert_eq!(permitted(&own.subscribe, &text), subscribe);

        prop_assume!(other != *subject.device());
        let foreign = Permissions::of(&Identity::Device(other));
        prop_assert!(!permitted(&foreign.publish, &text) && !permitted(&foreign.subscribe, &text));

        let cluster = Permissions::of(&Identity::ClusterSide);
        prop_assert_eq!(permitted(&cluster.publish, &text), subscribe);
        prop_assert_eq!(permitted(&cluster.subscribe, &text), publish);
    }

    #[test]
    fn an_inbox_belongs_to_one_device(device in device(), other in device(), token in "[A-Za-z0-9]{1,22}") {
        let inbox = format!("{}.{token}.{token}", inbox_prefix(&device));
        prop_assert!(is_own_inbox(&device, &inbox));
        prop_assert_eq!(is_own_inbox(&other, &inbox), device == other);
        prop_assert!(permitted(&Permissions::of(&Identity::Device(device)).subscribe, &inbox));
    }

    #[test]
    fn whatever_passes_as_an_inbox_is_in_what_the_device_may_subscribe(device in device(), reply in "\\PC{0,40}") {
        let reply = format!("{}{reply}", inbox_prefix(&device));
        if is_own_inbox(&device, &reply) {
            prop_assert!(permitted(&Permissions::of(&Identity::Device(device)).subscribe, &reply));
            prop_assert!(!reply.contains(['*', '>', ' ']));
        }
    }
}

#[test]
fn hostile_subjects_mean_nothing() {
    let pi: DeviceName = "pi-7".parse().unwrap();
    let root = device_root(&pi);
    let shard = Shard::of(&pi);
    for subject in [
        String::new(),
        "fleet".into(),
        PREFIX.into(),
        format!("{PREFIX}."),
        root.clone(),
        format!("{root}."),
        format!("{root}.up"),
        format!("{root}.up."),
        format!("{root}.up.*"),
        format!("{root}.up.>"),
        format!("{root}.up.hello "),
        format!("{root}.up.hello.extra"),
        format!("{root}.up.re."),
        format!("{root}.up.re.*"),
        format!("{root}.up.re.a.b"),
        format!("{root}.down.re.a"),
        format!("{root}.session.a"),
        format!("{root}.session..up"),
        format!("{root}.session.*.up"),
        format!("{root}.session.a.sideways"),
        format!("{root}.session.a.up.b"),
        format!("{root}.UP.hello"),
        format!(".{root}.up.hello"),
        format!("{root}.up.{}", "v".repeat(300)),
        format!("{root}.up.{}", "v".repeat(1_000_000)),
        format!("fleet.v2.{shard}.pi-7.up.hello"),
        format!("{PREFIX}.{shard}.*.up.hello"),
        format!("{PREFIX}.{shard}.>.up.hello"),
        format!("{PREFIX}.*.pi-7.up.hello"),
        format!("{PREFIX}.0{shard}.pi-7.up.hello"),
        format!("{PREFIX}.+{shard}.pi-7.up.hello"),
        format!("{PREFIX}.256.pi-7.up.hello"),
        format!("{PREFIX}.{shard}.Pi-7.up.hello"),
        format!("{PREFIX}.{shard}.pi.7.up.hello"),
        "$SYS.REQ.SERVER.PING".into(),
        "$JS.API.STREAM.CREATE.x".into(),
        "_INBOX.pi-7.x".into(),
    ] {
        let error = Subject::parse(&subject).expect_err(&subject);
        assert!(error.to_string().len() < 1000, "an error repeats all of a long subject");
    }
}

#[test]
fn the_shard_must_be_the_devices() {
    let pi: DeviceName = "pi-7".parse().unwrap();
    let own = Shard::of(&pi);
    let other = Shard::all().find(|shard| *shard != own).unwrap();
    let error = Subject::parse(&format!("{PREFIX}.{other}.pi-7.up.hello")).unwrap_err();
    assert_eq!(error, SubjectError::Shard { device: pi, expected: own, found: other });
}

#[test]
fn an_unknown_verb_is_kept_for_its_refusal() {
    let pi: DeviceName = "pi-7".parse().unwrap();
    let text = format!("{}.up.teleport", device_root(&pi));
    assert_eq!(Subject::parse(&text), Ok(Subject::Up(pi, UpVerb::Unknown("teleport".into()))));
}

#[test]
fn reply_subjects_outside_of_the_inbox_are_refused() {
    let pi: DeviceName = "pi-7".parse().unwrap();
    assert!(is_own_inbox(&pi, "_INBOX.pi-7.Zx9"));
    assert!(is_own_inbox(&pi, "_INBOX.pi-7.Zx9.4-_"));
    let long = format!("_INBOX.pi-7.{}", "a".repeat(129));
    for reply in [
        "",
        "_INBOX",
        "_INBOX.",
        "_INBOX.pi-7",
        "_INBOX.pi-7.",
        "_INBOX.pi-7..a",
        "_INBOX.pi-7.a.",
        "_INBOX.pi-7.*",
        "_INBOX.pi-7.>",
        "_INBOX.pi-7.a.>",
        "_INBOX.pi-7.a b",
        "_INBOX.pi-7.a\r\nPUB x 0",
        "_INBOX.pi-7.ä",
        "_INBOX.pi-70.a",
        "_INBOX.pi-8.a",
        "_inbox.pi-7.a",
        "x_INBOX.pi-7.a",
        "fleet.v1.0.pi-8.down.changed",
        "$SYS.REQ.SERVER.PING",
        "$JS.API.STREAM.PURGE.x",
        long.as_str(),
    ] {
        assert!(!is_own_inbox(&pi, reply), "{reply:?}");
    }
}

#[test]
fn wildcards_cover_what_they_are_for() {
    let pi: DeviceName = "pi-7".parse().unwrap();
    let id: RequestId = "r1".parse().unwrap();
    let up = Subject::Up(pi.clone(), UpVerb::Hello).to_string();
    let answer = Subject::Answer(pi.clone(), id.clone()).to_string();
    let stream_up = Subject::Stream(pi.clone(), id.clone(), Leg::Up).to_string();
    let stream_down = Subject::Stream(pi.clone(), id, Leg::Down).to_string();
    let down = Subject::Down(pi.clone(), DownVerb::Logs).to_string();
    for (pattern, covered) in [
        (subject::all_up_wildcard(), vec![&up, &answer]),
        (subject::all_stream_up_wildcard(), vec![&stream_up]),
        (subject::up_wildcard(&pi), vec![&up, &answer]),
        (subject::stream_up_wildcard(&pi), vec![&stream_up]),
        (subject::down_wildcard(&pi), vec![&down]),
        (subject::stream_down_wildcard(&pi), vec![&stream_down]),
    ] {
        for text in [&up, &answer, &stream_up, &stream_down, &down] {
            assert_eq!(matches(&pattern, text), covered.contains(&text), "{pattern} {text}");
        }
    }
}
