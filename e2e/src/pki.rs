//! The keys and certificates of a throw-away cluster, ECDSA P-256 throughout.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// A folder of PEM files; each name stands for `<name>.crt` and `<name>.key`.
#[derive(Debug, Clone)]
pub struct Pki {
    folder: PathBuf,
}

/// Whom a client certificate names: Kubernetes reads CN as user, O as groups.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The user.
    pub user: &'a str,
    /// The group, if any.
    pub group: Option<&'a str>,
}

impl Pki {
    /// The keys of the fleet in `fleet`; makes the folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(fleet: &Path) -> Result<Self> {
        let folder = fleet.join("pki");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// The path of a certificate.
    #[must_use]
    pub fn cert(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.crt"))
    }

    /// The path of a private key (PKCS #8).
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }

    /// Makes a certificate authority.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn authority(&self, name: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        self.write(name, &authority_params(name).self_signed(&key)?.pem(), &key)
    }

    /// Makes a client certificate, signed by the authority `authority`.
    ///
    /// # Errors
    /// When the authority does not exist or a file cannot be written.
    pub fn client(&self, authority: &str, name: &str, subject: Subject<'_>) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(subject);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(authority, name, params)
    }

    /// Makes a serving certificate for names and addresses.
    ///
    /// # Errors
    /// As [`Pki::client`], or when a name is no DNS name.
    pub fn server(&self, authority: &str, name: &str, dns: &[&str], addresses: &[Ipv4Addr]) -> Result<()> {
        // An IP literal in this list becomes an address, not a DNS name.
        let names = dns.iter().map(ToString::to_string);
        let names: Vec<String> = names.chain(addresses.iter().map(ToString::to_string)).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = distinguished(Subject { user: name, group: None });
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(authority, name, params)
    }

    /// Makes a bare key pair: `<name>.key` and `<name>.pub`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn key_pair(&self, name: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        write_private(&self.key(name), &key.serialize_pem())?;
        Ok(fs::write(self.public(name), key.public_key_pem())?)
    }

    /// The path of a bare public key.
    #[must_use]
    pub fn public(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pub"))
    }

    /// Writes a kubeconfig for a client certificate and gives its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, name: &str, server: &str, authority: &str) -> Result<PathBuf> {
        let user = serde_json::json!({
            "client-certificate": self.cert(name),
            "client-key": self.key(name),
        });
        let path = self.folder.join(format!("{name}.kubeconfig"));
        write_private(&path, &kubeconfig(server, &self.cert(authority), &user)?)?;
        Ok(path)
    }

    /// Writes a kubeconfig for a bearer token and gives its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn token_kubeconfig(
        &self,
        name: &str,
        server: &str,
        authority: &str,
        token: &str,
    ) -> Result<PathBuf> {
        let user = serde_json::json!({ "token": token });
        let path = self.folder.join(format!("{name}.kubeconfig"));
        write_private(&path, &kubeconfig(server, &self.cert(authority), &user)?)?;
        Ok(path)
    }

    fn sign(&self, authority: &str, name: &str, mut params: CertificateParams) -> Result<()> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let path = self.key(authority);
        let pem =
            fs::read_to_string(&path).with_context(|| format!("no authority key {}", path.display()))?;
        let issuer = Issuer::new(authority_params(authority), KeyPair::from_pem(&pem)?);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &issuer)?;
        self.write(name, &cert.pem(), &key)
    }

    fn write(&self, name: &str, cert: &str, key: &KeyPair) -> Result<()> {
        fs::write(self.cert(name), cert)?;
        write_private(&self.key(name), &key.serialize_pem())
    }
}

/// Writes a file that only its owner can read.
///
/// # Errors
/// When the file cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options.open(path).with_context(|| format!("writing {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

fn distinguished(subject: Subject<'_>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = subject.group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, subject.user);
    name
}

/// The same for a name every time: signing needs them again, and reading them back
/// out of the certificate would take an X.509 parser.
fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = distinguished(Subject { user: name, group: None });
    params
}

/// JSON is YAML, and every client reads it.
fn kubeconfig(server: &str, authority: &Path, user: &serde_json::Value) -> Result<String> {
    let value = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "harmony-fleet",
            "cluster": { "server": server, "certificate-authority": authority },
        }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{
            "name": "harmony-fleet",
            "context": { "cluster": "harmony-fleet", "user": "user" },
        }],
        "current-context": "harmony-fleet",
    });
    Ok(serde_json::to_string_pretty(&value)?)
}
