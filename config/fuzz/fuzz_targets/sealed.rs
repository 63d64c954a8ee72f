//! What lies at rest: documents with sealed values, tags.
#![no_main]

use std::cell::RefCell;

use harmony_config::{
    Document, FieldPath, Model, SchemaVersion,
    keyring::{Context, Keyring, Mac, Sealed},
    seal::{SEALED, open_document, seal_document},
};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: RefCell<Option<(tempfile::TempDir, Keyring, Model)>> = RefCell::new(place());
}

fn place() -> Option<(tempfile::TempDir, Keyring, Model)> {
    let folder = tempfile::tempdir().ok()?;
    let keyring = Keyring::open(&folder.path().join("keys")).ok()?;
    let model = Model {
        key: "Vlan".parse().ok()?,
        schema: schemars::Schema::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: vec![FieldPath::root().join("a"), ["b", "a"].into_iter().collect()],
        places: Default::default(),
    };
    Some((folder, keyring, model))
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with_borrow(|place| {
        let Some((_, keyring, model)) = place else { return };
        if let Ok(text) = std::str::from_utf8(bytes) {
            if let Ok(mac) = text.parse::<Mac>() {
                assert_eq!(mac.to_string(), text);
                assert!(keyring.verify(b"what nobody has tagged", &mac).is_err());
            }
            if let Ok(sealed) = text.parse::<Sealed>() {
                assert_eq!(sealed.as_str(), text);
                let context = Context { owner: "a", key: &model.key, place: &FieldPath::root() };
                assert!(keyring.open_sealed(&context, &sealed).is_err());
            }
        }
        let Ok(document) = serde_json::from_slice::<Document>(bytes) else { return };
        if let Ok(opened) = open_document(keyring, "a", model, &document) {
            assert_eq!(opened, document, "nothing in it was ever sealed");
        }
        let at_rest = seal_document(keyring, "a", model, &document).expect("the keys are there");
        assert_eq!(open_document(keyring, "a", model, &at_rest).expect("it was just sealed"), document);
        assert!(at_rest.get("a").is_none_or(|a| a.get(SEALED).is_some()) || at_rest.contains_key(SEALED));
    });
});
