//! Budgets of attempts: nobody uses up that of somebody else.

use super::*;

#[test]
fn an_address_counts_whole_and_an_ipv6_one_by_its_network() {
    let source = Source::parse;
    assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
    assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
    assert_eq!(source("pi-7"), Source::Unknown);
    assert_eq!(source(""), Source::Unknown);
}

#[test]
fn one_address_cannot_use_up_the_budget_of_another() {
    let limits = Limits::default();
    let (one, other) = (Source::parse("192.0.2.1"), Source::parse("192.0.2.2"));
    let burst = ADDRESS_BURST.get() as usize;
    let granted = (0..2 * burst).filter(|_| limits.unverified(&one)).count();
    assert!((burst..burst + 20).contains(&granted), "{granted}");
    assert!(limits.unverified(&other));
}

#[test]
fn a_device_that_reconnects_without_end_is_held_up_alone() {
    let limits = Limits::default();
    let device = |name: &str| Identity::Device(name.parse().unwrap());
    let burst = IDENTITY_BURST.get() as usize;
    let granted = (0..2 * burst).filter(|_| limits.admission(&device("pi-7"))).count();
    assert!((burst..burst + 5).contains(&granted), "{granted}");
    assert!(limits.admission(&device("pi-8")));
}

#[test]
fn thousands_of_devices_behind_one_address_have_budgets_of_their_own() {
    let limits = Limits::default();
    for n in 0..5000 {
        assert!(limits.admission(&Identity::Device(format!("pi-{n}").parse().unwrap())));
    }
    limits.forget();
}
