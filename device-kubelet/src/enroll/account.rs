//! The account at an identity provider that an intent brings along: files that only the agent reads, and where
//! the credential finds them.
//!
//! It never asks the provider: whether the account is good shows when the device logs in.

use std::path::Path;

use fleet_daemon::credential::TokenSource;
use fleet_wire::enrollment::DeviceAccount;

use super::EnrollError;
#[cfg(feature = "oidc")]
use crate::keys;

/// The folder, in the data folder.
#[cfg(feature = "oidc")]
const FOLDER: &str = "identity-provider";

/// Writes what the account takes, in the place of what was there before, and gives the source of tokens.
///
/// # Errors
/// When a file cannot be written, or what was carried makes no account.
#[cfg(feature = "oidc")]
pub fn install(data_dir: &Path, account: &DeviceAccount) -> Result<TokenSource, EnrollError> {
    use fleet_daemon::oidc::{MachineLogin, MachineLoginSettings};
    use fleet_wire::enrollment::AccountProof;

    let folder = data_dir.join(FOLDER);
    keys::private_directory(&folder)
        .map_err(|source| EnrollError::AccountFolder { folder: folder.clone(), source })?;
    let write = |name: &str, content: &str| {
        let file = folder.join(name);
        keys::replace_private(&file, content.as_bytes()).map(|()| file)
    };
    let ca_file = account.issuer.ca.as_ref().map(|ca| write("ca.pem", ca)).transpose()?;
    let (key_file, client) = match &account.proof {
        AccountProof::KeyFile(key) => (Some(write("key.json", key.reveal())?), None),
        AccountProof::Client { id, secret } => (None, Some((id.clone(), write("secret", secret.reveal())?))),
    };
    let (client_id, client_secret_file) = client.unzip();
    let login = MachineLogin::new(MachineLoginSettings {
        issuer: account.issuer.issuer.clone(),
        client_id,
        audience: account.issuer.audience.clone(),
        scopes: account.issuer.scopes.clone(),
        key_file,
        client_secret_file,
        ca_file,
    });
    login.map(TokenSource::Oidc).map_err(|error| EnrollError::Account(error.to_string()))
}

/// This agent was built without such logins.
///
/// # Errors
/// Always.
#[cfg(not(feature = "oidc"))]
pub fn install(_: &Path, _: &DeviceAccount) -> Result<TokenSource, EnrollError> {
    Err(EnrollError::Account("this agent was built without the feature `oidc`".to_owned()))
}

#[cfg(all(test, feature = "oidc"))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use fleet_daemon::credential::{DeviceCredential, NkeySeed};
    use fleet_wire::enrollment::{AccountProof, Carried, DeviceIssuer};

    use super::*;

    fn account(proof: AccountProof) -> DeviceAccount {
        let issuer = DeviceIssuer {
            issuer: "https://id.example".into(),
            scopes: vec!["openid".into()],
            audience: None,
            ca: None,
        };
        DeviceAccount { issuer, proof }
    }

    #[test]
    fn an_account_becomes_private_files_that_the_credential_names() {
        fleet_daemon::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credential.toml");
        let key = AccountProof::KeyFile(Carried::new("{\"key\":\"s3cret\"}"));
        let client = AccountProof::Client { id: "pi-7".into(), secret: Carried::new("s3cret") };
        for (proof, name, line) in [
            (key, "key.json", "key-file = \"identity-provider/key.json\""),
            (client, "secret", "client-secret-file = \"identity-provider/secret\""),
        ] {
            let token = Some(install(dir.path(), &account(proof)).unwrap());
            let written = dir.path().join(FOLDER).join(name);
            assert_eq!(std::fs::metadata(&written).unwrap().permissions().mode() & 0o777, 0o600);
            let key = NkeySeed::random().unwrap();
            DeviceCredential { nats_url: "nats://a:1".into(), nats_ca: None, key, token }
                .store(&file)
                .unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(line) && !text.contains("s3cret"), "{text}");
            assert!(DeviceCredential::load(&file).unwrap().token.is_some());
        }
    }

    #[test]
    fn an_account_that_can_never_work_is_refused_before_anybody_is_asked() {
        fleet_daemon::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let mut account = account(AccountProof::KeyFile(Carried::new("{}")));
        account.issuer.issuer = "http://id.example".into();
        let error = install(dir.path(), &account).unwrap_err().to_string();
        assert!(error.contains("https://"), "{error}");
    }
}
