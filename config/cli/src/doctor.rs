//! `doctor`: looks at everything that settings need on this machine, a line for each thing. Changes nothing.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use harmony_config::{
    Environment, Key,
    chain::Answer,
    database::{BackupState, Database, Item},
    keyring::{Keyring, Purpose},
    last_known_good::Older,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    describe::{About, Described},
    error::Error,
    home::Home,
    output::{self, Colour, Format},
};

const PREFIX: &str = "HARMONY_CONFIG_";
/// A backup that is older than the last change by more than this is worth a word.
const BACKUP_SECONDS: i64 = 24 * 3600;

/// Looks at folder, keys, database, last-known-good file, backup and environment; a line for each.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 4 if a line says fail. It changes nothing.

Examples:
  harmony-config doctor
  harmony-config doctor --backup /mnt/backup/settings -o json")]
pub struct Doctor {
    /// The backup's folder [default: `backup` beside the database].
    #[arg(long, value_name = "DIR")]
    backup: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
struct Check {
    status: Status,
    what: &'static str,
    found: String,
    /// What to do; empty where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    next: String,
}

impl Check {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { status: Status::Ok, what, found: found.into(), next: String::new() }
    }

    fn warn(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { status: Status::Warn, what, found: found.into(), next: next.into() }
    }

    fn fail(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { status: Status::Fail, what, found: found.into(), next: next.into() }
    }

    /// An error, whose text already says what to do if it has no next step of its own.
    fn error(what: &'static str, error: &Error) -> Self {
        Self::fail(what, error.to_string(), error.next().unwrap_or_default())
    }
}

impl Doctor {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let backup = self.backup.map_or_else(|| home.backup_path(), Ok)?;
        if untouched(&home.folder()?, &backup) {
            let mut checks = vec![nothing_yet(&home.folder()?)];
            checks.extend(environment(home, &[], false).await);
            return show(home, &checks);
        }
        let mut checks = modes(home)?;
        let keyring = keys(home, &mut checks);
        let mut items = Vec::new();
        if let Some(keyring) = &keyring {
            items = database(home, &mut checks).await;
            checks.extend(last_known_good(home, keyring));
            checks.extend(updates(home, keyring));
        }
        checks.push(of_backup(&backup, items.iter().map(|item| item.updated_at).max()));
        checks.extend(environment(home, &items, keyring.is_some()).await);
        show(home, &checks)?;
        match checks.iter().filter(|check| check.status == Status::Fail).count() {
            0 => Ok(()),
            count => Err(Error::Refused {
                what: format!("{count} of {} checks failed", checks.len()),
                next: "do what the lines say, and look again".to_owned(),
            }),
        }
    }
}

fn show(home: &Home, checks: &[Check]) -> Result<(), Error> {
    if home.output == Format::Json {
        return output::json(&checks);
    }
    let line = |check: &Check| {
        let status = match check.status {
            Status::Ok => Colour::Green.paint("ok  "),
            Status::Warn => Colour::Yellow.paint("warn"),
            Status::Fail => Colour::Red.paint("fail"),
        };
        let next = if check.next.is_empty() { String::new() } else { format!(". Next: {}", check.next) };
        format!("{status} {}: {}{}\n", check.what, output::plain(&check.found), output::plain(&next))
    };
    output::print(&checks.iter().map(line).collect::<String>())
}

fn mode(path: &Path) -> Option<u32> {
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

/// Whether nothing was ever kept here, as far as can be seen: neither settings nor what belongs to them.
fn untouched(folder: &Path, backup: &Path) -> bool {
    let kept = ["keys", "config.db", "config.lkg.json", "updates.json", "schemas"];
    !backup.exists() && kept.iter().all(|name| !folder.join(name).exists())
}

/// A first use, or a folder that was lost: only the person knows.
fn nothing_yet(folder: &Path) -> Check {
    Check::warn(
        "folder",
        format!("no settings are kept in {} yet", folder.display()),
        "`harmony-config set`, or the first service that keeps some, begins; if there should be some, name their folder \
         with --folder, or put it back from where it was saved",
    )
}

/// Who may read what. Others must not write into the folder, or they could exchange the database; nor read the rest.
fn modes(home: &Home) -> Result<Vec<Check>, Error> {
    let folder = home.folder()?;
    let Some(found) = mode(&folder) else {
        let next = "`harmony-config set` makes it, or name another with --folder";
        return Ok(vec![Check::fail("folder", format!("{} is not there", folder.display()), next)]);
    };
    let mut checks = match found & 0o077 {
        0 => vec![Check::ok("folder", format!("{}, mode {found:04o}", folder.display()))],
        _ => {
            let next = format!("chmod 0700 {}", folder.display());
            let text = format!("{} has mode {found:04o}: others may look into it", folder.display());
            match found & 0o022 {
                0 => vec![Check::warn("folder", text, next)],
                _ => vec![Check::fail("folder", text, next)],
            }
        }
    };
    for name in ["config.db", "config.db-wal", "config.lkg.json", "updates.json"] {
        let path = folder.join(name);
        if let Some(found) = mode(&path).filter(|found| found & 0o077 != 0) {
            let text = format!("{} has mode {found:04o}: others may read it", path.display());
            checks.push(Check::warn("file", text, format!("chmod 0600 {}", path.display())));
        }
    }
    Ok(checks)
}

fn keys(home: &Home, checks: &mut Vec<Check>) -> Option<Keyring> {
    let keyring = match home.keyring() {
        Ok(keyring) => keyring,
        Err(error) => {
            checks.push(Check::error("keys", &error));
            return None;
        }
    };
    let mut text = Vec::new();
    let mut older = Vec::new();
    for purpose in Purpose::ALL {
        match keyring.versions(purpose) {
            Ok(versions) => {
                let all: Vec<_> = versions.iter().map(ToString::to_string).collect();
                text.push(format!("{purpose} {}", all.join(" ")));
                if versions.len() > 1 {
                    older.push(purpose.as_str());
                }
            }
            Err(error) => {
                checks.push(Check::error("keys", &error.into()));
                return None;
            }
        }
    }
    checks.push(match older.is_empty() {
        true => Check::ok("keys", text.join(", ")),
        false => Check::warn(
            "keys",
            format!("{}: older keys are still there", text.join(", ")),
            format!(
                "once no backup needs them: `harmony-config rotate {} --no-new-key --drop-old`",
                older[0]
            ),
        ),
    });
    Some(keyring)
}

async fn database(home: &Home, checks: &mut Vec<Check>) -> Vec<Item> {
    let database = match home.unopened() {
        Ok(database) => database,
        Err(error) => {
            checks.push(Check::error("database", &error));
            return Vec::new();
        }
    };
    match database.verify().await {
        Ok(found) if found.is_sound() => checks.push(Check::ok(
            "database",
            format!(
                "{} items, {} lines of the audit log, all as they were written; {} KiB on the disk",
                found.items,
                found.lines,
                size(database.path()) / 1024
            ),
        )),
        Ok(found) => checks.extend(found.findings.iter().map(|finding| {
            Check::fail(
                "database",
                finding.to_string(),
                "see `harmony-config verify` and `harmony-config restore --help`",
            )
        })),
        Err(error) => checks.push(Check::error("database", &error.into())),
    }
    database.list(None).await.unwrap_or_default()
}

/// Bytes of the file and of what SQLite keeps beside it; the log in it only grows.
fn size(path: &Path) -> u64 {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(PathBuf::from(name)).map_or(0, |file| file.len())
    };
    ["", "-wal"].map(beside).iter().sum()
}

fn last_known_good(home: &Home, keyring: &Keyring) -> Vec<Check> {
    const WHAT: &str = "last known good";
    let found = home
        .last_known_good(keyring)
        .and_then(|file| file.map(|file| Ok((file.generation()?, file.older()?))).transpose());
    match found {
        Ok(Some((generation, older))) => {
            let genuine = Check::ok(WHAT, format!("genuine, generation {generation}"));
            std::iter::once(genuine).chain(older.iter().filter_map(went_back)).collect()
        }
        Ok(None) => vec![Check::ok(WHAT, "nothing was remembered yet")],
        Err(error) => vec![Check::fail(
            WHAT,
            error.to_string(),
            "nothing of it is used; services set it aside at their next start and fill a new one",
        )],
    }
}

/// What the services saw of their stores.
fn went_back(older: &Older) -> Option<Check> {
    // How far the database goes is looked at by itself.
    (older.source != "sqlite").then(|| {
        let Older { owner, source, key, seen, now, at } = older;
        Check::warn(
            "store",
            format!("{source} went back: {key} of {owner} is at revision {now} since {}, and {seen} was seen", crate::read::seconds(*at)),
            "if it was restored from an older state on purpose, look whether the values are right and write anew what is \
             not; else check the store's address",
        )
    })
}

fn updates(home: &Home, keyring: &Keyring) -> Option<Check> {
    match home.updates(keyring) {
        Ok(None) => None,
        Ok(Some(_)) => Some(Check::ok("updates", "the last accepted update is genuine")),
        Err(error) => Some(Check::error("updates", &error)),
    }
}

fn of_backup(folder: &Path, changed: Option<Timestamp>) -> Check {
    let next = format!("`harmony-config backup {}`", folder.display());
    match (BackupState::of(folder), changed) {
        (Ok((state, Some(at))), changed) => {
            let behind = changed.map_or(0, |changed| changed.as_second() - at.as_second());
            let text =
                format!("{}, up to line {} of {}", folder.display(), state.line, crate::read::seconds(at));
            match behind {
                ..=0 => Check::ok("backup", text),
                1..=BACKUP_SECONDS => {
                    Check::ok("backup", format!("{text}; {behind} s behind the last change"))
                }
                _ => {
                    Check::warn("backup", format!("{text}; {} h behind the last change", behind / 3600), next)
                }
            }
        }
        (Ok((state, None)), _) => {
            Check::ok("backup", format!("{}, up to line {}", folder.display(), state.line))
        }
        (Err(harmony_config::database::BackupError::Empty { .. }), _) => {
            Check::warn("backup", format!("there is none in {}", folder.display()), next)
        }
        (Err(error), _) => Check::fail("backup", error.to_string(), next),
    }
}

/// Variables that are meant for settings, and that no settings take. Values are never shown.
async fn environment(home: &Home, items: &[Item], usable: bool) -> Vec<Check> {
    const WHAT: &str = "environment";
    let mut checks = Vec::new();
    let mut named = 0;
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        named += 1;
        let key = rest.split("__").next().unwrap_or_default();
        if value.to_str().is_none() {
            checks.push(Check::fail(WHAT, format!("the value of {name} is not UTF-8"), "set it again"));
        } else if !items.iter().any(|item| item.key.as_str() == key) {
            let near = items.iter().find(|item| item.key.as_str().eq_ignore_ascii_case(key));
            let next = match near {
                Some(item) => format!("did you mean {PREFIX}{}? Names are compared as they stand", item.key),
                None => {
                    "correct the name, or leave it if a service takes these settings without the database"
                        .to_owned()
                }
            };
            checks.push(Check::warn(
                WHAT,
                format!("{name} names {key:?}, which the database does not have"),
                next,
            ));
        }
    }
    if usable {
        for item in items {
            if let Err(check) = fields(home, item).await {
                checks.extend(check);
            }
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(WHAT, format!("{named} variables name settings")));
    }
    checks
}

/// Fields that the environment gives to an item, and that its schema does not have or take.
async fn fields(home: &Home, item: &Item) -> Result<(), Vec<Check>> {
    const WHAT: &str = "environment";
    let said = |error: Error| vec![Check::error(WHAT, &error)];
    let database: Database =
        Home { service: Some(item.service.clone()), ..home.clone() }.database().await.map_err(said)?;
    let about = About { schema: None, secret: Vec::new() };
    let key: &Key = &item.key;
    let described = Described::of(&database, key, Some(item), &about, &[]).await.map_err(said)?;
    if !described.has_schema {
        return Ok(());
    }
    let chain = harmony_config::ConfigManager::builder().source(Environment::new()).build();
    chain.register_model(described.model).map_err(|error| said(error.into()))?;
    match chain.explain_key(key.as_str()).await {
        Err(error) => Err(said(error.into())),
        Ok(explanation) => {
            let asked = explanation.sources.iter().any(|(_, answer)| matches!(answer, Answer::Gave { .. }));
            let checks: Vec<_> = explanation
                .unknown
                .iter()
                .filter(|_| asked)
                .map(|field| {
                    Check::warn(
                        WHAT,
                        format!("{key} has no field {}, which {} gives", field.place, field.at),
                        &*field.meant,
                    )
                })
                .collect();
            if checks.is_empty() { Ok(()) } else { Err(checks) }
        }
    }
}
