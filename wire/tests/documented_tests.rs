//! What the book says is shown by a test is shown by one that exists.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const PAGES: &[&str] = &["docs/src/threat-model.md", "docs/src/requirements.md"];
const FOLDERS: &[&str] =
    &["wire", "config", "login", "daemon", "kube", "vk-nats", "device-kubelet", "callout", "deploy", "e2e"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository around the crate").to_owned()
}

/// Names of all functions and modules in Rust sources.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| repository().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
                let text = fs::read_to_string(&path).unwrap();
                for keyword in ["fn ", "mod "] {
                    names.extend(text.split(keyword).skip(1).map(|after| {
                        after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
                    }));
                }
            }
        }
    }
    names
}

/// What stands between backticks in the last column of a table, and reads like the name of a test: words
/// joined by underscores, perhaps behind modules.
fn claimed(page: &str) -> Vec<String> {
    let rows = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches([' ', '|']).rsplit('|').next());
    rows.flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(|code| code.rsplit("::").next().unwrap_or(code))
        .filter(|code| code.matches('_').count() >= 2)
        .filter(|code| code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_test_that_the_book_names_exists() {
    let names = names();
    for page in PAGES {
        let text = fs::read_to_string(repository().join(page)).unwrap();
        let claimed = claimed(&text);
        assert!(claimed.len() > 20, "{page} names only {} tests: is its shape another one?", claimed.len());
        let missing: Vec<_> = claimed.iter().filter(|name| !names.contains(*name)).collect();
        assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:#?}");
    }
}

#[test]
fn the_last_column_counts() {
    let page = "text `not_a_test`\n| a `b_c_d` | `one_two_three`, `x::four_five_six` (`Word`) |\n";
    assert_eq!(claimed(page), ["one_two_three", "four_five_six"]);
}
