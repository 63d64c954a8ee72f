//! Credentials for registries, from a pod's `imagePullSecrets`. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_wire::message::BundleSecret;
use serde::Deserialize;

use super::ImageName;
use crate::runtime::RegistryAuth;

/// Why a pull secret is of no use. Never shows its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullSecretError {
    /// It is of another type.
    #[error("pull secret {0} has neither .dockerconfigjson nor .dockercfg")]
    Type(String),
    /// It cannot be read.
    #[error("pull secret {0} is not a Docker configuration")]
    Malformed(String),
}

/// Credentials by where they are for.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Vec<(Pattern, RegistryAuth)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    host: String,
    path: String,
}

#[derive(Deserialize)]
struct ConfigJson {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

impl Keyring {
    /// Adds the credentials of a Secret.
    pub fn add(&mut self, name: &str, secret: &BundleSecret) -> Result<(), PullSecretError> {
        let malformed = || PullSecretError::Malformed(name.to_owned());
        let entries = if let Some(config) = secret.data.get(".dockerconfigjson") {
            serde_json::from_slice::<ConfigJson>(&config.0).map_err(|_| malformed())?.auths
        } else if let Some(config) = secret.data.get(".dockercfg") {
            serde_json::from_slice(&config.0).map_err(|_| malformed())?
        } else {
            return Err(PullSecretError::Type(name.to_owned()));
        };
        for (server, entry) in entries {
            let auth = entry.credential().ok_or_else(malformed)?;
            self.0.push((Pattern::parse(&server), auth));
        }
        // The most specific path is tried first.
        self.0.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.path.len()));
        Ok(())
    }

    /// Credentials that may open this image, most specific first.
    pub fn matching(&self, image: &ImageName) -> Vec<RegistryAuth> {
        self.0.iter().filter(|(pattern, _)| pattern.matches(image)).map(|(_, auth)| auth.clone()).collect()
    }
}

impl Entry {
    fn credential(self) -> Option<RegistryAuth> {
        if self.auth.is_empty() {
            return Some(RegistryAuth { username: self.username, password: self.password });
        }
        let decoded = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        let password = password.trim_end_matches('\0').to_owned();
        Some(RegistryAuth { username: username.to_owned(), password })
    }
}

impl Pattern {
    fn parse(server: &str) -> Self {
        let server = server.trim_start_matches("https://").trim_start_matches("http://");
        let (host, path) = server.split_once('/').unwrap_or((server, ""));
        let path = path.trim_end_matches('/');
        // Docker Hub under its old names, where a path means the version of its API.
        let (host, path) = match host {
            "index.docker.io" | "registry-1.docker.io" => ("docker.io", ""),
            _ => (host, path),
        };
        Self { host: host.to_owned(), path: path.to_owned() }
    }

    fn matches(&self, image: &ImageName) -> bool {
        let path = image.path();
        let below = self.path.is_empty()
            || path == self.path
            || path.strip_prefix(&self.path).is_some_and(|rest| rest.starts_with('/'));
        below && glob(&self.host, image.registry())
    }
}

/// `*` stands for one label of a host.
fn glob(pattern: &str, host: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == host;
    }
    let (pattern, host): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.len() == host.len()
        && pattern.iter().zip(&host).all(|(pattern, label)| match pattern.split_once('*') {
            Some((before, after)) => {
                label.len() >= before.len() + after.len()
                    && label.starts_with(before)
                    && label.ends_with(after)
            }
            None => pattern == label,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(json: &str) -> BundleSecret {
        BundleSecret {
            type_: "kubernetes.io/dockerconfigjson".to_owned(),
            data: BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))]),
        }
    }

    #[test]
    fn the_most_specific_credential_comes_first() {
        let mut keyring = Keyring::default();
        let json = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOjE="},
            "ghcr.io":{"username":"all","password":"2"},
            "ghcr.io/team":{"username":"team","password":"3"},
            "*.example.com":{"username":"any","password":"4"}}}"#;
        keyring.add("s", &secret(json)).unwrap();
        let users = |image: &str| -> Vec<String> {
            let matching = keyring.matching(&ImageName::parse(image).unwrap());
            matching.into_iter().map(|auth| auth.username).collect()
        };
        assert_eq!(users("nginx"), ["hub"]);
        assert_eq!(users("ghcr.io/team/app"), ["team", "all"]);
        assert_eq!(users("ghcr.io/teamwork/app"), ["all"]);
        assert_eq!(users("r.example.com/x"), ["any"]);
        assert!(users("a.b.example.com/x").is_empty());
    }

    #[test]
    fn unreadable_secrets_are_told_without_their_content() {
        let mut keyring = Keyring::default();
        let error = keyring.add("s", &secret("{\"auths\": hunter2")).unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert!(keyring.add("s", &BundleSecret::default()).is_err());
    }
}
