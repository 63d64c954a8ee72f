//! `fleet login`, `logout` and `whoami`: the session of the person at the fleet's identity provider.
//!
//! [`crate::login`] owns the flow and the file; here are arguments and words.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use fleet_daemon::credential::CaSource;
use jiff::Timestamp;

use crate::{
    cluster::Cluster,
    error::FleetError,
    info::FleetInfo,
    login::{self, LoginError, PersonError, Reach, Session, Settings, Store, Verification, Who},
    output::{age, json, note, plain, print, yaml},
};

/// The claim in which Zitadel has the roles of a person.
const ROLES_CLAIM: &str = "urn:zitadel:iam:org:project:roles";
/// How long the cluster has to say where NATS is.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// `fleet login`. What is not given is as it was at the last login.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// URL of the identity provider, exactly as its tokens have it in `iss`.
    #[arg(long, env = "FLEET_OIDC_ISSUER", value_name = "URL")]
    issuer: Option<String>,
    /// The public client that is registered for `fleet` there.
    #[arg(long, env = "FLEET_OIDC_CLIENT_ID", value_name = "ID")]
    client_id: Option<String>,
    /// Scope besides openid and offline_access; may be repeated.
    #[arg(long = "scope", env = "FLEET_OIDC_SCOPES", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    /// Audience, for providers that want it as a parameter.
    #[arg(long, env = "FLEET_OIDC_AUDIENCE")]
    audience: Option<String>,
    /// CA of the provider's certificate (PEM); without it the system's are trusted.
    #[arg(long, env = "FLEET_OIDC_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Where NATS is, for the credential [default: as at the last login, else of the fleet].
    #[arg(long, env = "FLEET_NATS_URL", value_name = "URL")]
    nats_url: Option<String>,
    /// CA of the NATS server's certificate (PEM) [default: as at the last login, else of the fleet].
    #[arg(long, env = "FLEET_NATS_CA_FILE", value_name = "FILE", requires = "nats_url")]
    nats_ca_file: Option<PathBuf>,
}

/// `fleet whoami`
#[derive(Debug, Args)]
pub struct WhoamiArgs {
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    output: WhoFormat,
    /// Claim of the access token with the roles.
    #[arg(long, default_value = ROLES_CLAIM, value_name = "CLAIM")]
    roles_claim: String,
}

/// Formats of `fleet whoami`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum WhoFormat {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl LoginArgs {
    /// With what was used before, where nothing else is said.
    fn settings(self, before: Option<Settings>) -> Result<Settings, FleetError> {
        let missing = |what: &str, flag: &str| {
            FleetError::usage(
                format!("{what} is not known"),
                format!("name it with {flag}; the next login remembers it"),
            )
        };
        // Scopes, audience and client of one provider mean nothing to another.
        let same = |before: &Settings| self.issuer.as_ref().is_none_or(|issuer| *issuer == before.issuer);
        let (issuer, client_id, scopes, audience, ca_file) = match before.filter(same) {
            Some(Settings { issuer, client_id, scopes, audience, ca_file }) => {
                (Some(issuer), Some(client_id), scopes, audience, ca_file)
            }
            None => Default::default(),
        };
        Ok(Settings {
            issuer: self.issuer.or(issuer).ok_or_else(|| missing("the identity provider", "--issuer URL"))?,
            client_id: self.client_id.or(client_id).ok_or_else(|| missing("the client", "--client-id ID"))?,
            scopes: if self.scopes.is_empty() { scopes } else { self.scopes },
            audience: self.audience.or(audience),
            ca_file: self.ca_file.or(ca_file),
        })
    }
}

/// Logs in: shows a code that is confirmed in a browser anywhere.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn login(
    mut args: LoginArgs,
    cluster: impl Future<Output = Result<Cluster, FleetError>>,
) -> Result<(), FleetError> {
    let store = Store::of_user()?;
    let named = named(args.nats_url.take(), args.nats_ca_file.take())?;
    // A file that cannot be read is made anew.
    let before = store.load().ok().flatten().map(|session| session.settings);
    let mut settings = args.settings(before)?;
    // The session is renewed from other folders, too.
    settings.ca_file = settings.ca_file.map(absolute).transpose()?;
    let mut prompt = |verification: &Verification| note(&instructions(verification));
    let session = Box::pin(login::device_flow(&settings, &mut prompt)).await?;
    store.save(&session)?;
    let reach = match named.or_else(|| store.reach()) {
        Some(reach) => Some(reach),
        None => of_the_fleet(cluster).await,
    };
    match reach {
        Some(reach) => {
            store.make_credential(reach, &session)?;
            note(&format!("your credential for NATS is {}", store.credential_file().display()));
        }
        None => note("there is no credential for NATS: name the server with --nats-url if you need one"),
    }
    print(&format!("logged in as {}\n", name(&session)))
}

/// Where the arguments say that NATS is.
fn named(url: Option<String>, ca_file: Option<PathBuf>) -> Result<Option<Reach>, FleetError> {
    let nats_ca = ca_file.map(absolute).transpose()?.map(CaSource::File);
    Ok(url.map(|nats_url| Reach { nats_url, nats_ca }))
}

/// Where the fleet says so, for those who have access to its cluster: a login does not need it.
async fn of_the_fleet(cluster: impl Future<Output = Result<Cluster, FleetError>>) -> Option<Reach> {
    let info = async { FleetInfo::of(&cluster.await?).await };
    let info = tokio::time::timeout(ASK_WITHIN, info).await.ok()?.ok()?;
    Some(Reach { nats_url: info.nats_url?, nats_ca: info.nats_ca.map(CaSource::Pem) })
}

fn absolute(path: PathBuf) -> Result<PathBuf, FleetError> {
    std::path::absolute(&path).map_err(|source| FleetError::File { action: "find", path, source })
}

/// Forgets the session on this machine.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub fn logout() -> Result<(), FleetError> {
    let gone = Store::of_user()?.remove()?;
    print(if gone { "logged out on this machine\n" } else { "nobody was logged in\n" })
}

/// Says who is logged in; renews the session if need be.
///
/// # Errors
/// [`FleetError::NotFound`] when nobody is.
pub async fn whoami(args: WhoamiArgs) -> Result<(), FleetError> {
    let session = Box::pin(login::load(&Store::of_user()?)).await?;
    let who = session.who(&args.roles_claim);
    print(&match args.output {
        WhoFormat::Text => words(&who, Timestamp::now()),
        WhoFormat::Json => json(&who)?,
        WhoFormat::Yaml => yaml(&who)?,
    })
}

fn name(session: &Session) -> String {
    session.subject.as_deref().map_or_else(|| "somebody whom the provider does not name".to_owned(), plain)
}

fn instructions(verification: &Verification) -> String {
    let Verification { uri, complete_uri, code, expires_in } = verification;
    let link = complete_uri.as_deref().map(|link| format!("\n  or {}", plain(link))).unwrap_or_default();
    let minutes = expires_in.as_secs().div_ceil(60);
    format!("Open {} and enter the code {} within {minutes} min{link}", plain(uri), plain(code))
}

fn words(who: &Who, now: Timestamp) -> String {
    let roles: Vec<String> = who.roles.iter().map(|role| plain(role)).collect();
    let roles = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    let renewed = if who.renewable { ", then it is renewed" } else { ", then log in again" };
    format!(
        "Subject  {}\nIssuer   {}\nRoles    {roles}\nToken    ends in {}{renewed}\n",
        plain(&who.subject),
        plain(&who.issuer),
        age(now, who.expires)
    )
}

impl From<LoginError> for FleetError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::NotLoggedIn | LoginError::Person(PersonError::Ended(_)) => {
                Self::not_found(error.to_string(), "`fleet login`")
            }
            LoginError::Person(PersonError::Denied | PersonError::Exposed { .. }) => {
                Self::refused(error.to_string(), "`fleet login` begins anew")
            }
            LoginError::Settings(_) => Self::usage(error.to_string(), "see `fleet login --help`"),
            other => Self::Login(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(issuer: Option<&str>) -> LoginArgs {
        LoginArgs {
            issuer: issuer.map(str::to_owned),
            client_id: None,
            scopes: Vec::new(),
            audience: None,
            ca_file: None,
            nats_url: None,
            nats_ca_file: None,
        }
    }

    fn before() -> Settings {
        Settings {
            issuer: "https://id.example".into(),
            client_id: "fleet".into(),
            scopes: vec!["roles".into()],
            audience: Some("nats".into()),
            ca_file: None,
        }
    }

    #[test]
    fn the_next_login_remembers_the_provider() {
        assert_eq!(args(None).settings(Some(before())).unwrap(), before());
        assert_eq!(args(Some("https://id.example")).settings(Some(before())).unwrap(), before());
        let other = LoginArgs { client_id: Some("cli".into()), ..args(Some("https://other.example")) };
        let other = other.settings(Some(before())).unwrap();
        assert_eq!((other.client_id.as_str(), other.scopes.len(), other.audience), ("cli", 0, None));
    }

    #[test]
    fn what_was_never_said_is_asked_for() {
        for (args, flag) in [(args(None), "--issuer"), (args(Some("https://id.example")), "--client-id")] {
            let error = args.settings(None).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.next().unwrap().contains(flag), "{error}");
        }
    }

    #[test]
    fn a_provider_cannot_write_on_the_terminal() {
        let text = instructions(&Verification {
            uri: "https://id.example/device\u{1b}[2J".into(),
            complete_uri: None,
            code: "ABCD-EFGH".into(),
            expires_in: Duration::from_secs(299),
        });
        assert_eq!(text, "Open https://id.example/device [2J and enter the code ABCD-EFGH within 5 min");
    }
}
