//! Counting of references: an object is followed as long as somebody uses it.

use super::*;

fn key(name: &str) -> RefKey {
    RefKey { kind: Kind::ConfigMap, namespace: "web".to_owned(), name: name.to_owned() }
}

fn keys(names: &[&str]) -> BTreeSet<RefKey> {
    names.iter().map(|name| key(name)).collect()
}

fn pod(uid: &str) -> PodUid {
    uid.parse().unwrap()
}

fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

fn present(text: &str) -> RefState {
    let data = BTreeMap::from([("key".to_owned(), text.to_owned())]);
    RefState::Present(Arc::new(Resolved::ConfigMap(BundleConfigMap { data, ..BundleConfigMap::default() })))
}

#[test]
fn an_object_is_opened_once_and_closed_with_its_last_user() {
    let mut references = References::default();
    let opened = references.want(&pod("a"), &device("pi-1"), keys(&["settings"]));
    assert_eq!(opened, [Action::Open { key: key("settings"), device: device("pi-1"), generation: 1 }]);
    assert_eq!(references.want(&pod("b"), &device("pi-1"), keys(&["settings"])), []);
    assert_eq!(references.want(&pod("b"), &device("pi-1"), keys(&["settings"])), []);
    assert_eq!(references.users(&key("settings")), [pod("a"), pod("b")]);
    assert_eq!(references.release(&pod("a")), []);
    assert_eq!(references.release(&pod("b")), [Action::Close { key: key("settings") }]);
    assert!(references.is_empty());
    assert_eq!(references.release(&pod("b")), []);
}

#[test]
fn when_the_reading_node_no_longer_refers_to_it_another_one_takes_over() {
    let mut references = References::default();
    references.want(&pod("a"), &device("pi-1"), keys(&["settings"]));
    references.want(&pod("b"), &device("pi-2"), keys(&["settings"]));
    assert!(references.arrived(&key("settings"), 1, present("x")));
    assert_eq!(
        references.release(&pod("a")),
        [Action::Open { key: key("settings"), device: device("pi-2"), generation: 2 }]
    );
    assert_eq!(references.state(&key("settings")), present("x"), "what is known stays meanwhile");
    assert!(!references.arrived(&key("settings"), 1, present("late")), "the old reader is not heard");
    assert!(references.arrived(&key("settings"), 2, present("y")));
    assert!(!references.arrived(&key("settings"), 2, present("y")), "no news");
}

#[test]
fn a_pod_that_refers_to_other_objects_lets_the_old_ones_go() {
    let mut references = References::default();
    references.want(&pod("a"), &device("pi-1"), keys(&["one", "two"]));
    let actions = references.want(&pod("a"), &device("pi-1"), keys(&["two", "three"]));
    assert_eq!(
        actions,
        [
            Action::Close { key: key("one") },
            Action::Open { key: key("three"), device: device("pi-1"), generation: 3 },
        ]
    );
    assert_eq!(references.len(), 2);
}
