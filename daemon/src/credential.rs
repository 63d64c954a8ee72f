//! Who connects: a key that is proved on the nonce of each connection, and a token for those who have one.
//!
//! One file format for a device, a laptop and a pod:
//!
//! ```toml
//! nats-url = "tls://nats.example:4222"
//! nats-ca-file = "nats-ca.crt"          # or nats-ca = """-----BEGIN CERTIFICATE-----…"""
//! seed-file = "keys/identity.nk"        # or seed = "SU…"; with a token, neither: a fresh key at each start
//!
//! [token]                               # optional
//! file = "/var/run/secrets/nats/token"
//! # or [token.oidc] issuer, key-file or client-id and client-secret-file, scopes, audience
//! ```
//!
//! Paths are relative to the file. It is only ever the resolved credential: a wish to become a member is
//! another type (`fleet_wire::enrollment::EnrollmentIntent`), and no process runs with that.
//!
//! Tokens are read or fetched at each connection, never written down.

mod given;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::Auth;
use fleet_wire::enrollment::TokenId;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::given::Given;
#[cfg(feature = "oidc")]
use crate::oidc::{MachineLogin, MachineLoginSettings};

/// Longest token that is taken, in bytes. Larger ones do not fit nats-server's CONNECT, either.
const LONGEST_TOKEN: usize = 16 * 1024;
/// How long a token may take: nats-server gives a whole login 2 s.
const TOKEN_PATIENCE: Duration = Duration::from_millis(1500);
/// User name of a device that no record knows and that asks for one.
const APPLICANT: &str = "request";
/// Prefix of the user name of who holds an enrollment token; its id follows.
const TOKEN_HOLDER: &str = "enrollment:";

/// Why there is no usable credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file could not be read.
    #[error("the credential's file {file} cannot be read", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others could read the seed.
    #[error(
        "{file} has mode {mode:04o}, but holds a secret: run `chmod 600 {file}`",
        file = file.display()
    )]
    Permissions {
        /// The file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is not what it should be.
    #[error("{file} is not a credential: {problem}", file = file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong; never a secret.
        problem: String,
    },
    /// The file could not be written.
    #[error("the credential's file {file} cannot be written", file = file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The seed is not one.
    #[error("the NATS seed is not the seed of a user's nkey: expected 58 characters that begin with SU")]
    Seed,
    /// No token could be had.
    #[error("no token for the login at NATS: {0}")]
    Token(String),
}

/// The seed of a user's nkey (`SU…`). `Debug` does not show it, and its memory is wiped.
#[derive(Clone)]
pub struct NkeySeed {
    seed: Zeroizing<String>,
    file: Option<PathBuf>,
}

impl NkeySeed {
    /// From text; surrounding white space is dropped. Whether it is a seed, [`NkeySeed::key_pair`] checks.
    pub fn new(seed: impl Into<String>) -> Self {
        let seed = Zeroizing::new(seed.into());
        Self { seed: Zeroizing::new(seed.trim().to_owned()), file: None }
    }

    /// From a file that holds nothing else. A credential that is stored names the file.
    ///
    /// # Errors
    /// [`CredentialError::Read`].
    pub fn from_file(file: &Path) -> Result<Self, CredentialError> {
        let seed = fs::read_to_string(file)
            .map_err(|source| CredentialError::Read { file: file.to_owned(), source })?;
        Ok(Self { file: Some(file.to_owned()), ..Self::new(seed) })
    }

    /// A fresh key, for who proves with a token who they are.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn random() -> Result<Self, CredentialError> {
        KeyPair::new_user().seed().map(Self::new).map_err(|_| CredentialError::Seed)
    }

    /// The key, ready to sign.
    ///
    /// # Errors
    /// [`CredentialError::Seed`] if it is none, or not a user's.
    pub fn key_pair(&self) -> Result<KeyPair, CredentialError> {
        // What nkeys says could repeat parts of the seed.
        KeyPair::from_seed(&self.seed)
            .ok()
            .filter(|key| key.key_pair_type() == KeyPairType::User)
            .ok_or(CredentialError::Seed)
    }
}

impl std::fmt::Debug for NkeySeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NkeySeed(…)")
    }
}

/// Where the CA of the NATS server's certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// A file (PEM), read at each connection: it may be renewed.
    File(PathBuf),
    /// The certificates themselves (PEM).
    Pem(String),
}

impl From<PathBuf> for CaSource {
    fn from(file: PathBuf) -> Self {
        Self::File(file)
    }
}

/// Where tokens come from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// A file that someone else renews, e.g. the kubelet for a service account's projected token.
    File(PathBuf),
    /// An identity provider, where the machine has an account.
    #[cfg(feature = "oidc")]
    Oidc(MachineLogin),
}

impl TokenSource {
    /// The token of now.
    ///
    /// # Errors
    /// [`CredentialError::Token`], in words that name the source and never the token.
    pub async fn token(&self) -> Result<Zeroizing<String>, CredentialError> {
        match self {
            Self::File(file) => {
                let text = tokio::fs::read_to_string(file).await.map(Zeroizing::new).map_err(|error| {
                    CredentialError::Token(format!("{} cannot be read: {error}", file.display()))
                })?;
                let token = text.trim();
                if token.is_empty() || token.len() > LONGEST_TOKEN {
                    let problem = format!("{} holds no token, or more than 16 KiB", file.display());
                    return Err(CredentialError::Token(problem));
                }
                Ok(Zeroizing::new(token.to_owned()))
            }
            #[cfg(feature = "oidc")]
            Self::Oidc(login) => match login.token().await {
                Ok(token) => Ok(Zeroizing::new(token.secret().to_owned())),
                Err(error) => Err(CredentialError::Token(error.to_string())),
            },
        }
    }
}

/// A resolved credential: where NATS is, and who connects.
#[derive(Debug, Clone)]
pub struct DeviceCredential {
    /// `tls://host:4222`; several are separated by commas.
    pub nats_url: String,
    /// CA of the server's certificate; `None` trusts the system's.
    pub nats_ca: Option<CaSource>,
    /// The key that each connection proves.
    pub key: NkeySeed,
    /// The token that says more of who holds the key, if there is one.
    pub token: Option<TokenSource>,
}

/// The credential as it stands in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct OnDisk {
    nats_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nats_ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nats_ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<TokenOnDisk>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TokenOnDisk {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[cfg(feature = "oidc")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oidc: Option<MachineLoginSettings>,
}

impl TokenOnDisk {
    /// `path` makes a path in the file one that can be used, or what it says one that can be written.
    fn of(source: &TokenSource, path: impl Fn(&PathBuf) -> PathBuf) -> Self {
        match source {
            TokenSource::File(file) => Self {
                file: Some(path(file)),
                #[cfg(feature = "oidc")]
                oidc: None,
            },
            #[cfg(feature = "oidc")]
            TokenSource::Oidc(login) => {
                Self { file: None, oidc: Some(with_paths(login.settings().clone(), path)) }
            }
        }
    }

    fn source(self, path: impl Fn(&PathBuf) -> PathBuf) -> Result<TokenSource, String> {
        #[cfg(feature = "oidc")]
        let oidc = self.oidc;
        #[cfg(not(feature = "oidc"))]
        let oidc: Option<std::convert::Infallible> = None;
        match (self.file, oidc) {
            (Some(file), None) => Ok(TokenSource::File(path(&file))),
            #[cfg(feature = "oidc")]
            (None, Some(settings)) => MachineLogin::new(with_paths(settings, path))
                .map(TokenSource::Oidc)
                .map_err(|error| error.to_string()),
            _ => Err("expected one of `file` and `oidc` in `[token]`".to_owned()),
        }
    }
}

#[cfg(feature = "oidc")]
fn with_paths(
    mut settings: MachineLoginSettings,
    path: impl Fn(&PathBuf) -> PathBuf,
) -> MachineLoginSettings {
    for file in [&mut settings.key_file, &mut settings.client_secret_file, &mut settings.ca_file] {
        *file = file.as_ref().map(&path);
    }
    settings
}

impl DeviceCredential {
    /// Reads a file, and the seed that it names. Neither may be readable by others; a file of who has no key but the
    /// one that is made now holds no secret, and may.
    ///
    /// # Errors
    /// [`CredentialError`], which names the file and what to do.
    pub fn load(file: &Path) -> Result<Self, CredentialError> {
        let content =
            |problem: &str| CredentialError::Content { file: file.to_owned(), problem: problem.to_owned() };
        let text = read(file)?;
        let disk: OnDisk = toml::from_str(&text).map_err(|error| {
            // toml's own text quotes the line, which may be the seed's.
            content(error.message())
        })?;
        if disk.seed.is_some() || disk.seed_file.is_some() {
            check_private(file)?;
        }
        let beside = |path: PathBuf| file.parent().map_or_else(|| path.clone(), |folder| folder.join(&path));
        let key = match (disk.seed_file, disk.seed) {
            (Some(path), None) => {
                let path = beside(path);
                // Checked like the credential itself.
                check_private(&path)?;
                NkeySeed::from_file(&path)?
            }
            (None, Some(seed)) => NkeySeed::new(seed),
            // The token says who it is; the key is for this connection's sake.
            (None, None) if disk.token.is_some() => NkeySeed::random()?,
            _ => return Err(content("expected one of `seed-file` and `seed`")),
        };
        key.key_pair()?;
        let nats_ca = match (disk.nats_ca_file, disk.nats_ca) {
            (Some(path), None) => Some(CaSource::File(beside(path))),
            (None, Some(pem)) => Some(CaSource::Pem(pem)),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(content("expected one of `nats-ca-file` and `nats-ca`")),
        };
        let token = disk.token.map(|token| token.source(|path| beside(path.clone()))).transpose();
        let token = token.map_err(|problem| content(&problem))?;
        Ok(Self { nats_url: disk.nats_url, nats_ca, key, token })
    }

    /// Writes a file that only its owner reads, as a whole or not at all. A key that came from a file stays
    /// there, and is named.
    ///
    /// # Errors
    /// [`CredentialError::Write`].
    pub fn store(&self, file: &Path) -> Result<(), CredentialError> {
        let short = |path: &PathBuf| {
            let below = file.parent().and_then(|folder| path.strip_prefix(folder).ok());
            below.map_or_else(|| path.clone(), Path::to_path_buf)
        };
        let (nats_ca_file, nats_ca) = match &self.nats_ca {
            Some(CaSource::File(path)) => (Some(short(path)), None),
            Some(CaSource::Pem(pem)) => (None, Some(pem.clone())),
            None => (None, None),
        };
        let (seed_file, seed) = match &self.key.file {
            Some(path) => (Some(short(path)), None),
            None => (None, Some(self.key.seed.to_string())),
        };
        let token = self.token.as_ref().map(|token| TokenOnDisk::of(token, short));
        let disk = OnDisk { nats_url: self.nats_url.clone(), nats_ca_file, nats_ca, seed_file, seed, token };
        let text = toml::to_string(&disk).map(Zeroizing::new).map_err(|error| CredentialError::Content {
            file: file.to_owned(),
            problem: error.to_string(),
        })?;
        replace(file, text.as_bytes())
            .map_err(|source| CredentialError::Write { file: file.to_owned(), source })
    }

    /// How its holder logs in.
    pub fn login(&self) -> Login {
        Login::Credential { key: self.key.clone(), token: self.token.clone() }
    }
}

fn read(file: &Path) -> Result<Zeroizing<String>, CredentialError> {
    let unreadable = |source| CredentialError::Read { file: file.to_owned(), source };
    fs::read_to_string(file).map(Zeroizing::new).map_err(unreadable)
}

fn check_private(file: &Path) -> Result<(), CredentialError> {
    let unreadable = |source| CredentialError::Read { file: file.to_owned(), source };
    let mode = fs::metadata(file).map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CredentialError::Permissions { file: file.to_owned(), mode });
    }
    Ok(())
}

fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension(format!("tmp-{:016x}", rand::random::<u64>()));
    let written = (|| {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        new.write_all(content)?;
        new.sync_all()?;
        fs::rename(&temporary, file)
    })();
    if let Err(error) = written {
        // What is left over of it is a secret.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    match file.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// How to log in at NATS: what CONNECT shows.
#[derive(Debug, Clone)]
pub enum Login {
    /// Signature over the nonce, and a token if there is one.
    Credential {
        /// The key.
        key: NkeySeed,
        /// Where the token comes from.
        token: Option<TokenSource>,
    },
    /// The id of an enrollment token, which proves nothing yet.
    EnrollmentToken(TokenId),
    /// A key that no record knows, to ask for membership.
    Applicant {
        /// The key.
        key: NkeySeed,
    },
}

impl Login {
    /// Whether it can work at all.
    ///
    /// # Errors
    /// [`CredentialError::Seed`].
    pub fn check(&self) -> Result<(), CredentialError> {
        match self {
            Self::Credential { key, .. } | Self::Applicant { key } => key.key_pair().map(drop),
            Self::EnrollmentToken(_) => Ok(()),
        }
    }

    /// What CONNECT shows in a connection with this nonce.
    ///
    /// # Errors
    /// When the key cannot sign, or no token came in time.
    pub async fn prove(&self, nonce: &[u8]) -> Result<Auth, CredentialError> {
        let mut auth = Auth::new();
        match self {
            Self::Credential { key, token } => {
                if let Some(source) = token {
                    auth.token = Some(fresh(source).await?.to_string());
                }
                sign(&mut auth, key, nonce)?;
            }
            Self::EnrollmentToken(id) => {
                auth.username = Some(format!("{TOKEN_HOLDER}{id}"));
                auth.password = Some(String::new());
            }
            Self::Applicant { key } => {
                auth.username = Some(APPLICANT.to_owned());
                auth.password = Some(String::new());
                sign(&mut auth, key, nonce)?;
            }
        }
        Ok(auth)
    }
}

/// In a task of its own: should it be late for this connection, it is there for the next.
async fn fresh(source: &TokenSource) -> Result<Zeroizing<String>, CredentialError> {
    let source = source.clone();
    let fetched = tokio::spawn(async move { source.token().await });
    match tokio::time::timeout(TOKEN_PATIENCE, fetched).await {
        Ok(Ok(token)) => token,
        Ok(Err(error)) => Err(CredentialError::Token(error.to_string())),
        Err(_) => Err(CredentialError::Token(format!("none came within {TOKEN_PATIENCE:?}"))),
    }
}

fn sign(auth: &mut Auth, key: &NkeySeed, nonce: &[u8]) -> Result<(), CredentialError> {
    let key = key.key_pair()?;
    auth.nkey = Some(key.public_key());
    auth.signature = Some(key.sign(nonce).map_err(|_| CredentialError::Seed)?);
    Ok(())
}

#[cfg(test)]
#[path = "tests/credential.rs"]
mod tests;
