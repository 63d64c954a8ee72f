//! Updates as they come from NATS or a file.
//!
//! The first two bytes say where in a good update the rest stands; 0xffff: nowhere, the rest is all.
#![no_main]

use std::cell::RefCell;

use harmony_config::{
    keyring::Keyring,
    updates::{Draft, Head, Settings, UpdateSigner, Updates},
};
use libfuzzer_sys::fuzz_target;

struct Ends {
    _folder: tempfile::TempDir,
    updates: Updates,
    good: Vec<u8>,
    head: Head,
}

thread_local! {
    static ENDS: RefCell<Option<Ends>> = RefCell::new(ends());
}

fn ends() -> Option<Ends> {
    let folder = tempfile::tempdir().ok()?;
    let keyring = Keyring::open(&folder.path().join("keys")).ok()?;
    let signer = UpdateSigner::new(keyring.clone());
    let settings = Settings {
        file: folder.path().join("updates.json"),
        audience: "a".to_owned(),
        trusted: vec![signer.public_key().ok()?],
        models: vec![],
    };
    let expires = jiff::Timestamp::MAX;
    let draft = Draft { audience: "a".to_owned(), epoch: 1, expires, items: vec![], recipients: vec![] };
    let good = signer.sign(&draft).ok()?;
    let updates = Updates::open(settings, keyring).ok()?;
    let head = updates.check(&good).ok()?;
    Some(Ends { _folder: folder, updates, good, head })
}

fuzz_target!(|bytes: &[u8]| {
    ENDS.with_borrow(|ends| {
        let (Some(ends), Some((at, rest))) = (ends, bytes.split_first_chunk::<2>()) else { return };
        let at = usize::from(u16::from_be_bytes(*at));
        let mut update = rest.to_vec();
        if at < ends.good.len() {
            update = ends.good.clone();
            update.splice(at..(at + rest.len()).min(ends.good.len()), rest.iter().copied());
        }
        if let Ok(head) = ends.updates.check(&update) {
            assert_eq!(head, ends.head, "only one head was ever signed");
        }
    });
});
