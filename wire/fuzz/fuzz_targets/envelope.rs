//! Messages as they come from NATS: refused, at either end.
#![no_main]

use std::{cell::RefCell, collections::BTreeMap};

use fleet_wire::{
    envelope::Outside,
    keys::FleetKeys,
    name::{DeviceName, KeyVersion, OwnerEpoch},
    session::{DeviceSession, FleetSession},
};
use libfuzzer_sys::fuzz_target;
use nkeys::XKey;

struct Ends {
    device: DeviceSession,
    fleet: FleetSession,
}

thread_local! {
    static ENDS: RefCell<Option<Ends>> = RefCell::new(ends());
}

fn ends() -> Option<Ends> {
    let name: DeviceName = "pi-7".parse().ok()?;
    let (device, fleet) = (XKey::new_from_raw([1; 32]), XKey::new_from_raw([2; 32]));
    let public = |key: &XKey| XKey::from_public_key(&key.public_key()).ok();
    let known = FleetKeys::new(BTreeMap::from([(KeyVersion(1), public(&fleet)?)])).ok()?;
    let peer = public(&device)?;
    let secret = FleetKeys::new(BTreeMap::from([(KeyVersion(1), fleet)])).ok()?;
    Some(Ends {
        device: DeviceSession::new(name.clone(), device, known, OwnerEpoch(0)),
        fleet: FleetSession::new(name, peer, secret, OwnerEpoch(1)),
    })
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Outside::parse(bytes);
    ENDS.with_borrow_mut(|ends| {
        let Some(ends) = ends else { return };
        assert!(ends.fleet.open("fleet.v1.96.pi-7.up.status", bytes).is_err());
        assert!(ends.device.open("fleet.v1.96.pi-7.down.changed", bytes).is_err());
        assert!(ends.device.open_hello_reply::<serde_json::Value>("_INBOX.pi-7.a", bytes).is_err());
    });
});
