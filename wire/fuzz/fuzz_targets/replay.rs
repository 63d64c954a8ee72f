//! An order of messages: none is taken twice.
#![no_main]

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
};

use fleet_wire::{
    envelope::{self, Direction, Route, Stamp},
    keys::{Agreement, FleetKeys},
    name::{DeviceName, KeyVersion, OwnerEpoch},
    session::{Arrival, DeviceSession, FleetSession},
};
use libfuzzer_sys::fuzz_target;
use nkeys::XKey;

const STATUS: &str = "fleet.v1.96.pi-7.up.status";

/// The cluster's end of a live session, and what a device needs to speak in it.
struct Live {
    name: DeviceName,
    agreement: Agreement,
    fleet: FleetSession,
    session: envelope::SessionId,
}

fn live() -> Option<Live> {
    let name: DeviceName = "pi-7".parse().ok()?;
    let (device, fleet) = (XKey::new_from_raw([1; 32]), XKey::new_from_raw([2; 32]));
    let fleet_public = XKey::from_public_key(&fleet.public_key()).ok()?;
    let known = FleetKeys::new(BTreeMap::from([(KeyVersion(1), fleet_public.clone())])).ok()?;
    let secret = FleetKeys::new(BTreeMap::from([(KeyVersion(1), fleet)])).ok()?;
    let mut end = DeviceSession::new(name.clone(), device.clone(), known, OwnerEpoch(0));
    let mut fleet = FleetSession::new(name.clone(), device.clone(), secret, OwnerEpoch(1));
    let hello = end.seal_hello("fleet.v1.96.pi-7.up.hello", &()).ok()?;
    let Ok(Arrival::Hello(hello)) = fleet.open("fleet.v1.96.pi-7.up.hello", &hello) else { return None };
    let answer = fleet.accept_hello(&hello, "_INBOX.pi-7.a", &()).ok()?;
    end.open_hello_reply::<()>("_INBOX.pi-7.a", &answer).ok()?;
    let session = end.id()?;
    Some(Live { name, agreement: Agreement::new(&device, &fleet_public).ok()?, fleet, session })
}

thread_local! {
    static SEEN: RefCell<HashSet<u64>> = RefCell::default();
}

fuzz_target!(|counters: Vec<u64>| {
    let Some(mut live) = live() else { panic!("no session") };
    SEEN.with_borrow_mut(|seen| {
        seen.clear();
        for counter in counters.into_iter().take(64) {
            let stamp = Stamp { session: Some(live.session), counter, ..Stamp::default() };
            let route = Route {
                direction: Direction::Up,
                subject: STATUS,
                device: &live.name,
                key_version: KeyVersion(1),
            };
            let Ok(message) = envelope::seal(route, stamp, &live.agreement, &()) else { continue };
            if live.fleet.open(STATUS, &message).is_ok() {
                assert!(counter != 0 && seen.insert(counter), "{counter} was taken twice");
            }
        }
    });
});
