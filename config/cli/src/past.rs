//! Commands about what was: history, rollback, verify, backup, restore.

use std::path::PathBuf;

use harmony_config::{
    Actor, Key,
    database::{BackupFolder, Filter, Options, Until, restore},
};
use jiff::Timestamp;
use serde_json::json;

use crate::{
    error::Error,
    home::Home,
    output::{self, Colour, Format},
    read::seconds,
};

/// Shows the audit log, newest first: who changed what, when and from where.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config history BrocadeSwitchAuth
  harmony-config history --all --limit 20          (also reveals, refusals, restores)
  harmony-config history -o json | jq '.[].actor.who'")]
pub struct History {
    /// Of this item only.
    key: Option<Key>,
    /// Also lines that changed nothing: what was revealed, refused, restored.
    #[arg(long)]
    all: bool,
    /// Most lines.
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    limit: usize,
    /// Older than this line.
    #[arg(long, value_name = "LINE")]
    before: Option<u64>,
}

impl History {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let filter = Filter {
            service: home.service.clone(),
            key: self.key,
            changes_only: !self.all,
            before: self.before,
            limit: self.limit,
        };
        let entries = home.unopened()?.history(&filter).await?;
        if home.output == Format::Json {
            return output::json(&entries);
        }
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| {
                let line = &entry.line;
                let (service, key) = line
                    .item
                    .clone()
                    .map_or_else(Default::default, |(service, key)| (service, key.to_string()));
                // The MACs are long; their beginnings tell which values were the same.
                let short = |mac: &Option<harmony_config::keyring::Mac>| {
                    mac.map_or_else(|| "-".to_owned(), |mac| mac.to_string().chars().take(11).collect())
                };
                vec![
                    line.line.to_string(),
                    seconds(line.at),
                    line.actor.who.clone(),
                    line.actor.from.clone(),
                    line.act.as_str().to_owned(),
                    service,
                    key,
                    line.revision.map_or_else(String::new, |revision| revision.to_string()),
                    short(&line.before),
                    short(&line.after),
                    line.detail.clone().unwrap_or_default(),
                ]
            })
            .collect();
        let header =
            ["LINE", "AT", "WHO", "FROM", "ACT", "SERVICE", "KEY", "REVISION", "BEFORE", "AFTER", "DETAIL"];
        output::print(&output::table(&header, &rows))
    }
}

/// Brings an item, or without a key all items of a service, back to how they were at a revision.
#[derive(Debug, clap::Args)]
#[command(after_help = "It is a new revision; nothing of the history goes.

Examples:
  harmony-config rollback BrocadeSwitchAuth --to 12
  harmony-config rollback --service switchd --to 12")]
pub struct Rollback {
    /// Key of the item; without it all items of the service.
    key: Option<Key>,
    /// The revision, as `history` shows it.
    #[arg(long, value_name = "REVISION")]
    to: u64,
    /// Only if the newest revision of what is rolled back is this one.
    #[arg(long, value_name = "REVISION")]
    expected: Option<u64>,
}

impl Rollback {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let database = home.database().await?;
        let actor = Actor::of_this_process();
        let revision = database.rollback(self.key.as_ref(), self.to, self.expected, &actor).await?;
        match home.output {
            Format::Json => output::json(&json!({ "revision": revision })),
            Format::Table => {
                let what = self.key.map_or_else(|| database.service().to_owned(), |key| key.to_string());
                output::print(&format!(
                    "{what} is as it was at revision {}; that is revision {revision}\n",
                    self.to
                ))
            }
        }
    }
}

/// Compares the database, the chain of its audit log, its end and every value with what was written.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 4 if something does not hold.

Examples:
  harmony-config verify
  harmony-config verify -o json")]
pub struct Verify {}

impl Verify {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let found = home.unopened()?.verify().await?;
        match home.output {
            Format::Json => output::json(&json!({
                "sound": found.is_sound(),
                "lines": found.lines,
                "items": found.items,
                "versions": found.versions,
                "unchecked": found.unchecked,
                "findings": found.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            }))?,
            Format::Table => {
                let mut text: String = found
                    .findings
                    .iter()
                    .map(|finding| format!("{} {finding}\n", Colour::Red.paint("fail")))
                    .collect();
                if found.is_sound() {
                    text.push_str(&format!(
                        "{} everything is as it was written\n",
                        Colour::Green.paint("ok")
                    ));
                }
                text.push_str(&format!(
                    "{} lines of the audit log, {} items, {} versions of values; {} not checked, since their keys were \
                     dropped\n",
                    found.lines, found.items, found.versions, found.unchecked
                ));
                output::print(&text)?;
            }
        }
        match found.is_sound() {
            true => Ok(()),
            false => Err(Error::Refused {
                what: "the database is not what was written".to_owned(),
                next: "restore a backup (`harmony-config restore --to`); if you put an older copy or one of another \
                       machine here on purpose, `harmony-config restore --accept`"
                    .to_owned(),
            }),
        }
    }
}

/// Brings the backup in a folder up to date. Secrets in it stay sealed; keys are not in it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Keep a copy of the keys' folder apart from it: without the keys no backup opens.

Examples:
  harmony-config backup
  harmony-config backup /mnt/backup/settings")]
pub struct Backup {
    /// The folder [default: `backup` beside the database].
    to: Option<PathBuf>,
    /// Most copies of the database, each with the changes that followed.
    #[arg(long, default_value_t = 8, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    copies: u16,
}

impl Backup {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let path = self.to.map_or_else(|| home.backup_path(), Ok)?;
        let folder = BackupFolder { copies: self.copies.into(), ..BackupFolder::at(&path) };
        let state = home.unopened()?.backup(&folder).await?;
        match home.output {
            Format::Json => output::json(&json!({ "folder": path, "line": state.line })),
            Format::Table => {
                output::print(&format!("{} has everything up to line {}\n", path.display(), state.line))
            }
        }
    }
}

/// Makes a database from a backup, as it was at a time; or accepts one that was put here on purpose.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It replaces nothing: stop the services, move the damaged database aside, restore, start them.

Examples:
  harmony-config restore
  harmony-config restore --to 2026-03-01T12:00:00Z --into /tmp/look.db
  harmony-config restore --to line:120 --from /mnt/backup/settings
  harmony-config restore --accept       (this older copy, or copy of another machine, is the right one)"
)]
pub struct Restore {
    /// The backup [default: `backup` beside the database].
    #[arg(long, value_name = "DIR", conflicts_with = "accept")]
    from: Option<PathBuf>,
    /// As it was then: a time, or line:NUMBER of the audit log [default: the newest that there is].
    #[arg(long, value_name = "TIME", value_parser = until, conflicts_with = "accept")]
    to: Option<Until>,
    /// The new database [default: config.db in the folder].
    #[arg(long, value_name = "FILE", conflicts_with = "accept")]
    into: Option<PathBuf>,
    /// Takes the database as it is, although it is older than what this machine has seen, or comes from another one.
    #[arg(long)]
    accept: bool,
}

fn until(text: &str) -> Result<Until, String> {
    let wrong = "neither a time such as 2026-03-01T12:00:00Z nor line:NUMBER";
    match text.strip_prefix("line:") {
        Some(line) => line.parse().map(Until::Line).map_err(|_| wrong.to_owned()),
        None => text.parse::<Timestamp>().map(Until::Time).map_err(|_| wrong.to_owned()),
    }
}

impl Restore {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let actor = Actor::of_this_process();
        if self.accept {
            let line = home.unopened()?.accept(&actor).await?;
            return match home.output {
                Format::Json => output::json(&json!({ "accepted": line })),
                Format::Table => output::print(&format!("accepted; line {line} of the audit log says so\n")),
            };
        }
        let from = self.from.map_or_else(|| home.backup_path(), Ok)?;
        if !from.is_dir() {
            return Err(Error::NotFound {
                what: format!("there is no backup {}", from.display()),
                next: "name its folder with --from".to_owned(),
            });
        }
        let into = self.into.map_or_else(|| home.database_path(), Ok)?;
        let until = self.to.unwrap_or(Until::Newest);
        let done = restore(&from, until, &into, &home.keyring()?, &Options::default(), &actor)?;
        match home.output {
            Format::Json => output::json(&json!({
                "into": into,
                "line": done.line,
                "at": done.at,
                "items": done.verification.items,
                "unchecked": done.verification.unchecked,
            })),
            Format::Table => output::print(&format!(
                "{} has everything up to line {}{}, and was verified\n",
                into.display(),
                done.line,
                done.at.map_or_else(String::new, |at| format!(" of {}", seconds(at)))
            )),
        }
    }
}
