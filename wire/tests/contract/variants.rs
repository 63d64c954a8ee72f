//! Either side may be one minor version ahead: an unknown variant must not make a whole message unreadable.

use fleet_wire::message::{
    Bundle, EventType, EventsReport, MissingReference, Outcome, ReferenceKind, Refusal, RefusalCode, Reply,
    StatusAck,
};
use serde_json::json;

#[test]
fn an_unknown_outcome_is_offered_again_and_the_others_are_read() {
    let ack: StatusAck = serde_json::from_value(json!({
        "node": {"parked": {"until": [1, {"a": "b"}]}},
        "pods": [
            {"uid": "a", "revision": 1, "outcome": "taken"},
            {"uid": "b", "revision": 2, "outcome": "postponed"},
            {"uid": "c", "revision": 3, "outcome": {"refused": {"code": "BadRequest", "message": "no"}}},
        ],
    }))
    .unwrap();
    let unknown = |outcome: &Outcome, name: &str| match outcome {
        Outcome::Later(refusal) => {
            refusal.code == RefusalCode::Other(name.into()) && refusal.message.contains(name)
        }
        _ => false,
    };
    assert!(unknown(ack.node.as_ref().unwrap(), "parked"));
    assert_eq!(ack.pods[0].outcome, Outcome::Taken);
    assert!(unknown(&ack.pods[1].outcome, "postponed"));
    assert_eq!(ack.pods[2].outcome, Outcome::Refused(Refusal::new(RefusalCode::BadRequest, "no")));
}

#[test]
fn outcomes_are_read_as_they_were_written() {
    let refusal = Refusal::new(RefusalCode::Busy, "try again");
    for outcome in
        [Outcome::Taken, Outcome::Gone, Outcome::Later(refusal.clone()), Outcome::Refused(refusal.clone())]
    {
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&json).unwrap(), outcome, "{json}");
    }
    for wrong in [json!(null), json!(1), json!({}), json!([]), json!({"later": 1}), json!({"later": null})] {
        assert!(serde_json::from_value::<Outcome>(wrong.clone()).is_err(), "{wrong}");
    }
    let two = r#"{"later":{"code":"Busy","message":""},"refused":{"code":"Busy","message":""}}"#;
    assert!(serde_json::from_str::<Outcome>(two).is_err());
}

#[test]
fn an_unknown_refusal_code_survives() {
    let json = json!({"refused": {"code": "Haunted", "message": "a ghost"}});
    let reply: Reply<StatusAck> = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(serde_json::to_value(&reply).unwrap(), json);
    assert_eq!(reply.into_result().unwrap_err().code, RefusalCode::Other("Haunted".into()));
}

#[test]
fn every_refusal_code_is_read_as_it_was_written() {
    use RefusalCode as C;
    for code in [
        C::UnknownVerb,
        C::UnknownSession,
        C::Malformed,
        C::TooLarge,
        C::NotEnrolled,
        C::IdentityConflict,
        C::NotFound,
        C::BadRequest,
        C::Unsupported,
        C::Busy,
        C::Unavailable,
        C::Internal,
    ] {
        assert_eq!(C::from(code.as_str().to_owned()), code);
    }
}

#[test]
fn an_unknown_kind_of_reference_leaves_the_bundle_readable() {
    let bundle: Bundle = serde_json::from_value(json!({
        "pod": {"metadata": {"name": "web"}},
        "missing": [{"kind": "HarmonyConfig", "name": "web", "message": "harmonyconfig \"web\" not found"}],
    }))
    .unwrap();
    assert_eq!(
        bundle.missing,
        [MissingReference {
            kind: ReferenceKind::Other,
            name: "web".into(),
            message: "harmonyconfig \"web\" not found".into(),
        }]
    );
}

#[test]
fn an_unknown_type_of_event_is_normal() {
    let event = |kind: &str| json!({"id": "1", "type": kind, "reason": "R", "message": "", "count": 1, "first": 0, "last": 0});
    let report: EventsReport = serde_json::from_value(
        json!({"events": [event("Audit"), event("Warning"), event("Normal")], "now": 0}),
    )
    .unwrap();
    let types: Vec<_> = report.events.iter().map(|event| event.type_).collect();
    assert_eq!(types, [EventType::Normal, EventType::Warning, EventType::Normal]);
}
