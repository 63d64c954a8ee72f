//! What `callout explain` prints.

use super::*;

#[test]
fn a_device_is_explained_with_its_own_subjects_only() {
    let explanation = explain("device:pi-7").unwrap();
    assert_eq!(explanation.permissions, Permissions::of(&Identity::Device("pi-7".parse().unwrap())));
    let table = explanation.table();
    assert!(table.starts_with("IDENTITY       device:pi-7\nMAY PUBLISH    fleet.v1."), "{table}");
    assert!(table.contains("_INBOX.pi-7.>"), "{table}");
    assert!(table.contains("16 at most"), "{table}");
}

#[test]
fn placeholders_stand_for_keys_and_ids_that_were_not_given() {
    let applicant = explain("applicant").unwrap();
    assert_eq!(applicant.identity, "applicant:<key>");
    assert_eq!(applicant.permissions.publish, ["fleet.enroll.v1.key.<key>"]);
    assert_eq!(explain("token").unwrap().permissions.publish, ["fleet.enroll.v1.token.<id>"]);
    let person = explain("person").unwrap();
    assert!(person.permissions.publish.is_empty());
    assert!(person.table().contains("MAY PUBLISH    nothing"), "{}", person.table());
    let given = explain(&format!("person:{SAMPLE_KEY}")).unwrap();
    assert_eq!(given.identity, format!("person:{SAMPLE_KEY}"));
}

#[test]
fn json_has_the_lists() {
    let json = serde_json::to_value(explain("component:enroller").unwrap()).unwrap();
    assert_eq!(json["identity"], "component:enroller");
    assert_eq!(json["publish"], serde_json::json!(["_INBOX.>"]));
}

#[test]
fn what_is_no_identity_is_said_with_the_forms_that_are() {
    for given in
        ["", "pi-7", "device", "device:", "device:a.b", "component:callout", "token:x", "person:U", "x:y"]
    {
        let refused = explain(given).unwrap_err();
        assert!(refused.to_string().contains("device:NAME"), "{refused}");
    }
}
