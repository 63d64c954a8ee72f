//! Where the programs are that a fleet is made of, and the folders it may use.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::answer;

/// The agent's program: the only one of ours that is built with a profile of its own.
const AGENT: &str = "device-kubelet";

/// The real servers, as `e2e/tools/build.sh` built them.
#[derive(Debug, Clone)]
pub struct Tools {
    entries: Vec<(String, PathBuf)>,
}

impl Tools {
    /// Asks `e2e/tools/build.sh` for the paths; builds nothing.
    ///
    /// # Errors
    /// When the script cannot run.
    pub async fn locate() -> Result<Self> {
        let script = repository()?.join("e2e/tools/build.sh");
        let listing =
            answer::run(&script, ["where", "kubernetes", "nats", "oidc", "secret-store", "kwok"]).await?;
        let entries = listing
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
            .collect();
        Ok(Self { entries })
    }

    /// The path of one server.
    ///
    /// # Errors
    /// When it is not built, with the command that builds it.
    pub fn path(&self, tool: &str) -> Result<PathBuf> {
        let path = self
            .entries
            .iter()
            .find_map(|(name, path)| (name == tool).then_some(path))
            .with_context(|| format!("e2e/tools/build.sh knows no tool `{tool}`"))?;
        if !path.is_file() {
            bail!("{tool} is not built ({} is missing); run `make tools`", path.display());
        }
        Ok(path.clone())
    }
}

/// The path of one of our own programs.
///
/// `$HARMONY_BIN_DIR`, else the folder that this program was built into. Beside a release that is for the agent the
/// folder of the profile that devices run.
///
/// # Errors
/// When the program is not there, with the command that builds it.
pub fn own(program: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("HARMONY_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => match profile_folder()? {
            folder if program == AGENT && folder.ends_with("release") => folder.with_file_name("device"),
            folder => folder,
        },
    };
    let path = folder.join(program);
    if !path.is_file() {
        bail!(
            "{program} is not in {}; run `make build` or, for a release, `make demo` first",
            folder.display()
        );
    }
    Ok(path)
}

/// The folder of the checkout.
///
/// # Errors
/// When neither this crate's source folder nor `$HARMONY_REPOSITORY` is there.
pub fn repository() -> Result<PathBuf> {
    let folder = match std::env::var_os("HARMONY_REPOSITORY") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
    };
    folder.canonicalize().with_context(|| format!("the checkout is not at {} any more", folder.display()))
}

/// The folder for state of fleets: `$XDG_STATE_HOME/harmony-fleet`.
///
/// # Errors
/// When neither `XDG_STATE_HOME` nor `HOME` is set.
pub fn state() -> Result<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state")
}

/// The folder for what can be made again: `$XDG_CACHE_HOME/harmony-fleet`.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    xdg("XDG_CACHE_HOME", ".cache")
}

/// `target/<profile>` of the running program: programs lie in it, tests in `deps`.
fn profile_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell the path of this program")?;
    let folder = program.parent().context("this program has no folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

fn xdg(variable: &str, below_home: &str) -> Result<PathBuf> {
    let base = match std::env::var_os(variable) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(below_home),
    };
    Ok(base.join("harmony-fleet"))
}
