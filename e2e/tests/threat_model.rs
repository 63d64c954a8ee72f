//! The threat model names tests; this looks whether they exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use e2e::binaries::repository;

/// Names of test functions in the last column of the document's tables.
fn named(document: &str) -> BTreeSet<String> {
    let last_columns = document.lines().filter_map(|line| line.strip_suffix('|')?.rsplit_once('|'));
    last_columns
        .flat_map(|(_, column)| column.split('`').skip(1).step_by(2))
        .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        .map(str::to_owned)
        .collect()
}

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.') || name == "target";
        if path.is_dir() && !hidden {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let repository = repository().unwrap();
    let document = fs::read_to_string(repository.join("docs/src/threat-model.md")).unwrap();
    let named = named(&document);
    assert!(named.len() > 40, "only {} names were found", named.len());
    let mut text = String::new();
    sources(&repository, &mut text);
    let missing: Vec<_> = named.iter().filter(|name| !text.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}
