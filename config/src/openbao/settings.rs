//! The settings of the client: from the environment, then from a file.
//!
//! One table says what there is; variables, file, messages and documentation follow from it. Nothing is read here but
//! the environment and one file, and nothing that is missing panics.

use std::{
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{error::SettingsError, secret::Secret};

/// How to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoginMethod {
    /// A token that somebody made.
    Token,
    /// A user's name and password.
    Userpass,
    /// A role and its secret, for machines.
    Approle,
    /// The pod's service account.
    Kubernetes,
    /// A signed token from a file, by whomever it is renewed.
    Jwt,
    /// A person's login at an identity provider, by a code that is confirmed in a browser.
    Oidc,
}

impl LoginMethod {
    /// As it stands in settings; also the mount's name where nothing else is set.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Userpass => "userpass",
            Self::Approle => "approle",
            Self::Kubernetes => "kubernetes",
            Self::Jwt => "jwt",
            Self::Oidc => "oidc",
        }
    }
}

/// Which of the identity provider's tokens the store gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderToken {
    /// The access token: has the roles with Zitadel. The provider has to issue it as a JWT.
    #[default]
    Access,
    /// The ID token: always a JWT.
    Id,
}

/// One setting, for messages and documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    field: &'static str,
    fallbacks: &'static [&'static str],
    /// What it says.
    pub description: &'static str,
}

impl Setting {
    /// Its key in the file: `kv-mount`.
    #[must_use]
    pub fn key(&self) -> String {
        self.field.replace('_', "-")
    }

    /// Its variables, the first that is set wins: `OPENBAO_KV_MOUNT`, then those of other programs.
    #[must_use]
    pub fn variables(&self) -> Vec<String> {
        let own = format!("{PREFIX}{}", self.field.to_ascii_uppercase());
        std::iter::once(own).chain(self.fallbacks.iter().map(ToString::to_string)).collect()
    }
}

/// In front of every variable.
const PREFIX: &str = "OPENBAO_";
/// Layers of variables: ours, those of OpenBao's own command, those of Vault's.
const FALLBACKS: [&str; 2] = ["BAO_", "VAULT_"];

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty $(, $fallback:literal)*;)+) => {
        /// What can be set. Everything is optional here; [`super::OpenBao::new`] says what is missing.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub struct OpenBaoSettings {
            $($(#[doc = $doc])+ #[serde(default)] pub $field: Option<$type>,)+
        }

        impl OpenBaoSettings {
            /// All of them, in the order in which a person reads about them.
            pub const ALL: &[Setting] = &[$(Setting {
                field: stringify!($field),
                fallbacks: &[$($fallback),*],
                description: concat!($($doc),+).trim_ascii(),
            }),+];

            /// These, and where they say nothing the others.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                // Whoever wins says how to log in: a token below must not beat a user's name above.
                let auth = self.method().or(other.method());
                let mut both = Self { $($field: self.$field.or(other.$field)),+ };
                both.auth = auth;
                both
            }

            fn set(&mut self, setting: &Setting, text: &str) -> Result<(), &'static str> {
                match setting.field {
                    $(stringify!($field) => self.$field = Some(<$type as FromText>::from_text(text)?),)+
                    _ => {}
                }
                Ok(())
            }

            #[cfg(test)]
            pub(super) fn is_set(&self, field: &str) -> bool {
                match field {
                    $(stringify!($field) => self.$field.is_some(),)+
                    _ => false,
                }
            }
        }
    };
}

settings! {
    /// The server's URL: `https://bao.example.com:8200`.
    url: String, "BAO_ADDR", "VAULT_ADDR";
    /// How to log in: `token`, `userpass`, `approle`, `kubernetes`, `jwt` or `oidc`. By default what the other settings suffice for, in this order.
    auth: LoginMethod;
    /// A token of the store.
    token: Secret, "BAO_TOKEN", "VAULT_TOKEN";
    /// File with a token of the store; read at each login, so that another program may renew it.
    token_file: PathBuf;
    /// User's name (`userpass`).
    username: String;
    /// The user's password.
    password: Secret;
    /// File with the user's password.
    password_file: PathBuf;
    /// The role's id (`approle`).
    role_id: String;
    /// The role's secret.
    secret_id: Secret;
    /// File with the role's secret.
    secret_id_file: PathBuf;
    /// The role that is asked for (`kubernetes`, `jwt`, `oidc`). With `oidc` by default the one role that the person has.
    role: String;
    /// File with the signed token (`jwt`), or with the service account's token (`kubernetes`; by default the pod's).
    jwt_file: PathBuf;
    /// The identity provider's URL, exactly as its tokens have it in `iss` (`oidc`).
    oidc_issuer: String;
    /// The public client that is registered there for this program.
    oidc_client_id: String;
    /// What is asked for besides `openid` and `offline_access`, separated by spaces; a list in the file.
    oidc_scopes: Vec<String>;
    /// Sent as the parameter `audience`, for providers that want it so.
    oidc_audience: String;
    /// CA of the provider's certificate (PEM), and the only one trusted; the system's without it.
    oidc_ca_file: PathBuf;
    /// Which of the provider's tokens the store gets: `access` (default) or `id`.
    oidc_token: ProviderToken;
    /// Claim with the person's roles. Default `urn:zitadel:iam:org:project:roles`.
    roles_claim: String;
    /// Where a person's login is kept. Default `harmony/config` in the user's data folder.
    cache_folder: PathBuf;
    /// Mount of the key-value engine, version 2. Default `secret`.
    kv_mount: String;
    /// Mount of the login method, without `auth/`. Default: the method's name; `jwt` for `oidc`.
    auth_mount: String;
    /// Path below the mount; a model is kept at `<prefix>/<Key>`. Default `harmony`.
    prefix: String;
    /// Namespace of the store. OpenBao only: Vault has them in its Enterprise edition.
    namespace: String, "BAO_NAMESPACE", "VAULT_NAMESPACE";
    /// CA of the server's certificate (PEM), and the only one trusted; the system's without it.
    ca_file: PathBuf, "BAO_CACERT", "VAULT_CACERT";
    /// Believe any certificate, and allow `http://` to other machines: only to try things out.
    skip_tls: bool, "BAO_SKIP_VERIFY", "VAULT_SKIP_VERIFY";
    /// Seconds that one call may take in all, login and repetitions included. Default 5.
    timeout_seconds: u64;
    /// Largest document in bytes. Default 524288, which every kind of storage behind a store takes.
    max_value_bytes: u64;
}

impl OpenBaoSettings {
    /// From this process' environment.
    ///
    /// # Errors
    /// [`SettingsError::Variable`] when one is not UTF-8 or has another form than it should.
    pub fn from_environment() -> Result<Self, SettingsError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// From any environment. An empty variable is one that is not set.
    ///
    /// # Errors
    /// As [`OpenBaoSettings::from_environment`].
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, SettingsError> {
        let layer = |prefix: &str| {
            let mut layer = Self::default();
            for setting in Self::ALL {
                for name in setting.variables().into_iter().filter(|name| name.starts_with(prefix)) {
                    let Some(value) = get(&name).filter(|value| !value.is_empty()) else { continue };
                    let text = value.to_str().ok_or("it is not UTF-8");
                    let set = text.and_then(|text| layer.set(setting, text));
                    set.map_err(|why| SettingsError::Variable { name, why })?;
                }
            }
            Ok(layer)
        };
        // `OPENBAO_` does not begin with `BAO_`.
        FALLBACKS.iter().try_fold(layer(PREFIX)?, |upper, prefix| Ok(upper.or(layer(prefix)?)))
    }

    /// From a file: TOML, YAML or JSON by the end of its name.
    ///
    /// # Errors
    /// [`SettingsError::File`] when it cannot be read, or has a key that there is not. The text names the place in the
    /// file, never a value.
    pub fn from_file(file: &Path) -> Result<Self, SettingsError> {
        let failed = |why: String| SettingsError::File { file: file.to_owned(), why };
        let text =
            std::fs::read_to_string(file).map(zeroize::Zeroizing::new).map_err(|e| failed(e.to_string()))?;
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        // Messages of parsers may repeat the line, with a token in it.
        let value: serde_json::Value = match ending {
            "toml" => toml::from_str(&text).map_err(|error| {
                let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
                failed(format!("it is no TOML, near line {line}"))
            })?,
            "yaml" | "yml" => {
                serde_saphyr::from_str(&text).map_err(|_| failed("it is no YAML".to_owned()))?
            }
            "json" => serde_json::from_str(&text)
                .map_err(|error| failed(format!("it is no JSON, near line {}", error.line())))?,
            _ => return Err(failed("its name ends in none of .toml, .yaml, .yml, .json".to_owned())),
        };
        serde_path_to_error::deserialize(&value).map_err(|error| {
            let key = error.path().to_string();
            match Self::ALL
                .iter()
                .find(|setting| setting.key() == key.split(['.', '[']).next().unwrap_or_default())
            {
                Some(setting) => {
                    failed(format!("`{key}` has another type or value than it may: {}", setting.description))
                }
                None => {
                    let keys: Vec<_> = Self::ALL.iter().map(Setting::key).collect();
                    failed(format!("it has a key that there is not ({key}). There are: {}", keys.join(", ")))
                }
            }
        })
    }

    /// Environment first, then the file.
    ///
    /// # Errors
    /// As both of them.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let upper = Self::from_environment()?;
        file.map_or(Ok(upper.clone()), |file| Ok(upper.or(Self::from_file(file)?)))
    }

    /// How to log in, as far as these settings say so.
    pub(super) fn method(&self) -> Option<LoginMethod> {
        let chosen = [
            (self.token.is_some() || self.token_file.is_some(), LoginMethod::Token),
            (self.username.is_some(), LoginMethod::Userpass),
            (self.role_id.is_some(), LoginMethod::Approle),
            (self.jwt_file.is_some(), LoginMethod::Jwt),
            (self.oidc_issuer.is_some(), LoginMethod::Oidc),
        ];
        self.auth.or_else(|| chosen.into_iter().find_map(|(given, method)| given.then_some(method)))
    }

    /// Every way to set each of these fields, a line each.
    pub(super) fn ways(fields: &[&str]) -> String {
        let mut text = String::new();
        for setting in Self::ALL.iter().filter(|setting| fields.is_empty() || fields.contains(&setting.field))
        {
            let (variables, key) = (setting.variables().join(", "), setting.key());
            let _ = write!(text, "\n  {variables}, or `{key}` in the file: {}", setting.description);
        }
        text
    }
}

/// A value in a variable.
trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, &'static str>;
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        Ok(text.to_owned())
    }
}

impl FromText for Secret {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        Ok(Self::new(text.to_owned()))
    }
}

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        Ok(text.into())
    }
}

impl FromText for Vec<String> {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }
}

impl FromText for bool {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err("expected true or false"),
        }
    }
}

impl FromText for u64 {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        text.parse().map_err(|_| "expected a whole number")
    }
}

impl FromText for LoginMethod {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        let all = [Self::Token, Self::Userpass, Self::Approle, Self::Kubernetes, Self::Jwt, Self::Oidc];
        let found = all.into_iter().find(|method| method.as_str() == text);
        found.ok_or("expected token, userpass, approle, kubernetes, jwt or oidc")
    }
}

impl FromText for ProviderToken {
    fn from_text(text: &str) -> Result<Self, &'static str> {
        match text {
            "access" => Ok(Self::Access),
            "id" => Ok(Self::Id),
            _ => Err("expected access or id"),
        }
    }
}

#[cfg(test)]
#[path = "tests/settings.rs"]
mod tests;
