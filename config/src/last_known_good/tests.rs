//! The last known good values: what is recalled, and which files are refused.

use std::fs;

use serde_json::json;

use super::*;

const CANARY: &str = "canary-91bc-secret";

struct Place {
    folder: tempfile::TempDir,
    keyring: Keyring,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
        Self { folder, keyring }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.lkg.json")
    }

    fn open(&self) -> Result<LastKnownGood, LkgError> {
        LastKnownGood::open(&self.file(), self.keyring.clone())
    }
}

fn model(key: &str) -> Model {
    Model {
        key: key.parse().unwrap(),
        schema: schemars::Schema::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: vec![FieldPath::root().join("password")],
        places: Default::default(),
    }
}

fn layer(id: u32) -> Layer {
    Layer {
        values: json!({"id": id, "password": CANARY}).as_object().unwrap().clone(),
        place: "database x, item Vlan".to_owned(),
        fields: [(FieldPath::root().join("id"), "elsewhere".to_owned())].into_iter().collect(),
        version: Some(SchemaVersion("0123456789abcdef".to_owned())),
        revision: Some(7),
    }
}

#[test]
fn what_a_source_gave_is_recalled_after_a_restart_for_that_source_key_and_owner_only() {
    let place = Place::new();
    let lkg = place.open().unwrap();
    assert_eq!(lkg.recall("sqlite", &model("Vlan")).unwrap(), None);
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(1))).unwrap();
    let lkg = place.open().unwrap();
    assert_eq!(lkg.recall("sqlite", &model("Vlan")).unwrap().unwrap().layer, layer(1));
    assert_eq!(lkg.recall("openbao", &model("Vlan")).unwrap(), None);
    assert_eq!(lkg.recall("sqlite", &model("Other")).unwrap(), None);
    assert_eq!(lkg.clone().for_owner("svc").recall("sqlite", &model("Vlan")).unwrap(), None);
}

#[test]
fn the_file_is_written_only_when_values_differ() {
    let place = Place::new();
    let lkg = place.open().unwrap();
    lkg.remember("sqlite", &model("Vlan"), None).unwrap();
    assert!(!place.file().exists());
    for _ in 0..3 {
        lkg.remember("sqlite", &model("Vlan"), Some(&Layer { revision: Some(9), ..layer(1) })).unwrap();
        assert_eq!(lkg.generation().unwrap(), 1);
    }
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(2))).unwrap();
    assert_eq!(lkg.generation().unwrap(), 2);
    lkg.remember("sqlite", &model("Vlan"), None).unwrap();
    assert_eq!(lkg.generation().unwrap(), 3);
    assert_eq!(lkg.recall("sqlite", &model("Vlan")).unwrap(), None);
}

#[test]
fn many_values_are_one_write() {
    let place = Place::new();
    let lkg = place.open().unwrap();
    let (models, layer): (Vec<_>, _) = ((0..50).map(|at| model(&format!("M{at}"))).collect(), layer(1));
    let memories: Vec<_> =
        models.iter().map(|model| Memory { source: "sqlite", model, layer: Some(&layer) }).collect();
    lkg.remember_all(&memories).unwrap();
    lkg.remember_all(&memories).unwrap();
    assert_eq!(lkg.generation().unwrap(), 1);
    assert_eq!(place.open().unwrap().recall("sqlite", &models[49]).unwrap().unwrap().layer, layer);
}

#[test]
fn two_processes_see_and_keep_what_the_other_remembers() {
    let place = Place::new();
    let (one, two) = (place.open().unwrap(), place.open().unwrap());
    one.remember("sqlite", &model("A"), Some(&layer(1))).unwrap();
    two.remember("sqlite", &model("B"), Some(&layer(2))).unwrap();
    assert_eq!(one.recall("sqlite", &model("B")).unwrap().unwrap().layer, layer(2));
    assert_eq!(two.recall("sqlite", &model("A")).unwrap().unwrap().layer, layer(1));
}

#[test]
fn no_secret_is_in_the_file_or_in_a_debug_text() {
    let place = Place::new();
    let lkg = place.open().unwrap();
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(1))).unwrap();
    let recalled = lkg.recall("sqlite", &model("Vlan")).unwrap();
    for entry in walk(place.folder.path()) {
        let bytes = fs::read(&entry).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "{}", entry.display());
    }
    assert!(!format!("{lkg:?} {recalled:?}").contains(CANARY));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_file_that_was_changed_cut_or_put_back_is_refused_and_kept_for_a_look() {
    let place = Place::new();
    let lkg = place.open().unwrap();
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(1))).unwrap();
    let older = fs::read(place.file()).unwrap();
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(2))).unwrap();
    let good = fs::read(place.file()).unwrap();
    let changed = String::from_utf8(good.clone()).unwrap().replace("\"id\":2", "\"id\":3").into_bytes();
    type Expected = fn(&WitnessError) -> bool;
    let check: [(&[u8], Expected); 4] = [
        (&older, |error| matches!(error, WitnessError::Older { found: 1, last: 2, .. })),
        (&changed, |error| matches!(error, WitnessError::Changed { .. })),
        (&good[..good.len() / 2], |error| matches!(error, WitnessError::Damaged { .. })),
        (b"", |error| matches!(error, WitnessError::Damaged { .. })),
    ];
    for (bytes, is_expected) in check {
        fs::write(place.file(), bytes).unwrap();
        let errors = [
            place.open().unwrap_err(),
            lkg.recall("sqlite", &model("Vlan")).unwrap_err(),
            lkg.remember("sqlite", &model("Vlan"), Some(&layer(4))).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(&error, LkgError::File(error) if is_expected(error)), "{error}");
        }
        assert_eq!(fs::read(place.file()).unwrap(), bytes, "what is refused is not replaced");
    }
    fs::write(place.file(), &older).unwrap();
    let (lkg, aside) = LastKnownGood::renew(&place.file(), place.keyring.clone()).unwrap();
    assert_eq!(fs::read(aside.unwrap()).unwrap(), older);
    assert_eq!(lkg.recall("sqlite", &model("Vlan")).unwrap(), None);
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(5))).unwrap();
    assert_eq!(place.open().unwrap().recall("sqlite", &model("Vlan")).unwrap().unwrap().layer, layer(5));
}

#[test]
fn after_a_rotation_it_is_read_and_resealed_and_older_keys_can_be_dropped() {
    use crate::keyring::KeyVersion;
    let place = Place::new();
    let lkg = place.open().unwrap().for_owner("svc");
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(1))).unwrap();
    for purpose in [Purpose::Encryption, Purpose::Cache] {
        place.keyring.rotate(purpose).unwrap();
    }
    assert_eq!(lkg.recall("sqlite", &model("Vlan")).unwrap().unwrap().layer, layer(1));
    lkg.reseal().unwrap();
    for purpose in [Purpose::Encryption, Purpose::Cache] {
        place.keyring.drop_version(purpose, KeyVersion(1)).unwrap();
    }
    let again = place.open().unwrap().for_owner("svc");
    assert_eq!(again.recall("sqlite", &model("Vlan")).unwrap().unwrap().layer, layer(1));
}

#[test]
fn a_file_that_is_deleted_is_an_empty_cache() {
    let place = Place::new();
    let lkg = place.open().unwrap();
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(1))).unwrap();
    fs::remove_file(place.file()).unwrap();
    assert_eq!(lkg.recall("sqlite", &model("Vlan")).unwrap(), None);
    lkg.remember("sqlite", &model("Vlan"), Some(&layer(1))).unwrap();
    assert_eq!(place.open().unwrap().generation().unwrap(), 2);
}

#[test]
fn a_source_that_went_back_is_told_until_it_caught_up() {
    let place = Place::new();
    let file = place.open().unwrap().for_owner("shop");
    let at = |id: u32, revision: u64| Layer { revision: Some(revision), ..layer(id) };
    let older = |file: &LastKnownGood| {
        let older = file.older().unwrap().into_iter();
        older.map(|older| (older.source, older.key.to_string(), older.seen, older.now)).collect::<Vec<_>>()
    };
    file.remember("openbao", &model("Vlan"), Some(&at(1, 7))).unwrap();
    assert_eq!(older(&file), []);
    file.remember("openbao", &model("Vlan"), Some(&at(2, 3))).unwrap();
    file.remember("openbao", &model("Vlan"), Some(&at(3, 4))).unwrap();
    let told = [("openbao".to_owned(), "Vlan".to_owned(), 7, 4)];
    // Also by another program, and after keys were changed.
    file.reseal().unwrap();
    assert_eq!(older(&place.open().unwrap()), told);
    file.remember("openbao", &model("Vlan"), Some(&at(4, 7))).unwrap();
    assert_eq!(older(&file), []);
}
