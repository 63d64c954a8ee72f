//! What a program checks when it starts or is sent something: signed updates and the last-known-good file.

use std::path::Path;

use harmony_config::{
    Layer,
    keyring::Keyring,
    last_known_good::{LastKnownGood, Memory},
    updates::{Draft, Item, Settings, UpdateSigner, Updates},
};
use jiff::{Timestamp, ToSpan as _};
use serde::Serialize;
use serde_json::json;

use crate::{
    Options,
    model::{item, values},
    times::Times,
};

const CHECKS: usize = 1000;
const OPENS: usize = 101;
const SMALL: usize = 1024;
const LARGE: usize = 480 * 1024;

/// Microseconds.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// An update is read and checked: signature, audience, expiry, hash, models.
    pub small: Checked,
    pub large: Checked,
    pub items: usize,
    /// The file is opened and its MAC and generation compared.
    pub open: Times,
    /// One layer of it, its secrets opened.
    pub recall: Times,
    pub file_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct Checked {
    pub bytes: usize,
    pub check: Times,
}

pub fn measure(options: &Options) -> Kept {
    let folder = tempfile::tempdir_in(&options.folder).unwrap();
    let folder = folder.path();
    let (small, large) = (checked(folder, SMALL), checked(folder, LARGE));

    let keyring = Keyring::open(&folder.join("lkg/keys")).unwrap();
    let file = folder.join("lkg/config.lkg.json");
    let models: Vec<_> = (0..options.items).map(item).collect();
    let layers: Vec<_> = (0..options.items)
        .map(|number| Layer {
            values: values(number, 1),
            place: format!("database /var/lib/harmony/config/config.db, item Item{number} of bench"),
            fields: Default::default(),
            version: Some(models[number].version.clone()),
            revision: Some(number as u64),
        })
        .collect();
    let memories: Vec<_> = models
        .iter()
        .zip(&layers)
        .map(|(model, layer)| Memory { source: "sqlite", model, layer: Some(layer) })
        .collect();
    LastKnownGood::open(&file, keyring.clone()).unwrap().remember_all(&memories).unwrap();
    let open = Times::taken(OPENS, || {
        LastKnownGood::open(&file, keyring.clone()).unwrap();
    });
    let last_good = LastKnownGood::open(&file, keyring).unwrap();
    let recall = Times::taken(OPENS, || {
        let recalled = last_good.recall("sqlite", &models[0]).unwrap().unwrap();
        assert_eq!(recalled.layer.values, layers[0].values);
    });
    let file_bytes = std::fs::metadata(&file).unwrap().len();
    Kept { small, large, items: options.items, open, recall, file_bytes }
}

/// An update of some size, checked again and again.
fn checked(folder: &Path, size: usize) -> Checked {
    let signer = UpdateSigner::new(Keyring::open(&folder.join("signer/keys")).unwrap());
    let model = harmony_config::Model::of::<crate::model::Service>().unwrap();
    let sign = |upstream: String| {
        let values = json!({ "name": "agent", "upstream": upstream }).as_object().cloned().unwrap();
        let draft = Draft {
            audience: "bench".to_owned(),
            epoch: 1,
            expires: Timestamp::now() + 24.hours(),
            items: vec![Item::new(&model, values)],
            recipients: Vec::new(),
        };
        signer.sign(&draft).unwrap()
    };
    // What the envelope adds is found by trying; its payload is in Base64.
    let mut length = 0;
    let mut update = sign(String::new());
    while update.len() + 4 <= size {
        length += ((size - update.len()) * 3 / 4).max(1);
        update = sign("x".repeat(length));
    }
    let settings = Settings {
        file: folder.join("receiver/updates.json"),
        audience: "bench".to_owned(),
        trusted: vec![signer.public_key().unwrap()],
        models: vec![model],
    };
    let updates = Updates::open(settings, Keyring::open(&folder.join("receiver/keys")).unwrap()).unwrap();
    let check = Times::taken(CHECKS, || {
        updates.check(&update).unwrap();
    });
    Checked { bytes: update.len(), check }
}
