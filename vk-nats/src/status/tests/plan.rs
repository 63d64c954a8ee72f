//! Patches of a pod's status.

use super::*;

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({ "metadata": { "name": "front", "uid": "8a0b" }, "status": status }))
        .unwrap()
}

fn status(value: Value) -> PodStatus {
    serde_json::from_value(value).unwrap()
}

fn uid() -> PodUid {
    "8a0b".parse().unwrap()
}

fn patched(current: Value, report: Value) -> Value {
    match plan(&pod(current), &uid(), &status(report), true) {
        Plan::Patch(patch) => patch,
        other => panic!("expected a patch, got {other:?}"),
    }
}

#[test]
fn a_patch_names_the_uid_and_takes_away_what_is_no_longer_reported() {
    let patch = patched(
        json!({ "phase": "Pending", "reason": "ContainersNotReady", "podIP": "10.0.0.1" }),
        json!({ "phase": "Running", "hostIPs": [{ "ip": "10.0.0.9" }] }),
    );
    assert_eq!(patch["metadata"], json!({ "uid": "8a0b" }));
    assert_eq!(patch["status"]["phase"], "Running");
    assert_eq!(patch["status"]["reason"], Value::Null);
    assert_eq!(patch["status"]["podIP"], Value::Null);
    assert_eq!(patch["status"]["hostIPs"], json!([{ "$patch": "replace" }, { "ip": "10.0.0.9" }]));
}

#[test]
fn conditions_of_others_stay_and_own_ones_go_when_they_are_not_reported() {
    let patch = patched(
        json!({ "phase": "Pending", "qosClass": "Burstable", "conditions": [
            { "type": "PodScheduled", "status": "True" },
            { "type": "example.com/gate", "status": "True" },
            { "type": "PodResizePending", "status": "True" },
        ] }),
        json!({ "phase": "Running", "qosClass": "BestEffort", "nominatedNodeName": "x", "conditions": [
            { "type": "Ready", "status": "True" },
        ] }),
    );
    assert_eq!(
        patch["status"]["conditions"],
        json!([
            { "type": "Ready", "status": "True", "reason": null, "message": null },
            { "type": "PodResizePending", "$patch": "delete" },
        ])
    );
    assert!(patch["status"].get("qosClass").is_none() && patch["status"].get("nominatedNodeName").is_none());
}

#[test]
fn why_a_condition_did_not_hold_is_taken_away_when_it_holds() {
    let patch = patched(
        json!({ "phase": "Pending", "conditions": [
            { "type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "[web]" },
        ] }),
        json!({ "phase": "Succeeded", "conditions": [
            { "type": "Ready", "status": "False", "reason": "PodCompleted" },
        ] }),
    );
    assert_eq!(
        patch["status"]["conditions"],
        json!([{ "type": "Ready", "status": "False", "reason": "PodCompleted", "message": null }])
    );
}

#[test]
fn a_pod_that_has_ended_does_not_come_back() {
    for report in ["Running", "Pending", "Failed"] {
        let plan =
            plan(&pod(json!({ "phase": "Succeeded" })), &uid(), &status(json!({ "phase": report })), true);
        assert!(matches!(plan, Plan::Refuse(_)), "{report}");
    }
    let same = plan(&pod(json!({ "phase": "Failed" })), &uid(), &status(json!({ "phase": "Failed" })), true);
    assert_eq!(same, Plan::Nothing);
}

#[test]
fn what_the_api_has_is_not_written_again_unless_it_may_be_outdated() {
    let reported = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
    let current = json!({ "phase": "Running", "qosClass": "Burstable", "conditions": [
        { "type": "PodScheduled", "status": "True" }, { "type": "Ready", "status": "True" },
    ] });
    assert_eq!(plan(&pod(current.clone()), &uid(), &status(reported.clone()), true), Plan::Nothing);
    assert!(matches!(plan(&pod(current), &uid(), &status(reported), false), Plan::Patch(_)));
}

#[test]
fn phase_and_readiness_are_transitions() {
    let running =
        status(json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "False" }] }));
    let ready = status(json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] }));
    let restarted = status(
        json!({ "phase": "Running", "message": "x", "conditions": [{ "type": "Ready", "status": "False" }] }),
    );
    assert!(is_transition(None, &running));
    assert!(is_transition(Some(&running), &ready));
    assert!(!is_transition(Some(&running), &restarted));
}
