#![allow(clippy::unwrap_used, clippy::expect_used)]

use fleet_wire::name::OwnerEpoch;

use super::*;
use crate::{keys, sealing::KeyFileSealer};

const SECRET: &str = "correct horse battery staple";

fn open(data_dir: &Path) -> Result<(Store, Loaded<String>), StoreError> {
    let keys = keys::directory(data_dir).unwrap();
    Store::open(data_dir, Box::new(KeyFileSealer::open(&keys)?))
}

fn uid(name: &str) -> PodUid {
    name.parse().unwrap()
}

fn bundle(name: &str) -> (PodUid, Digest, Box<str>) {
    let json = format!(r#"{{"pod":"{name}","secret":"{SECRET}"}}"#).into_boxed_str();
    (uid(name), Digest::of(json.as_bytes()), json)
}

fn index() -> Index {
    let pods = ["a", "b"].map(bundle).map(|(uid, digest, _)| (uid, digest));
    let version = DesiredVersion { epoch: OwnerEpoch(1), sequence: 7 };
    Index { version, pods: pods.into(), ..Index::default() }
}

/// A store with two pods and their records.
fn fill(store: &Store) {
    store.commit(&index(), &[bundle("a"), bundle("b")]).unwrap();
    for name in ["a", "b"] {
        store.save_record(&uid(name), &format!("{name} {SECRET}")).unwrap();
    }
}

/// The same, as a version of the agent wrote it that did not seal.
fn fill_plain(data_dir: &Path) {
    let dir = data_dir.join("store");
    fs::create_dir_all(dir.join("bundles")).unwrap();
    fs::create_dir_all(dir.join("records")).unwrap();
    let checked = |json: String| format!("{}\n{json}", Digest::of(json.as_bytes()));
    fs::write(dir.join("index"), checked(serde_json::to_string(&index()).unwrap())).unwrap();
    for name in ["a", "b"] {
        let (uid, digest, json) = bundle(name);
        fs::write(bundle_path(&dir, &uid, &digest), json.as_bytes()).unwrap();
        fs::write(dir.join("records").join(name), checked(format!("\"{name} {SECRET}\""))).unwrap();
    }
}

fn assert_whole(loaded: &Loaded<String>) {
    assert!(loaded.whole);
    assert_eq!(loaded.index, index());
    for name in ["a", "b"] {
        assert_eq!(loaded.bundles[&uid(name)], bundle(name).2);
        assert_eq!(loaded.records[&uid(name)], format!("{name} {SECRET}"));
    }
}

/// All files below, in order of their paths.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

fn assert_no_secret(data_dir: &Path) {
    for path in files(data_dir) {
        let bytes = fs::read(&path).unwrap();
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{} shows the secret", path.display());
    }
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for path in files(from) {
        let target = to.path().join(path.strip_prefix(from).unwrap());
        let parent = target.parent().unwrap();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).unwrap();
        fs::copy(&path, target).unwrap();
    }
    to
}

#[test]
fn nothing_on_disk_shows_what_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).unwrap();
    fill(&store);
    assert_no_secret(dir.path());
    assert_eq!(files(&dir.path().join("store")).len(), 5);
    let (store, loaded) = open(dir.path()).unwrap();
    assert_whole(&loaded);
    assert_eq!(store.writes(), Writes::default(), "a start writes nothing");
}

#[test]
fn files_that_change_places_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    fill(&open(dir.path()).unwrap().0);
    let record = |name: &str| dir.path().join("store/records").join(name);
    let (a, b) = (fs::read(record("a")).unwrap(), fs::read(record("b")).unwrap());
    fs::write(record("a"), b).unwrap();
    fs::write(record("b"), a).unwrap();
    let (_, loaded) = open(dir.path()).unwrap();
    assert!(loaded.records.is_empty());
    assert_eq!(files(&dir.path().join("store/broken")).len(), 2);
}

#[test]
fn what_an_earlier_version_wrote_is_sealed_once() {
    let dir = tempfile::tempdir().unwrap();
    fill_plain(dir.path());
    fs::create_dir(dir.path().join("store/broken")).unwrap();
    fs::write(dir.path().join("store/broken/old"), SECRET).unwrap();
    fs::write(dir.path().join("store/index.new"), SECRET).unwrap();
    let (store, loaded) = open(dir.path()).unwrap();
    assert_whole(&loaded);
    assert_eq!(store.writes().files, 5);
    assert_no_secret(dir.path());
    let (store, loaded) = open(dir.path()).unwrap();
    assert_whole(&loaded);
    assert_eq!(store.writes(), Writes::default());
    // From then on nobody gets a file believed by not sealing it.
    fill_plain(dir.path());
    let (_, loaded) = open(dir.path()).unwrap();
    assert!(!loaded.whole && loaded.bundles.is_empty() && loaded.records.is_empty());
}

#[test]
fn sealing_what_an_earlier_version_wrote_can_be_interrupted_anywhere() {
    for sealed in 0..=5 {
        let dir = tempfile::tempdir().unwrap();
        fill_plain(dir.path());
        let (keys, store) = (keys::directory(dir.path()).unwrap(), dir.path().join("store"));
        let keyring = Keyring::create(&keys, Box::new(KeyFileSealer::open(&keys).unwrap()), true).unwrap();
        for path in files(&store).into_iter().take(sealed) {
            let content = fs::read(&path).unwrap();
            fs::write(&path, keyring.seal(&name(&store, &path), &content).unwrap()).unwrap();
        }
        assert_whole(&open(dir.path()).unwrap().1);
        assert_no_secret(dir.path());
        assert_whole(&open(dir.path()).unwrap().1);
    }
}

#[test]
fn a_change_of_keys_can_be_interrupted_after_any_file() {
    for rewritten in 0..=5 {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path()).unwrap();
        fill(&store);
        store.renew_keys().unwrap();
        // A copy goes on to the end; of its files, so many were already written here.
        let done = copy(dir.path());
        assert_whole(&open(done.path()).unwrap().1);
        for path in files(&done.path().join("store")).into_iter().take(rewritten) {
            fs::copy(&path, dir.path().join(path.strip_prefix(done.path()).unwrap())).unwrap();
        }
        drop(store);
        let (store, loaded) = open(dir.path()).unwrap();
        assert_whole(&loaded);
        assert_eq!(store.writes().files, 5 - rewritten as u64);
        let (store, loaded) = open(dir.path()).unwrap();
        assert_whole(&loaded);
        assert_eq!(store.writes(), Writes::default());
    }
}

#[test]
fn after_a_change_of_keys_nothing_opens_what_was_stored_before() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).unwrap();
    fill(&store);
    let before = copy(dir.path());
    store.renew_keys().unwrap();
    store.reseal().unwrap();
    let writes = store.writes();
    store.reseal().unwrap();
    assert_eq!(store.writes(), writes, "nothing is left to do");
    assert_whole(&open(dir.path()).unwrap().1);
    for path in files(&before.path().join("store")) {
        fs::copy(&path, dir.path().join(path.strip_prefix(before.path()).unwrap())).unwrap();
    }
    let (_, loaded) = open(dir.path()).unwrap();
    assert!(!loaded.whole && loaded.bundles.is_empty() && loaded.records.is_empty());
}

#[test]
fn a_disk_that_takes_nothing_keeps_the_old_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).unwrap();
    fill(&store);
    store.renew_keys().unwrap();
    // A directory where the new file is written stands for a full disk.
    let in_the_way = dir.path().join("store/records/b.new");
    fs::create_dir(&in_the_way).unwrap();
    assert!(matches!(store.reseal(), Err(StoreError::Write { .. })));
    drop(store);
    assert_whole(&open(dir.path()).unwrap().1);
    fs::remove_dir(&in_the_way).unwrap();
    let (store, loaded) = open(dir.path()).unwrap();
    assert_whole(&loaded);
    assert!(store.writes().files >= 1, "the rest is rewritten");
    assert_eq!(open(dir.path()).unwrap().0.writes(), Writes::default());
}

#[test]
fn sealed_files_without_keys_are_not_taken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    fill(&open(dir.path()).unwrap().0);
    let before = files(dir.path());
    for key in ["sealing.key", "data-key.json"] {
        let (path, kept) = (dir.path().join("keys").join(key), dir.path().join(key));
        fs::rename(&path, &kept).unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, StoreError::Sealing(_)), "{error}");
        assert!(error.to_string().contains(key) && error.to_string().contains("is lost"), "{error}");
        fs::rename(&kept, &path).unwrap();
        assert_eq!(files(dir.path()), before);
    }
    assert_whole(&open(dir.path()).unwrap().1);
}
