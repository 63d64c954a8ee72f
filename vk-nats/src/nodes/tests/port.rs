//! Ports of Nodes.

use super::*;

fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

fn table(range: &str) -> PortTable {
    PortTable::new(range.parse().unwrap())
}

#[test]
fn published_ports_are_kept_and_nobody_else_gets_them() {
    let mut table = table("10300-10302");
    table.keep(&device("a"), 10_301);
    assert_eq!(table.claim(&device("a")), Some(10_301));
    let (b, c) = (table.claim(&device("b")).unwrap(), table.claim(&device("c")).unwrap());
    assert!(b != 10_301 && c != 10_301 && b != c);
    assert_eq!(table.claim(&device("d")), None, "the range is used up");
    table.free(&device("b"));
    assert_eq!(table.claim(&device("d")), Some(b));
}

#[test]
fn the_same_port_is_claimed_again() {
    let mut first = table("10300-20299");
    let port = first.claim(&device("pi-7"));
    assert_eq!(first.claim(&device("pi-7")), port);
    assert_eq!(table("10300-20299").claim(&device("pi-7")), port, "by its name, also after a restart");
}

#[test]
fn a_port_published_twice_or_out_of_range_is_replaced() {
    let mut table = table("10300-10309");
    table.keep(&device("a"), 10_305);
    table.keep(&device("b"), 10_305);
    table.keep(&device("c"), 80);
    assert_eq!(table.claim(&device("a")), Some(10_305));
    assert_ne!(table.claim(&device("b")), Some(10_305));
    assert!((10_300..=10_309).contains(&table.claim(&device("c")).unwrap()));
}

#[test]
fn ranges_are_checked() {
    for wrong in ["", "10300", "20-10", "0-10", "1-99999", "a-b"] {
        assert_eq!(wrong.parse::<PortRange>(), Err(PortRangeError), "{wrong}");
    }
    assert_eq!("1-65535".parse::<PortRange>().unwrap().size(), 65_535);
}
