//! The credential of a process of the cluster side: a file as everybody has it, or settings that say the same.

use std::path::PathBuf;

use super::{CaSource, DeviceCredential, NkeySeed, TokenSource};
use crate::settings::{Checks, NatsUrl};

/// What the settings say of it. Keys have these names, with dashes.
#[derive(Debug, Default)]
pub struct Given {
    /// A credential's file, which says all of it.
    pub nats_credential_file: Option<PathBuf>,
    /// NATS server.
    pub nats_url: Option<NatsUrl>,
    /// Its CA.
    pub nats_ca_file: Option<PathBuf>,
    /// The seed of the key.
    pub nats_seed_file: Option<PathBuf>,
    /// A token that somebody renews.
    pub nats_token_file: Option<PathBuf>,
}

impl Given {
    /// The credential that they mean; `None` if something is missing, cannot be read, or is said twice, which `checks`
    /// then has.
    #[must_use]
    pub fn resolve(self, checks: &mut Checks<'_>) -> Option<DeviceCredential> {
        if let Some(file) = self.nats_credential_file {
            let twice = [
                ("nats-url", self.nats_url.is_some()),
                ("nats-ca-file", self.nats_ca_file.is_some()),
                ("nats-seed-file", self.nats_seed_file.is_some()),
                ("nats-token-file", self.nats_token_file.is_some()),
            ];
            if let Some((key, _)) = twice.into_iter().find(|(_, given)| *given) {
                let expected = format!("no `{key}` beside it: the file says that, too");
                checks.invalid("nats-credential-file", file.display(), &expected);
                return None;
            }
            let loaded = DeviceCredential::load(&file);
            return loaded
                .map_err(|error| {
                    checks.invalid("nats-credential-file", file.display(), &format!("a credential; {error}"));
                })
                .ok();
        }
        let key = match &self.nats_seed_file {
            Some(file) => NkeySeed::from_file(file)
                .and_then(|key| key.key_pair().map(|_| key))
                .map_err(|error| {
                    let expected = format!("a file that can be read and holds a key; {error}");
                    checks.invalid("nats-seed-file", file.display(), &expected);
                })
                .ok(),
            // A key that nobody knows is a login only together with a token.
            None if self.nats_token_file.is_none() => {
                let expected =
                    "a file with a token for NATS; or set nats-credential-file in the place of all";
                checks.missing("nats-token-file", expected);
                None
            }
            None => NkeySeed::random()
                .map_err(|error| checks.invalid("nats-seed-file", "", &error.to_string()))
                .ok(),
        };
        let nats_url = checks.required("nats-url", self.nats_url, "nats://host:port or tls://host:port");
        Some(DeviceCredential {
            nats_url: nats_url?.into(),
            nats_ca: self.nats_ca_file.map(CaSource::File),
            key: key?,
            token: self.nats_token_file.map(TokenSource::File),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::settings::{Origins, SettingsError};

    fn resolved(given: Given) -> Result<DeviceCredential, SettingsError> {
        let origins = Origins::default();
        let mut checks = Checks::new(&origins);
        let credential = given.resolve(&mut checks);
        checks.done().map(|()| credential.unwrap())
    }

    #[test]
    fn a_pods_file_says_all_that_its_settings_would_and_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credential.toml");
        let text = "nats-url = \"tls://nats:4222\"\nnats-ca-file = \"/ca.crt\"\n[token]\nfile = \"token\"\n";
        fs::write(&file, text).unwrap();
        // As a ConfigMap is mounted.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let given = || Given { nats_credential_file: Some(file.clone()), ..Given::default() };
        let of_file = resolved(given()).unwrap();
        let of_settings = Given {
            nats_url: Some("tls://nats:4222".parse().unwrap()),
            nats_ca_file: Some("/ca.crt".into()),
            nats_token_file: Some(dir.path().join("token")),
            ..Given::default()
        };
        let of_settings = resolved(of_settings).unwrap();
        let said = |credential: &DeviceCredential| {
            let Some(TokenSource::File(token)) = &credential.token else { panic!("{credential:?}") };
            (credential.nats_url.clone(), credential.nats_ca.clone(), token.clone())
        };
        assert_eq!(said(&of_file), said(&of_settings));
        let key = |credential: &DeviceCredential| credential.key.key_pair().unwrap().public_key();
        assert_ne!(key(&of_file), key(&resolved(given()).unwrap()), "each process has a key of its own");

        let twice = Given { nats_url: Some("tls://other:4222".parse().unwrap()), ..given() };
        let error = resolved(twice).unwrap_err().to_string();
        assert!(error.contains("nats-credential-file") && error.contains("nats-url"), "{error}");
    }

    #[test]
    fn a_key_that_nobody_knows_needs_a_token() {
        let given = || Given { nats_url: Some("tls://nats:4222".parse().unwrap()), ..Given::default() };
        assert!(resolved(given()).unwrap_err().to_string().contains("nats-token-file"));
        let nowhere = Given { nats_token_file: Some("token".into()), ..Given::default() };
        assert!(resolved(nowhere).unwrap_err().to_string().contains("nats-url"));
    }
}
