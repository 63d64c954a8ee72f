//! The last-known-good file as somebody may have left it.
//!
//! The first two bytes say where in a good file the rest stands; 0xffff: nowhere, the rest is all.
#![no_main]

use std::{cell::RefCell, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use harmony_config::{Layer, Model, SchemaVersion, keyring::Keyring, last_known_good::LastKnownGood};
use libfuzzer_sys::fuzz_target;

struct Place {
    _folder: tempfile::TempDir,
    keyring: Keyring,
    file: PathBuf,
    good: Vec<u8>,
}

thread_local! {
    static PLACE: RefCell<Option<Place>> = RefCell::new(place());
}

fn place() -> Option<Place> {
    let folder = tempfile::tempdir().ok()?;
    let keyring = Keyring::open(&folder.path().join("keys")).ok()?;
    let file = folder.path().join("config.lkg.json");
    let model = Model {
        key: "Vlan".parse().ok()?,
        schema: schemars::Schema::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: vec![],
        places: Default::default(),
    };
    let values = serde_json::json!({"id": 1}).as_object()?.clone();
    let layer =
        Layer { values, place: String::new(), fields: Default::default(), version: None, revision: None };
    LastKnownGood::open(&file, keyring.clone()).ok()?.remember("sqlite", &model, Some(&layer)).ok()?;
    let good = fs::read(&file).ok()?;
    Some(Place { _folder: folder, keyring, file, good })
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with_borrow(|place| {
        let (Some(place), Some((at, rest))) = (place, bytes.split_first_chunk::<2>()) else { return };
        let at = usize::from(u16::from_be_bytes(*at));
        let mut found = rest.to_vec();
        if at < place.good.len() {
            found = place.good.clone();
            found.splice(at..(at + rest.len()).min(place.good.len()), rest.iter().copied());
        }
        if fs::write(&place.file, &found).is_err() {
            return;
        }
        let _ = fs::set_permissions(&place.file, fs::Permissions::from_mode(0o600));
        let opened = LastKnownGood::open(&place.file, place.keyring.clone());
        assert_eq!(opened.is_ok(), found == place.good, "{opened:?}");
    });
});
