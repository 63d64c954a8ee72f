//! How this process is set up: file, environment, flags; checked at the start.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use fleet_daemon::{
    nats::NkeySeed,
    settings::{Seconds, SettingsError, invalid, parse, required},
    telemetry::LogFormat,
};
use fleet_wire::enrollment::RECORDS_NAMESPACE;
use nkeys::XKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{claims::Issuer, decide::Component};

/// Settings as they are given. Every key may stand in the settings file (TOML), in the environment as
/// `CALLOUT_<KEY>`, or be a flag; flags win over the environment, the environment over the file.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Flags {
    /// Kubeconfig of the process's own account; without it the in-cluster account is used.
    #[arg(long, env = "CALLOUT_KUBECONFIG", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The fleet's own namespace, where its service accounts are [default: harmony-fleet].
    #[arg(long, env = "CALLOUT_NAMESPACE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Namespace of the enrollment records, which holds nothing else [default: harmony-fleet-devices].
    #[arg(long, env = "CALLOUT_RECORDS_NAMESPACE", value_name = "NAMESPACE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_namespace: Option<String>,
    /// NATS server, e.g. tls://nats.example:4222.
    #[arg(long, env = "CALLOUT_NATS_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_url: Option<String>,
    /// CA of the NATS server's certificate (PEM); setting it makes the connection TLS.
    #[arg(long, env = "CALLOUT_NATS_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_ca_file: Option<PathBuf>,
    /// File with the seed of this process's NATS user (SU…), one of nats-server's auth_users.
    #[arg(long, env = "CALLOUT_NATS_SEED_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_seed_file: Option<PathBuf>,
    /// File with the seed of the account key (SA…) that signs users: nats-server's `issuer`.
    #[arg(long, env = "CALLOUT_ISSUER_SEED_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_seed_file: Option<PathBuf>,
    /// File with the seed of the curve key (SX…) that opens requests: nats-server's `xkey`.
    #[arg(long, env = "CALLOUT_XKEY_SEED_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xkey_seed_file: Option<PathBuf>,
    /// Files with seeds of account keys besides issuer-seed-file, for the time of a rotation: servers that name one
    /// of them as `issuer` are answered, too. Those that do not exist are left out.
    #[arg(long, env = "CALLOUT_ISSUER_SPARE_SEED_FILES", value_name = "FILES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_spare_seed_files: Option<Vec<PathBuf>>,
    /// Files with seeds of curve keys besides xkey-seed-file, for the time of a rotation. Those that do not exist
    /// are left out.
    #[arg(long, env = "CALLOUT_XKEY_SPARE_SEED_FILES", value_name = "FILES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xkey_spare_seed_files: Option<Vec<PathBuf>>,
    /// NATS account that everybody is put into [default: FLEET].
    #[arg(long, env = "CALLOUT_ACCOUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Seconds after which a connection has to be authorized again, give or take a fifth [default: 720].
    #[arg(long, env = "CALLOUT_JWT_LIFETIME", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_lifetime: Option<Seconds>,
    /// Whether devices that nobody knows may ask for membership [default: false].
    #[arg(long, env = "CALLOUT_DEVICE_REQUESTS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_requests: Option<bool>,
    /// Audience of the components' service-account tokens [default: nats].
    #[arg(long, env = "CALLOUT_TOKEN_AUDIENCE", value_name = "AUDIENCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_audience: Option<String>,
    /// Which service account is which component, e.g.
    /// system:serviceaccount:harmony-fleet:vk-nats=cluster-side (or =enroller) [default: vk-nats and
    /// enroller of the fleet's namespace].
    #[arg(long, env = "CALLOUT_COMPONENTS", value_name = "ACCOUNT=COMPONENT", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// Issuer of devices' tokens (its URL); without it no device logs in with a token.
    #[arg(long, env = "CALLOUT_OIDC_DEVICE_ISSUER", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_device_issuer: Option<String>,
    /// Audience of devices' tokens.
    #[arg(long, env = "CALLOUT_OIDC_DEVICE_AUDIENCE", value_name = "AUDIENCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_device_audience: Option<String>,
    /// CA of that issuer (PEM) [default: the system's].
    #[arg(long, env = "CALLOUT_OIDC_DEVICE_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_device_ca_file: Option<PathBuf>,
    /// Issuer of persons' tokens (its URL); without it no person logs in.
    #[arg(long, env = "CALLOUT_OIDC_PERSON_ISSUER", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_person_issuer: Option<String>,
    /// Audience of persons' tokens.
    #[arg(long, env = "CALLOUT_OIDC_PERSON_AUDIENCE", value_name = "AUDIENCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_person_audience: Option<String>,
    /// CA of that issuer (PEM) [default: the system's].
    #[arg(long, env = "CALLOUT_OIDC_PERSON_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_person_ca_file: Option<PathBuf>,
    /// Claim with a person's roles [default: urn:zitadel:iam:org:project:roles].
    #[arg(long, env = "CALLOUT_OIDC_ROLES_CLAIM", value_name = "CLAIM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_roles_claim: Option<String>,
    /// Role that makes a person an administrator [default: fleet-admin].
    #[arg(long, env = "CALLOUT_OIDC_ADMIN_ROLE", value_name = "ROLE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_admin_role: Option<String>,
    /// Address of /healthz, /readyz and /metrics, e.g. 0.0.0.0:8080; without it there are none.
    #[arg(long, env = "CALLOUT_HEALTH_LISTEN", value_name = "ADDR:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_listen: Option<String>,
    /// Format of the log [default: text].
    #[arg(long, env = "CALLOUT_LOG_FORMAT", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Level of the log, or a filter such as info,audit=off [default: info].
    #[arg(long, env = "CALLOUT_LOG_LEVEL", value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Seconds that open work may take after a signal [default: 10].
    #[arg(long, env = "CALLOUT_SHUTDOWN_GRACE", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown_grace: Option<Seconds>,
}

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

impl Flags {
    /// Format and level of the log, needed before anything else is checked.
    pub fn log(&self) -> (LogFormat, &str) {
        (self.log_format.unwrap_or(LogFormat::Text), self.log_level.as_deref().unwrap_or("info"))
    }

    /// Checks everything, and reads the key files.
    ///
    /// # Errors
    /// [`SettingsError`], which names the key, the value and what was expected.
    pub fn check(self) -> Result<Settings, SettingsError> {
        let namespace = self.namespace.unwrap_or_else(|| "harmony-fleet".to_owned());
        let seed_file = required("nats-seed-file", self.nats_seed_file, "a file with the seed of an nkey")?;
        let nats_seed = NkeySeed::from_file(&seed_file)
            .map_err(|error| invalid("nats-seed-file", seed_file.display(), &because(&error)))?;
        let account = self.account.unwrap_or_else(|| "FLEET".to_owned());
        let key = "issuer-seed-file";
        let issuer =
            issuer_from(key, &required(key, self.issuer_seed_file, "a file with a seed (SA…)")?, &account)?;
        let key = "xkey-seed-file";
        let mut curves =
            vec![curve_from(key, &required(key, self.xkey_seed_file, "a file with a seed (SX…)")?)?];
        let key = "issuer-spare-seed-files";
        let spare = existing(self.issuer_spare_seed_files).map(|file| issuer_from(key, &file, &account));
        let spare_issuers = spare.collect::<Result<_, _>>()?;
        let key = "xkey-spare-seed-files";
        for file in existing(self.xkey_spare_seed_files) {
            curves.push(curve_from(key, &file)?);
        }
        let lifetime = self.jwt_lifetime.unwrap_or(Seconds(720));
        if !(Seconds(5)..=Seconds(3600)).contains(&lifetime) {
            // Longer, and a revoked device that nobody kicked stays too long.
            return Err(invalid("jwt-lifetime", lifetime, "5 to 3600 seconds"));
        }
        let roles_claim =
            self.oidc_roles_claim.unwrap_or_else(|| "urn:zitadel:iam:org:project:roles".to_owned());
        let oidc_device = issuing(
            "oidc-device",
            self.oidc_device_issuer,
            self.oidc_device_audience,
            self.oidc_device_ca_file,
            &roles_claim,
        )?;
        let oidc_person = issuing(
            "oidc-person",
            self.oidc_person_issuer,
            self.oidc_person_audience,
            self.oidc_person_ca_file,
            &roles_claim,
        )?;
        if let (Some(device), Some(person)) = (&oidc_device, &oidc_person)
            && (&device.issuer, &device.audience) == (&person.issuer, &person.audience)
        {
            return Err(invalid(
                "oidc-person-audience",
                &person.audience,
                "another audience than oidc-device-audience, since both have one issuer: a device's token must not pass as a person's",
            ));
        }
        Ok(Settings {
            kubeconfig: self.kubeconfig,
            records_namespace: self.records_namespace.unwrap_or_else(|| RECORDS_NAMESPACE.to_owned()),
            nats_url: required("nats-url", self.nats_url, "nats://host:port or tls://host:port")?,
            nats_ca_file: self.nats_ca_file,
            nats_seed,
            issuer,
            spare_issuers,
            curves,
            jwt_lifetime: lifetime.into(),
            device_requests: self.device_requests.unwrap_or(false),
            token_audience: self.token_audience.unwrap_or_else(|| "nats".to_owned()),
            components: match self.components {
                Some(components) => parse_components(&components)?,
                None => default_components(&namespace),
            },
            oidc_device,
            oidc_person,
            admin_role: self.oidc_admin_role.unwrap_or_else(|| "fleet-admin".to_owned()),
            health_listen: self
                .health_listen
                .map(|addr| parse("health-listen", &addr, "an address and a port, e.g. 0.0.0.0:8080"))
                .transpose()?,
            shutdown_grace: self.shutdown_grace.unwrap_or(Seconds(10)).into(),
        })
    }
}

fn issuer_from(key: &str, file: &Path, account: &str) -> Result<Issuer, SettingsError> {
    Issuer::new(&read(key, file)?, account).map_err(|error| invalid(key, file.display(), &because(&error)))
}

fn curve_from(key: &str, file: &Path) -> Result<XKey, SettingsError> {
    // What nkeys says could repeat parts of the seed.
    XKey::from_seed(read(key, file)?.trim())
        .map_err(|_| invalid(key, file.display(), "a file with the seed of a curve key (SX…)"))
}

/// Outside of a rotation none of them is there. One that cannot be looked at is no missing one.
fn existing(files: Option<Vec<PathBuf>>) -> impl Iterator<Item = PathBuf> {
    files.into_iter().flatten().filter(|file| file.try_exists().unwrap_or(true))
}

fn read(key: &str, file: &Path) -> Result<Zeroizing<String>, SettingsError> {
    std::fs::read_to_string(file)
        .map(Zeroizing::new)
        .map_err(|error| invalid(key, file.display(), &because(&error)))
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

fn parse_components(components: &[String]) -> Result<BTreeMap<String, Component>, SettingsError> {
    let expected = "system:serviceaccount:<namespace>:<name>=cluster-side or …=enroller";
    components
        .iter()
        .map(|entry| {
            let refused = || invalid("components", entry, expected);
            let (account, component) = entry.split_once('=').ok_or_else(refused)?;
            let parts: Vec<&str> = account.split(':').collect();
            let ["system", "serviceaccount", namespace, name] = parts[..] else { return Err(refused()) };
            if namespace.is_empty() || name.is_empty() {
                return Err(refused());
            }
            let component = match component {
                "cluster-side" => Component::ClusterSide,
                "enroller" => Component::Enroller,
                _ => return Err(refused()),
            };
            Ok((account.to_owned(), component))
        })
        .collect()
}

fn issuing(
    prefix: &str,
    issuer: Option<String>,
    audience: Option<String>,
    ca_file: Option<PathBuf>,
    roles_claim: &str,
) -> Result<Option<Issuing>, SettingsError> {
    let Some(issuer) = issuer else {
        if audience.is_some() || ca_file.is_some() {
            required::<()>(&format!("{prefix}-issuer"), None, "the issuer's URL, since its audience is set")?;
        }
        return Ok(None);
    };
    let audience = required(&format!("{prefix}-audience"), audience, "the audience of its tokens")?;
    if audience.trim().is_empty() {
        return Err(invalid(&format!("{prefix}-audience"), audience, "an audience that is not empty"));
    }
    Ok(Some(Issuing { issuer, audience, ca_file, roles_claim: roles_claim.to_owned() }))
}

#[cfg(test)]
#[path = "tests/settings.rs"]
mod tests;
