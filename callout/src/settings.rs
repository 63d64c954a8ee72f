//! How this process is set up: file, environment, flags; checked at the start.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use fleet_daemon::{
    nats::NkeySeed,
    settings::{Checks, Daemon, NatsUrl, Origins, Seconds, SettingsError},
    telemetry::{LogFormat, LogLevel},
    text_setting,
};
use fleet_wire::enrollment::RECORDS_NAMESPACE;
use harmony_config::Config;
use nkeys::XKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{claims::Issuer, decide::Component};

/// Settings as they are given. Every key may stand in the settings file, in the environment as `CALLOUT_<KEY>`, or be
/// a flag; flags win over the environment, the environment over the file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Callout {
    /// Kubeconfig of the process's own account; without it the in-cluster account is used.
    #[schemars(extend("x-value-name" = "FILE"))]
    pub kubeconfig: Option<PathBuf>,
    /// The fleet's own namespace, where the service accounts of vk-nats and the enroller are.
    #[serde(default = "namespace")]
    pub namespace: String,
    /// Namespace of the enrollment records, which holds nothing else.
    #[serde(default = "records_namespace")]
    pub records_namespace: String,
    /// NATS server, e.g. tls://nats.example:4222; several are separated by commas.
    pub nats_url: NatsUrl,
    /// CA of the NATS server's certificate (PEM); setting it makes the connection TLS.
    pub nats_ca_file: Option<PathBuf>,
    /// File with the seed of this process's NATS user (SU…), one of nats-server's auth_users.
    #[schemars(extend("x-expected" = "a file with the seed of an nkey (SU…)"))]
    pub nats_seed_file: PathBuf,
    /// File with the seed of the account key (SA…) that signs users: nats-server's `issuer`.
    #[schemars(extend("x-expected" = "a file with a seed (SA…)"))]
    pub issuer_seed_file: PathBuf,
    /// File with the seed of the curve key (SX…) that opens requests: nats-server's `xkey`.
    #[schemars(extend("x-expected" = "a file with a seed (SX…)"))]
    pub xkey_seed_file: PathBuf,
    /// Files with seeds of account keys besides issuer-seed-file, for the time of a rotation: servers that name one
    /// of them as `issuer` are answered, too. Those that do not exist are left out.
    #[serde(default)]
    pub issuer_spare_seed_files: Vec<PathBuf>,
    /// Files with seeds of curve keys besides xkey-seed-file, for the time of a rotation. Those that do not exist
    /// are left out.
    #[serde(default)]
    pub xkey_spare_seed_files: Vec<PathBuf>,
    /// NATS account that everybody is put into.
    #[serde(default = "account")]
    pub account: String,
    /// Seconds after which a connection has to be authorized again, between 5/6 and 5/4 of it: 5 to 3600. With more, a
    /// revoked device that nobody kicked would stay too long.
    #[serde(default = "lifetime")]
    #[schemars(range(min = 5, max = 3600))]
    pub jwt_lifetime: Seconds,
    /// Whether devices that nobody knows may ask for membership.
    #[serde(default)]
    pub device_requests: bool,
    /// Audience of the components' service-account tokens.
    #[serde(default = "audience")]
    pub token_audience: String,
    /// Which service account is which component, e.g.
    /// system:serviceaccount:harmony-fleet:vk-nats=cluster-side (or =enroller) [default: vk-nats and
    /// enroller of the fleet's namespace].
    pub components: Option<Vec<Account>>,
    /// Issuer of devices' tokens (its URL); without it no device logs in with a token.
    #[schemars(extend("x-value-name" = "URL"))]
    pub oidc_device_issuer: Option<String>,
    /// Audience of devices' tokens.
    pub oidc_device_audience: Option<String>,
    /// CA of that issuer (PEM) [default: the system's].
    pub oidc_device_ca_file: Option<PathBuf>,
    /// Issuer of persons' tokens (its URL); without it no person logs in.
    #[schemars(extend("x-value-name" = "URL"))]
    pub oidc_person_issuer: Option<String>,
    /// Audience of persons' tokens.
    pub oidc_person_audience: Option<String>,
    /// CA of that issuer (PEM) [default: the system's].
    pub oidc_person_ca_file: Option<PathBuf>,
    /// Claim with a person's roles.
    #[serde(default = "roles_claim")]
    pub oidc_roles_claim: String,
    /// Role that makes a person an administrator.
    #[serde(default = "admin_role")]
    pub oidc_admin_role: String,
    /// Address of /healthz, /readyz and /metrics, e.g. 0.0.0.0:8080; without it there are none.
    #[schemars(extend("x-value-name" = "ADDR:PORT", "x-expected" = "an address and a port, e.g. 0.0.0.0:8080"))]
    pub health_listen: Option<SocketAddr>,
    /// Format of the log.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Level of the log, or a filter such as info,audit=off.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Seconds that open work may take after a signal.
    #[serde(default = "grace")]
    pub shutdown_grace: Seconds,
}

impl Daemon for Callout {
    const PREFIX: &'static str = "CALLOUT_";
}

fn namespace() -> String {
    "harmony-fleet".to_owned()
}

fn records_namespace() -> String {
    RECORDS_NAMESPACE.to_owned()
}

fn account() -> String {
    "FLEET".to_owned()
}

fn lifetime() -> Seconds {
    Seconds(720)
}

fn audience() -> String {
    "nats".to_owned()
}

fn roles_claim() -> String {
    "urn:zitadel:iam:org:project:roles".to_owned()
}

fn admin_role() -> String {
    "fleet-admin".to_owned()
}

fn grace() -> Seconds {
    Seconds(10)
}

/// A service account, and which component it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As the API server names it.
    name: String,
    component: Component,
}

/// Why a text is no [`Account`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected system:serviceaccount:<namespace>:<name>=cluster-side or …=enroller")]
pub struct AccountError;

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let (name, component) = text.split_once('=').ok_or(AccountError)?;
        let parts: Vec<&str> = name.split(':').collect();
        let ["system", "serviceaccount", namespace, account] = parts[..] else { return Err(AccountError) };
        if namespace.is_empty() || account.is_empty() {
            return Err(AccountError);
        }
        let component = match component {
            "cluster-side" => Component::ClusterSide,
            "enroller" => Component::Enroller,
            _ => return Err(AccountError),
        };
        Ok(Self { name: name.to_owned(), component })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let component = match self.component {
            Component::ClusterSide => "cluster-side",
            Component::Enroller => "enroller",
        };
        write!(f, "{}={component}", self.name)
    }
}

text_setting!(
    Account,
    "ACCOUNT=COMPONENT",
    "system:serviceaccount:<namespace>:<name>=cluster-side or …=enroller"
);

/// An identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuing {
    /// Its URL, as tokens name it.
    pub issuer: String,
    /// Who its tokens must be meant for.
    pub audience: String,
    /// Its CA; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Claim with roles.
    pub roles_claim: String,
}

/// Settings that were checked.
#[derive(Debug)]
pub struct Settings {
    /// Kubeconfig, or in-cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Where the records are.
    pub records_namespace: String,
    /// NATS server.
    pub nats_url: String,
    /// Its CA.
    pub nats_ca_file: Option<PathBuf>,
    /// The own NATS user.
    pub nats_seed: NkeySeed,
    /// Signs users.
    pub issuer: Issuer,
    /// Sign, too: the issuers on the other side of a rotation.
    pub spare_issuers: Vec<Issuer>,
    /// Open requests: the present key, and those on the other side of a rotation.
    pub curves: Vec<XKey>,
    /// Lifetime of users.
    pub jwt_lifetime: Duration,
    /// Whether devices may ask for membership.
    pub device_requests: bool,
    /// Audience of components' tokens.
    pub token_audience: String,
    /// Which account is which component.
    pub components: BTreeMap<String, Component>,
    /// Devices' identity provider.
    pub oidc_device: Option<Issuing>,
    /// Persons' identity provider.
    pub oidc_person: Option<Issuing>,
    /// The administrators' role.
    pub admin_role: String,
    /// Where health is served.
    pub health_listen: Option<SocketAddr>,
    /// Deadline of the shutdown.
    pub shutdown_grace: Duration,
}

impl Callout {
    /// Checks what no type can say, and reads the key files.
    ///
    /// # Errors
    /// [`SettingsError`] with all that is wrong: the key, the value, where it was given and what was expected.
    pub fn check(self, origins: &Origins) -> Result<Settings, SettingsError> {
        let mut checks = Checks::new(origins);
        let nats_seed = NkeySeed::from_file(&self.nats_seed_file).map_err(|error| {
            checks.invalid("nats-seed-file", self.nats_seed_file.display(), &because(&error));
        });
        let issuer = issuer_from("issuer-seed-file", &self.issuer_seed_file, &self.account, &mut checks);
        let curve = curve_from("xkey-seed-file", &self.xkey_seed_file, &mut checks);
        let key = "issuer-spare-seed-files";
        let spare_issuers = existing(self.issuer_spare_seed_files)
            .filter_map(|file| issuer_from(key, &file, &self.account, &mut checks))
            .collect();
        let key = "xkey-spare-seed-files";
        let spare_curves = existing(self.xkey_spare_seed_files);
        let spare_curves: Vec<_> =
            spare_curves.filter_map(|file| curve_from(key, &file, &mut checks)).collect();
        let device = (self.oidc_device_issuer, self.oidc_device_audience, self.oidc_device_ca_file);
        let oidc_device = issuing("oidc-device", device, &self.oidc_roles_claim, &mut checks);
        let person = (self.oidc_person_issuer, self.oidc_person_audience, self.oidc_person_ca_file);
        let oidc_person = issuing("oidc-person", person, &self.oidc_roles_claim, &mut checks);
        if let (Some(device), Some(person)) = (&oidc_device, &oidc_person)
            && (&device.issuer, &device.audience) == (&person.issuer, &person.audience)
        {
            checks.invalid(
                "oidc-person-audience",
                &person.audience,
                "another audience than oidc-device-audience, since both have one issuer: a device's token must not pass as a person's",
            );
        }
        let (Ok(nats_seed), Some(issuer), Some(curve)) = (nats_seed, issuer, curve) else {
            return Err(checks.refused());
        };
        checks.done()?;
        Ok(Settings {
            kubeconfig: self.kubeconfig,
            records_namespace: self.records_namespace,
            nats_url: self.nats_url.into(),
            nats_ca_file: self.nats_ca_file,
            nats_seed,
            issuer,
            spare_issuers,
            curves: std::iter::once(curve).chain(spare_curves).collect(),
            jwt_lifetime: self.jwt_lifetime.into(),
            device_requests: self.device_requests,
            token_audience: self.token_audience,
            components: match self.components {
                Some(accounts) => {
                    accounts.into_iter().map(|account| (account.name, account.component)).collect()
                }
                None => default_components(&self.namespace),
            },
            oidc_device,
            oidc_person,
            admin_role: self.oidc_admin_role,
            health_listen: self.health_listen,
            shutdown_grace: self.shutdown_grace.into(),
        })
    }
}

fn issuer_from(key: &str, file: &Path, account: &str, checks: &mut Checks<'_>) -> Option<Issuer> {
    let seed = read(key, file, checks)?;
    let issuer = Issuer::new(&seed, account);
    issuer.map_err(|error| checks.invalid(key, file.display(), &because(&error))).ok()
}

fn curve_from(key: &str, file: &Path, checks: &mut Checks<'_>) -> Option<XKey> {
    // What nkeys says could repeat parts of the seed.
    let curve = XKey::from_seed(read(key, file, checks)?.trim());
    let expected = "a file with the seed of a curve key (SX…)";
    curve.map_err(|_| checks.invalid(key, file.display(), expected)).ok()
}

/// Outside of a rotation none of them is there. One that cannot be looked at is no missing one.
fn existing(files: Vec<PathBuf>) -> impl Iterator<Item = PathBuf> {
    files.into_iter().filter(|file| file.try_exists().unwrap_or(true))
}

fn read(key: &str, file: &Path, checks: &mut Checks<'_>) -> Option<Zeroizing<String>> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    text.map_err(|error| checks.invalid(key, file.display(), &because(&error))).ok()
}

fn because(error: &dyn std::error::Error) -> String {
    format!("a file that can be read and holds a seed; {error}")
}

fn default_components(namespace: &str) -> BTreeMap<String, Component> {
    BTreeMap::from([
        (format!("system:serviceaccount:{namespace}:vk-nats"), Component::ClusterSide),
        (format!("system:serviceaccount:{namespace}:enroller"), Component::Enroller),
    ])
}

/// What three settings say: issuer, audience and CA.
fn issuing(
    prefix: &str,
    (issuer, audience, ca_file): (Option<String>, Option<String>, Option<PathBuf>),
    roles_claim: &str,
    checks: &mut Checks<'_>,
) -> Option<Issuing> {
    let Some(issuer) = issuer else {
        if audience.is_some() || ca_file.is_some() {
            let expected = "the issuer's URL, since its audience or CA is set";
            checks.missing(&format!("{prefix}-issuer"), expected);
        }
        return None;
    };
    let key = format!("{prefix}-audience");
    let audience = checks.required(&key, audience, "the audience of its tokens")?;
    if audience.trim().is_empty() {
        checks.invalid(&key, audience, "an audience that is not empty");
        return None;
    }
    Some(Issuing { issuer, audience, ca_file, roles_claim: roles_claim.to_owned() })
}

#[cfg(test)]
#[path = "tests/settings.rs"]
mod tests;
