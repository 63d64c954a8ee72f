//! Files: `<folder>/<Key>.toml`, `.yaml`, `.yml` or `.json`, or one named file for one model.
//!
//! It is read anew each time and never written: a file belongs to whoever edits it. What cannot be read is said with
//! line and column, never with the line itself, which may have a secret in it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Document, Layer, Source, SourceError};
use crate::{
    key::{FieldPath, Key},
    model::Model,
};

/// Largest file: settings are no place for data, and all of it is kept in memory.
const LIMIT: u64 = 1 << 20;
/// Largest file that is read without another thread.
const CACHED: usize = 64 * 1024;
/// How often files are looked at for changes. Polled: mounted ConfigMaps change by a symbolic link two levels up, and
/// network file systems tell nobody.
const LOOK: Duration = Duration::from_secs(1);
const ENDINGS: [&str; 4] = ["toml", "yaml", "yml", "json"];

/// Files of settings.
#[derive(Debug, Clone)]
pub struct File {
    at: At,
    strict: bool,
}

#[derive(Debug, Clone)]
enum At {
    Folder(PathBuf),
    Named { path: PathBuf, key: Option<Key>, must_exist: bool },
}

impl File {
    /// One file for each model: `<folder>/<Key>.toml`, `.yaml`, `.yml` or `.json`. It need not be there.
    #[must_use]
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self { at: At::Folder(folder.into()), strict: false }
    }

    /// This file, for the one model that a program has. It has to be there: somebody named it.
    #[must_use]
    pub fn named(path: impl Into<PathBuf>) -> Self {
        Self { at: At::Named { path: path.into(), key: None, must_exist: true }, strict: false }
    }

    /// This file, for the one model that a program has, at the path where the program always looks. It need not be
    /// there.
    #[must_use]
    pub fn usual_at(path: impl Into<PathBuf>) -> Self {
        Self { at: At::Named { path: path.into(), key: None, must_exist: false }, strict: false }
    }

    /// This file, for the model with that key only.
    #[must_use]
    pub fn named_for(path: impl Into<PathBuf>, key: Key) -> Self {
        Self { at: At::Named { path: path.into(), key: Some(key), must_exist: true }, strict: false }
    }

    /// Refuses fields that the model does not have, which are only reported otherwise.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Where a model's values may stand.
    fn candidates(&self, model: &Model) -> Vec<PathBuf> {
        match &self.at {
            At::Folder(folder) => {
                ENDINGS.iter().map(|ending| folder.join(format!("{}.{ending}", model.key))).collect()
            }
            At::Named { key: Some(key), .. } if *key != model.key => Vec::new(),
            At::Named { path, .. } => vec![path.clone()],
        }
    }

    /// The path that a person would edit.
    fn usual(&self, model: &Model) -> String {
        match &self.at {
            At::Folder(folder) => folder.join(format!("{}.toml", model.key)).display().to_string(),
            At::Named { path, .. } => path.display().to_string(),
        }
    }
}

#[async_trait]
impl Source for File {
    fn name(&self) -> &str {
        "file"
    }

    fn how_to_set(&self, model: &Model) -> String {
        match &self.at {
            At::Folder(_) => format!("the file {} (or .yaml, .yml, .json)", self.usual(model)),
            At::Named { .. } => format!("the file {}", self.usual(model)),
        }
    }

    fn how_to_set_field(&self, model: &Model, place: &FieldPath) -> String {
        format!("{place} in {}", self.how_to_set(model))
    }

    fn refuses_unknown_fields(&self) -> bool {
        self.strict
    }

    async fn read(&self, model: &Model) -> Result<Option<Layer>, SourceError> {
        let candidates = self.candidates(model);
        let must_exist = matches!(self.at, At::Named { must_exist: true, .. }) && !candidates.is_empty();
        // Nearly always all of it is in memory, and to send it to another thread would take longer than to read it.
        if let Some(layer) = read_cached(&candidates, must_exist) {
            return layer;
        }
        // A file system may be slow, or gone.
        let read = tokio::task::spawn_blocking(move || read_one(&candidates, must_exist));
        read.await.map_err(|error| SourceError::Unavailable {
            name: "file".to_owned(),
            why: format!("reading was broken off ({error})"),
            hint: "The program is ending".to_owned(),
        })?
    }

    fn changes(&self, model: &Model) -> Option<BoxStream<'static, ()>> {
        let candidates = self.candidates(model);
        let state = (candidates, None::<Vec<Option<Stamp>>>);
        let ticks = stream::unfold(state, |(candidates, mut seen)| async move {
            loop {
                if seen.is_some() {
                    tokio::time::sleep(LOOK).await;
                }
                let paths = candidates.clone();
                let now = tokio::task::spawn_blocking(move || {
                    paths.iter().map(|path| stamp(path)).collect::<Vec<_>>()
                });
                let now = now.await.ok()?;
                // The first time, too: what was read before may be older than this look.
                let changed = seen.as_ref() != Some(&now);
                seen = Some(now);
                if changed {
                    return Some(((), (candidates, seen)));
                }
            }
        });
        Some(ticks.boxed())
    }
}

/// What changes when a file does.
type Stamp = (Option<SystemTime>, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
}

fn read_one(candidates: &[PathBuf], must_exist: bool) -> Result<Option<Layer>, SourceError> {
    let contents: Result<Vec<_>, _> = candidates.iter().map(|path| bytes(path)).collect();
    choose(candidates, contents?, must_exist)
}

/// The same without waiting for a disk or a network; `None` where that cannot be.
fn read_cached(candidates: &[PathBuf], must_exist: bool) -> Option<Result<Option<Layer>, SourceError>> {
    let contents: Option<Vec<_>> = candidates.iter().map(|path| cached(path)).collect();
    Some(choose(candidates, contents?, must_exist))
}

/// What a small file has, if the kernel has both path and content in memory. `Some(None)`: there is no such file.
fn cached(path: &Path) -> Option<Option<Vec<u8>>> {
    use rustix::{
        fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
        io::{Errno, ReadWriteFlags, preadv2},
    };
    // `NONBLOCK`: should it be a pipe. Links in /proc lead anywhere.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::CACHED | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(CWD, path, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Some(None),
        // Not in memory, or something that the usual way explains.
        Err(_) => return None,
    };
    let (mut content, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let at = content.len() as u64;
        let length =
            preadv2(&file, &mut [io::IoSliceMut::new(&mut buffer)], at, ReadWriteFlags::NOWAIT).ok()?;
        match length {
            0 => return Some(Some(content)),
            _ if content.len() + length > CACHED => return None,
            _ => content.extend_from_slice(&buffer[..length]),
        }
    }
}

fn choose(
    candidates: &[PathBuf],
    contents: Vec<Option<Vec<u8>>>,
    must_exist: bool,
) -> Result<Option<Layer>, SourceError> {
    let mut found: Option<(&PathBuf, Vec<u8>)> = None;
    for (path, bytes) in candidates.iter().zip(contents) {
        let Some(bytes) = bytes else { continue };
        if let Some((other, _)) = &found {
            return Err(malformed(
                path,
                format!("{} is there, too, and nothing says which one is meant", other.display()),
                "Keep one of them",
            ));
        }
        found = Some((path, bytes));
    }
    match (found, candidates.first()) {
        (Some((path, bytes)), _) => {
            let text = String::from_utf8(bytes).map_err(|error| {
                malformed(
                    path,
                    format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()),
                    "Save it as UTF-8",
                )
            })?;
            let values = parse(path, &text)?;
            let place = format!("file {}", path.display());
            Ok(Some(Layer { values, place, fields: BTreeMap::new(), version: None, revision: None }))
        }
        (None, Some(path)) if must_exist => {
            Err(malformed(path, "there is no such file".to_owned(), "Correct the path, or make the file"))
        }
        (None, _) => Ok(None),
    }
}

fn bytes(path: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => SourceError::Denied {
            name: "file".to_owned(),
            place: path.display().to_string(),
            why: error.to_string(),
            hint: "Let the user of this program read the file and enter its folder".to_owned(),
        },
        io::ErrorKind::IsADirectory => malformed(path, "it is a folder".to_owned(), "Name the file"),
        _ => SourceError::Unavailable {
            name: "file".to_owned(),
            why: format!("{}: {error}", path.display()),
            hint: "Look at the file system".to_owned(),
        },
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(&error)),
    };
    if metadata.len() > LIMIT {
        let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        return Err(SourceError::TooLarge {
            place: format!("file {}", path.display()),
            size,
            limit: LIMIT as usize,
        });
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

fn malformed(path: &Path, why: String, hint: &str) -> SourceError {
    SourceError::Malformed { place: format!("file {}", path.display()), why, hint: hint.to_owned() }
}

/// Reads a text by the ending of its file's name.
///
/// In JSON, members whose names begin with `//` are remarks and left out: JSON has no others.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Document, SourceError> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    let values = match ending.as_str() {
        "toml" => {
            let failed = |at: Option<usize>| {
                let at = at.map_or_else(String::new, |at| position(text, at));
                let hint = "Correct it; the format is described on toml.io";
                malformed(path, format!("it is no TOML{at}"), hint)
            };
            let table = DeTable::parse(text).map_err(|error| failed(error.span().map(|span| span.start)))?;
            Value::Object(table_of_toml(table.into_inner()).map_err(|at| failed(Some(at)))?)
        }
        #[cfg(feature = "yaml")]
        "yaml" | "yml" => serde_saphyr::from_str::<Value>(text).map_err(|error| {
            let at = error
                .location()
                .map_or_else(String::new, |at| format!(" (line {}, column {})", at.line(), at.column()));
            malformed(path, format!("it is no YAML{at}"), "Correct it: look at indentation and quotes")
        })?,
        #[cfg(not(feature = "yaml"))]
        "yaml" | "yml" => {
            return Err(malformed(path, "this program reads no YAML".to_owned(), "Write it as TOML or JSON"));
        }
        "json" => {
            let value = serde_json::from_str(text)
                .map_err(|error| malformed(path, format!("it is no JSON: {error}"), "Correct it"))?;
            without_remarks(value)
        }
        _ => {
            return Err(malformed(
                path,
                "its name does not say what it is".to_owned(),
                "End its name in .toml, .yaml, .yml or .json",
            ));
        }
    };
    match values {
        Value::Object(values) => Ok(values),
        // An empty YAML file, or one with remarks only.
        Value::Null => Ok(Document::new()),
        other => Err(malformed(
            path,
            format!("it is {}", crate::schema::json_type(&other)),
            "It has to be a table of fields",
        )),
    }
}

fn position(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(" (line {line}, column {column})")
}

/// Straight from what was parsed. An error is the place in the text of a number that is too large.
fn from_toml(value: Spanned<DeValue<'_>>) -> Result<Value, usize> {
    let at = value.span().start;
    Ok(match value.into_inner() {
        DeValue::String(text) => text.into_owned().into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| at)?.into()
        }
        DeValue::Float(number) => {
            let text = number.as_str();
            let number: f64 = text.parse().map_err(|_| at)?;
            // JSON has no infinity: written as such, it is nothing.
            if number.is_infinite() && !text.contains("inf") {
                return Err(at);
            }
            number.into()
        }
        DeValue::Boolean(flag) => flag.into(),
        // JSON has no dates: as they are written.
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Array(items) => Value::Array(items.into_iter().map(from_toml).collect::<Result<_, _>>()?),
        DeValue::Table(members) => Value::Object(table_of_toml(members)?),
    })
}

fn table_of_toml(members: DeTable<'_>) -> Result<Document, usize> {
    let members = members.into_iter();
    members.map(|(name, member)| Ok((name.into_inner().into_owned(), from_toml(member)?))).collect()
}

fn without_remarks(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(name, _)| !name.starts_with("//"))
                .map(|(name, member)| (name, without_remarks(member)))
                .collect(),
        ),
        Value::Array(items) => items.into_iter().map(without_remarks).collect::<Vec<_>>().into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn toml(text: &str) -> Result<Value, SourceError> {
        parse(Path::new("x.toml"), text).map(Value::Object)
    }

    #[test]
    fn every_kind_of_toml_is_read() {
        let text = r#"
            text = "a\n\"b\""
            'quoted key' = '''raw \n'''
            numbers = [1_000, -7, 0xff, 0o17, 0b101, 9223372036854775807]
            fractions = [1.5, -2e3, 6_0.0, inf, nan]
            flag = true
            moment = 2026-11-21T07:32:00Z
            inline = { a = 1, b.c = "d" }
            [table.deep]
            x = 1
            [[list]]
            x = 1
            [[list]]
            x = [[], [2]]
        "#;
        let expected = json!({
            "text": "a\n\"b\"", "quoted key": "raw \\n",
            "numbers": [1000, -7, 255, 15, 5, i64::MAX], "fractions": [1.5, -2000.0, 60.0, null, null],
            "flag": true, "moment": "2026-11-21T07:32:00Z", "inline": { "a": 1, "b": { "c": "d" } },
            "table": { "deep": { "x": 1 } }, "list": [{ "x": 1 }, { "x": [[], [2]] }],
        });
        assert_eq!(toml(text).unwrap(), expected);
    }

    #[test]
    fn numbers_that_are_too_large_are_refused_with_their_line() {
        for number in ["9223372036854775808", "0xffffffffffffffffff", "1e999"] {
            let error = toml(&format!("a = 1\nb = [2, {number}]")).unwrap_err().to_string();
            assert!(error.contains("no TOML (line 2, column 9)") && !error.contains(number), "{error}");
        }
    }
}
