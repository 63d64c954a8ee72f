//! Logging in: from what the settings have to a token of the store.
//!
//! ```text
//! token, token file ─ look up ─┐
//! userpass, AppRole ───────────┤
//! service account, JWT file ───┼─► Grant: token, how long it is good, whether it can be renewed
//! person's session (OIDC) ─────┘
//! ```
//!
//! Files are read at each login, so that a new password or token is used without a restart. Nothing is kept here.

use std::{path::PathBuf, time::Duration};

use reqwest::Method;
use serde::Deserialize;
use vaultrs::{api::AuthInfo, auth};

use super::{
    error::{OpenBaoError, SettingsError},
    person::Person,
    secret::{self, Secret},
    settings::{LoginMethod, OpenBaoSettings},
    transport::{Transport, of_vaultrs},
};
use crate::store::StorePath;

/// Where Kubernetes puts the pod's token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A text, or the file that has it.
#[derive(Debug, Clone)]
enum Given {
    Text(Secret),
    File(PathBuf),
}

/// What is shown to the store.
#[derive(Debug)]
enum Credential {
    Token(Given),
    Userpass { username: String, password: Given },
    Approle { role_id: String, secret_id: Given },
    Kubernetes { role: String, file: PathBuf },
    Jwt { role: Option<String>, file: PathBuf },
    Oidc { role: Option<String>, person: Box<Person> },
}

/// How to log in, complete.
#[derive(Debug)]
pub(super) struct Login {
    credential: Credential,
    method: LoginMethod,
    mount: StorePath,
}

/// What the store gave.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) token: Secret,
    /// `None`: it does not end.
    pub(super) lifetime: Option<Duration>,
    pub(super) renewable: bool,
}

impl Login {
    /// Checks that everything is there; reads and asks nothing.
    pub(super) fn new(settings: &OpenBaoSettings) -> Result<Self, SettingsError> {
        let method = settings.method().ok_or(SettingsError::NoLogin)?;
        let incomplete = |missing| SettingsError::Incomplete { method: method.as_str(), missing };
        let given = |text: &Option<Secret>, file: &Option<PathBuf>| {
            file.clone().map(Given::File).or_else(|| text.clone().map(Given::Text))
        };
        let credential = match method {
            LoginMethod::Token => {
                let missing = &["token", "token_file"];
                Credential::Token(given(&settings.token, &settings.token_file).ok_or(incomplete(missing))?)
            }
            LoginMethod::Userpass => {
                let missing = &["username", "password", "password_file"];
                let username = settings.username.clone().ok_or(incomplete(missing))?;
                // It becomes part of the URL.
                if username.parse::<StorePath>().is_err() || username.contains('/') {
                    let why = "expected A-Z, a-z, 0-9, '.', '_' and '-'".to_owned();
                    return Err(SettingsError::Value { name: "username", why });
                }
                let password =
                    given(&settings.password, &settings.password_file).ok_or(incomplete(missing))?;
                Credential::Userpass { username, password }
            }
            LoginMethod::Approle => {
                let missing = &["role_id", "secret_id", "secret_id_file"];
                Credential::Approle {
                    role_id: settings.role_id.clone().ok_or(incomplete(missing))?,
                    secret_id: given(&settings.secret_id, &settings.secret_id_file)
                        .ok_or(incomplete(missing))?,
                }
            }
            LoginMethod::Kubernetes => Credential::Kubernetes {
                role: settings.role.clone().ok_or(incomplete(&["role"]))?,
                file: settings.jwt_file.clone().unwrap_or_else(|| SERVICE_ACCOUNT.into()),
            },
            LoginMethod::Jwt => Credential::Jwt {
                role: settings.role.clone(),
                file: settings.jwt_file.clone().ok_or(incomplete(&["jwt_file"]))?,
            },
            LoginMethod::Oidc => {
                let missing = &["oidc_issuer", "oidc_client_id"];
                let person = Person::new(settings)?.ok_or(incomplete(missing))?;
                Credential::Oidc { role: settings.role.clone(), person: Box::new(person) }
            }
        };
        let mount = match (&settings.auth_mount, method) {
            (Some(mount), _) => mount.trim_matches('/'),
            (None, LoginMethod::Oidc) => LoginMethod::Jwt.as_str(),
            (None, method) => method.as_str(),
        };
        let mount = mount
            .strip_prefix("auth/")
            .unwrap_or(mount)
            .parse()
            .map_err(|error| SettingsError::Value { name: "auth-mount", why: format!("{error}") })?;
        Ok(Self { credential, method, mount })
    }

    pub(super) fn method(&self) -> &'static str {
        self.method.as_str()
    }

    /// The person's side of it, where a person logs in.
    pub(super) fn person(&self) -> Option<&Person> {
        match &self.credential {
            Credential::Oidc { person, .. } => Some(person),
            _ => None,
        }
    }

    /// Logs in once.
    pub(super) async fn log_in(&self, transport: &Transport) -> Result<Grant, OpenBaoError> {
        let (client, mount) = (transport.vaultrs(None)?, self.mount.as_str());
        let answer = match &self.credential {
            Credential::Token(token) => return self.look_up(transport, self.read(token)?).await,
            Credential::Userpass { username, password } => {
                let password = self.read(password)?;
                auth::userpass::login(&client, mount, username, password.expose()).await
            }
            Credential::Approle { role_id, secret_id } => {
                let secret_id = self.read(secret_id)?;
                auth::approle::login(&client, mount, role_id, secret_id.expose()).await
            }
            Credential::Kubernetes { role, file } => {
                let token = self.read(&Given::File(file.clone()))?;
                auth::kubernetes::login(&client, mount, role, token.expose()).await
            }
            Credential::Jwt { role, file } => {
                let token = self.read(&Given::File(file.clone()))?;
                auth::oidc::login(&client, mount, token.expose(), role.clone()).await
            }
            Credential::Oidc { role, person } => {
                let session = person.session().await.map_err(|error| self.without(error.to_string()))?;
                let role = match role {
                    Some(role) => role.clone(),
                    None => person.only_role(&session).map_err(|why| self.without(why))?,
                };
                let token = person.token_of(&session).map_err(|why| self.without(why))?;
                auth::oidc::login(&client, mount, token.expose(), Some(role)).await
            }
        };
        let AuthInfo { client_token, lease_duration, renewable, .. } =
            answer.map_err(|error| self.refused(of_vaultrs(error)))?;
        Ok(Grant { token: Secret::new(client_token), lifetime: lifetime(lease_duration), renewable })
    }

    /// Whether the store knows a token, and for how long.
    async fn look_up(&self, transport: &Transport, token: Secret) -> Result<Grant, OpenBaoError> {
        #[derive(Deserialize)]
        struct Found {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            #[serde(default)]
            ttl: u64,
            #[serde(default)]
            renewable: bool,
        }
        let answer = transport.send(Method::GET, "auth/token/lookup-self", Some(&token), None).await?;
        match answer.status {
            200 => {
                let Data { ttl, renewable } = answer.json::<Found>()?.data;
                Ok(Grant { token, lifetime: lifetime(ttl), renewable })
            }
            _ => Err(self.refused(answer.failure())),
        }
    }

    /// Renews a token; a new grant of the same one.
    pub(super) async fn renew(&self, transport: &Transport, token: &Secret) -> Result<Grant, OpenBaoError> {
        let client = transport.vaultrs(Some(token))?;
        let renewed = vaultrs::token::renew_self(&client, None).await;
        let AuthInfo { lease_duration, renewable, .. } = renewed.map_err(|e| self.refused(of_vaultrs(e)))?;
        Ok(Grant { token: token.clone(), lifetime: lifetime(lease_duration), renewable })
    }

    /// Whether a token is still good, asked after something was denied.
    pub(super) async fn is_good(&self, transport: &Transport, token: &Secret) -> Result<bool, OpenBaoError> {
        let answer = transport.send(Method::GET, "auth/token/lookup-self", Some(token), None).await?;
        match answer.status {
            200 => Ok(true),
            // Policies may forbid the question itself; a token that is gone may do nothing at all.
            403 => Ok(false),
            _ => Err(answer.failure()),
        }
    }

    fn read(&self, given: &Given) -> Result<Secret, OpenBaoError> {
        let secret = match given {
            Given::Text(text) => text.clone(),
            Given::File(file) => {
                secret::read(file).map_err(|why| self.without(format!("{}: {why}", file.display())))?
            }
        };
        // vaultrs panics where one cannot stand in a header.
        if matches!(self.credential, Credential::Token(_)) && !secret::is_sendable(&secret) {
            return Err(self.without("the token has characters that no token has".to_owned()));
        }
        Ok(secret)
    }

    fn without(&self, why: String) -> OpenBaoError {
        OpenBaoError::NoCredential { method: self.method(), why }
    }

    /// Vault 1.14 answers 500 to a wrong password and to a wrong secret of a role (seen). That is no trouble of the
    /// server, and to try again would lock the user.
    fn refused(&self, error: OpenBaoError) -> OpenBaoError {
        match error {
            OpenBaoError::Failing { status, said }
                if (400..=404).contains(&status) || (status == 500 && said.contains("invalid")) =>
            {
                let mount = format!("auth/{}", self.mount);
                OpenBaoError::LoginRefused { method: self.method(), mount, said }
            }
            other => other,
        }
    }
}

/// The store says 0 for a token that does not end.
fn lifetime(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}
