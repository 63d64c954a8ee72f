//! The files of the fleet's keys.

use std::collections::BTreeMap;

use nkeys::{KeyPair, XKey};

use super::*;

struct Folder {
    dir: tempfile::TempDir,
    root: KeyPair,
    keys: BTreeMap<KeyVersion, XKey>,
}

impl Folder {
    fn new() -> Self {
        let folder =
            Self { dir: tempfile::tempdir().unwrap(), root: KeyPair::new_operator(), keys: BTreeMap::new() };
        std::fs::create_dir(folder.dir.path().join("seeds")).unwrap();
        folder
    }

    fn key(&mut self, version: u32) {
        let key = XKey::new();
        std::fs::write(self.dir.path().join(format!("seeds/{version}.nk")), key.seed().unwrap()).unwrap();
        self.keys.insert(KeyVersion(version), key);
    }

    fn state(&self, sequence: u64, versions: &[u32]) {
        let curve_keys = versions
            .iter()
            .map(|version| {
                let version = KeyVersion(*version);
                (version, self.keys.get(&version).map_or_else(|| XKey::new().public_key(), XKey::public_key))
            })
            .collect();
        let statement = KeyStatement { sequence, curve_keys, enroller_key: None };
        let signed = SignedKeyStatement::sign(&statement, &self.root).unwrap();
        std::fs::write(self.dir.path().join("keys.json"), serde_json::to_vec(&signed).unwrap()).unwrap();
    }

    fn files(&self) -> FleetFiles {
        FleetFiles {
            seeds: vec![self.dir.path().join("seeds")],
            statement: Some(self.dir.path().join("keys.json")),
        }
    }
}

#[test]
fn a_folder_of_seeds_is_read_and_what_else_lies_there_is_left_alone() {
    let mut folder = Folder::new();
    folder.key(1);
    folder.key(12);
    folder.state(3, &[1, 12]);
    std::fs::write(folder.dir.path().join("seeds/README"), "x").unwrap();
    let fleet = folder.files().read().unwrap();
    assert_eq!(fleet.keys.newest().0, KeyVersion(12));
    assert_eq!(fleet.statement.unwrap().0, 3);
}

#[test]
fn devices_are_not_told_of_a_key_that_this_side_does_not_hold() {
    let mut folder = Folder::new();
    folder.key(1);
    folder.state(2, &[1, 2]);
    assert!(matches!(folder.files().read(), Err(FleetError::Mismatch { version: KeyVersion(2) })));
    folder.key(2);
    // The file was signed over another key of that version.
    assert!(matches!(folder.files().read(), Err(FleetError::Mismatch { version: KeyVersion(2) })));
    folder.state(3, &[1, 2]);
    folder.files().read().unwrap();
    std::fs::remove_file(folder.dir.path().join("seeds/1.nk")).unwrap();
    folder.files().read().unwrap();
}

#[tokio::test(start_paused = true)]
async fn new_files_are_found_and_unusable_ones_change_nothing() {
    let mut folder = Folder::new();
    folder.key(1);
    folder.state(1, &[1]);
    let (sender, mut fleet) = watch::channel(folder.files().read().unwrap());
    let task = tokio::spawn(follow(folder.files(), sender));
    folder.state(2, &[1, 2]);
    let unchanged = tokio::time::timeout(LOOK_EVERY * 3, fleet.changed()).await;
    assert!(unchanged.is_err());
    folder.key(2);
    folder.state(3, &[1, 2]);
    fleet.changed().await.unwrap();
    assert_eq!(fleet.borrow().keys.newest().0, KeyVersion(2));
    task.abort();
}
