//! Which Nodes are devices.

use fleet_wire::enrollment::Enrollment;

use super::*;

fn node() -> Node {
    Enrollment {
        device: "pi-7".parse().unwrap(),
        identity_key: KeyPair::new_user().public_key().parse().unwrap(),
        curve_key: XKey::new().public_key().parse().unwrap(),
        subject: None,
        labels: BTreeMap::new(),
        taint: true,
        pod_cidr: None,
        report_pod_ip: true,
    }
    .node()
}

#[test]
fn an_enrolled_node_is_a_device() {
    let parsed = DeviceNode::parse(&node()).unwrap();
    assert_eq!(parsed.device.as_str(), "pi-7");
    assert!(parsed.settings.report_pod_ip);
    assert_eq!(parsed.published_port, None);
    assert!(!parsed.is_ready());
}

#[test]
fn a_node_without_one_of_the_marks_is_not() {
    let mut without_label = node();
    without_label.metadata.labels = None;
    assert_eq!(DeviceNode::parse(&without_label).unwrap_err(), NotADevice::Label);

    let mut other_provider = node();
    other_provider.spec.as_mut().unwrap().provider_id = Some("harmony-fleet://pi-8".to_owned());
    assert!(matches!(DeviceNode::parse(&other_provider), Err(NotADevice::Provider { .. })));

    for annotation in [IDENTITY_KEY, CURVE_KEY] {
        for value in [None, Some("UGARBAGE".to_owned()), Some(KeyPair::new_account().public_key())] {
            let mut broken = node();
            let annotations = broken.metadata.annotations.as_mut().unwrap();
            annotations.remove(annotation);
            annotations.extend(value.map(|value| (annotation.to_owned(), value)));
            assert!(matches!(DeviceNode::parse(&broken), Err(NotADevice::Key { .. })), "{annotation}");
        }
    }
}
