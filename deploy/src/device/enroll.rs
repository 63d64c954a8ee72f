//! Inviting a device: a token in the cluster, and an intent that is carried to the device.
//!
//! [`prepare`] is pure; [`invite`] looks whether the name is free and writes the token.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Args;
use fleet_wire::{
    enrollment::{
        AccountProof, Carried, DeviceAccount, DeviceIssuer, EnrollmentIntent, EnrollmentToken, Record,
        RecordState, TokenRecord, record_name,
    },
    keys::SignedKeyStatement,
    name::DeviceName,
};
use jiff::{Timestamp, Unit};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{duration, labels, look::is_device};
use crate::{
    cluster::Cluster,
    error::FleetError,
    info::FleetInfo,
    output::{note, print},
    private_file,
};

/// The longest that an invitation is valid.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// `fleet device enroll`
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// The name that the device is to have: a label of DNS, e.g. pi-7.
    name: DeviceName,
    /// Label for its Node; may be repeated.
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_delimiter = ',')]
    labels: Vec<String>,
    /// Leave out the taint fleet.harmony.io/device=true:NoSchedule.
    #[arg(long)]
    no_taint: bool,
    /// Report the addresses of its pods: only where the cluster can route to them.
    #[arg(long)]
    report_pod_ip: bool,
    /// Until when the invitation can be used, e.g. 15m, 24h, 7d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    expires: Duration,
    /// Subject at the identity provider that the device's tokens must have; without it, its key is enough.
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// JSON file of a key that is registered for the device's account at the fleet's identity provider; it is
    /// carried to the device. Its `userId` is the subject, unless that is named.
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_client_secret_file")]
    oidc_key_file: Option<PathBuf>,
    /// Instead of a key: client of the device's account there.
    #[arg(long, value_name = "ID", requires_all = ["oidc_client_secret_file", "subject"])]
    oidc_client_id: Option<String>,
    /// File with nothing but that client's secret.
    #[arg(long, value_name = "FILE", requires = "oidc_client_id")]
    oidc_client_secret_file: Option<PathBuf>,
    /// Where the device reaches NATS [default: of the fleet].
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// CA of the NATS server's certificate (PEM) [default: of the fleet].
    #[arg(long, value_name = "FILE")]
    nats_ca_file: Option<PathBuf>,
    /// The public root key (O…) that the device pins; it must have signed the keys [default: of the fleet].
    #[arg(long, value_name = "KEY")]
    root_key: Option<String>,
    /// Where the intent is written, mode 0600; `-` is the standard output [default: NAME.intent.json].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Check everything, also with the API server, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Which device is invited, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Its name.
    pub device: DeviceName,
    /// Labels for its Node.
    pub labels: BTreeMap<String, String>,
    /// Whether its Node gets the taint.
    pub taint: bool,
    /// Whether its Node reports pods' addresses.
    pub report_pod_ip: bool,
    /// Subject at the identity provider.
    pub subject: Option<String>,
    /// Its account there, if the device is to get one.
    pub account: Option<AccountProof>,
    /// When the invitation ends.
    pub expires: Timestamp,
}

impl Invitation {
    /// For a device without anything special, for this long from now.
    pub fn of(device: DeviceName, valid: Duration) -> Self {
        let now = Timestamp::now();
        Self {
            device,
            labels: BTreeMap::new(),
            taint: true,
            report_pod_ip: false,
            subject: None,
            account: None,
            expires: now.checked_add(valid).and_then(|end| end.round(Unit::Second)).unwrap_or(now),
        }
    }
}

/// What a device has to know of the fleet to ask for membership.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Where it reaches NATS.
    pub nats_url: String,
    /// CA of the NATS server's certificate (PEM).
    pub nats_ca: Option<String>,
    /// The public root key.
    pub root_key: String,
    /// The fleet's keys, signed by it.
    pub keys: SignedKeyStatement,
    /// The identity provider of devices.
    pub device_issuer: Option<DeviceIssuer>,
}

impl Bootstrap {
    /// What the fleet says of itself.
    ///
    /// # Errors
    /// [`FleetError::Usage`] when it does not say where NATS is.
    pub fn of(info: FleetInfo) -> Result<Self, FleetError> {
        let nats_url = info.nats_url.ok_or_else(|| {
            FleetError::usage(
                "this fleet does not say where devices reach NATS",
                "name it with --nats-url, or for all with `fleet keys init --root-key FILE --nats-url URL`",
            )
        })?;
        let FleetInfo { nats_ca, root_key, keys, device_issuer, .. } = info;
        Ok(Self { nats_url, nats_ca, root_key, keys, device_issuer })
    }
}

/// A fresh token and the intent that carries it. The keys are checked: a device would refuse others.
///
/// # Errors
/// When the root key did not sign the keys, or they lack the enroller's; when the device is to have an account at an
/// identity provider, and the fleet names none.
pub fn prepare(
    invitation: &Invitation,
    bootstrap: &Bootstrap,
) -> Result<(TokenRecord, EnrollmentIntent), FleetError> {
    let statement = bootstrap.keys.verify(&bootstrap.root_key)?;
    if statement.enroller_key.is_none() {
        return Err(FleetError::refused(
            "the fleet's keys name no enroller: nobody could open the device's request",
            "complete them with `fleet keys init --root-key FILE`",
        ));
    }
    let token = EnrollmentToken::random();
    let Invitation { device, labels, taint, report_pod_ip, subject, account, expires } = invitation.clone();
    let account = match (account, &bootstrap.device_issuer) {
        (None, _) => None,
        (Some(proof), Some(issuer)) => Some(DeviceAccount { issuer: issuer.clone(), proof }),
        (Some(_), None) => {
            return Err(FleetError::usage(
                "this fleet does not say where devices get tokens",
                "name its identity provider in the ConfigMap fleet-info: `deviceIssuer`, and `deviceIssuerScopes`",
            ));
        }
    };
    let intent = EnrollmentIntent {
        device: device.clone(),
        nats_url: bootstrap.nats_url.clone(),
        nats_ca: bootstrap.nats_ca.clone(),
        root_key: bootstrap.root_key.clone(),
        keys: bootstrap.keys.clone(),
        token: token.clone(),
        account,
    };
    let used_by = None;
    Ok((TokenRecord { token, device, expires, labels, taint, report_pod_ip, subject, used_by }, intent))
}

/// Whether the name can be given to a device: nobody has it, or it was revoked.
///
/// # Errors
/// [`FleetError::Refused`] with what has the name, and since when.
pub async fn name_is_free(cluster: &Cluster, device: &DeviceName) -> Result<(), FleetError> {
    let node = cluster.nodes().find(device.as_str()).await?;
    if let Some(node) = node {
        let since =
            node.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
        return Err(if is_device(&node) {
            FleetError::refused(
                format!("{device} is enrolled since {since}"),
                format!(
                    "for new keys `fleet device rotate {device}`; for other hardware `fleet device revoke {device}` \
                     first"
                ),
            )
        } else {
            FleetError::refused(
                format!("there is a Node {device} since {since} that is no device"),
                "choose another name",
            )
        });
    }
    let Some(secret) = cluster.records().find(&record_name(device)).await? else { return Ok(()) };
    match Record::parse(&secret) {
        Ok(record) if record.state == RecordState::Enrolled => Err(FleetError::refused(
            format!("{device} is just being revoked: its Node is gone, its record still says enrolled"),
            "try again in a moment; if it stays so, look at the enroller's log",
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(FleetError::damaged_record(
            format!("Secret {}/{}", cluster.records_namespace(), record_name(device)),
            &error,
        )),
    }
}

/// Invites a device: makes its token in the cluster, and returns what is to be carried to it.
///
/// # Errors
/// When the name is taken, or the token cannot be written.
pub async fn invite(
    cluster: &Cluster,
    invitation: &Invitation,
    bootstrap: &Bootstrap,
) -> Result<EnrollmentIntent, FleetError> {
    let (token, intent) = prepare(invitation, bootstrap)?;
    name_is_free(cluster, &invitation.device).await?;
    cluster.tokens().create(&token.secret(cluster.tokens_namespace())).await?;
    Ok(intent)
}

/// Does it.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn run(cluster: &Cluster, args: EnrollArgs) -> Result<(), FleetError> {
    let (name, dry_run) = (args.name.clone(), args.dry_run);
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.intent.json")));
    let to_stdout = output.as_os_str() == "-";
    let (invitation, bootstrap) = wished(cluster, args).await?;
    let (token, intent) = prepare(&invitation, &bootstrap)?;
    let text =
        serde_json::to_string_pretty(&intent).map_err(|error| FleetError::Render(error.to_string()))?;
    let text = Zeroizing::new(text + "\n");
    name_is_free(cluster, &name).await?;
    let secret = token.secret(cluster.tokens_namespace());
    if dry_run {
        if !to_stdout && output.exists() {
            return Err(FleetError::refused(
                format!("{} exists, and is not overwritten", output.display()),
                "name another file with -o",
            ));
        }
        cluster.tokens().would_create(&secret).await?;
        note(&format!("{name} would be invited until {} (dry run)", invitation.expires));
        return Ok(());
    }
    // The file first: an invitation that nobody has would only stand in the list.
    if to_stdout {
        cluster.tokens().create(&secret).await?;
        print(&text)?;
        note(&format!("{name} is invited until {}", invitation.expires));
        return Ok(());
    }
    private_file::create(&output, &text)?;
    if let Err(error) = cluster.tokens().create(&secret).await {
        let _ = std::fs::remove_file(&output);
        return Err(error);
    }
    let until = match invitation.account {
        None => "until then",
        // Nobody takes it back from the provider.
        Some(_) => "as long as the account's key is good: remove it",
    };
    note(&format!(
        "{name} is invited until {}\nnext: carry {file} to the device, and there run\n  device-kubelet enroll --intent \
         {file}\nThe file is a secret {until}.",
        invitation.expires,
        file = output.display()
    ));
    Ok(())
}

/// Whose tokens the device has to show: as named, or as its key file says.
fn subject(named: Option<String>, account: Option<&AccountProof>) -> Result<Option<String>, FleetError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct KeyFile {
        user_id: String,
    }
    let Some(AccountProof::KeyFile(key)) = account else { return Ok(named) };
    // What serde says could repeat parts of the key.
    let key: KeyFile = serde_json::from_str(key.reveal()).map_err(|_| {
        FleetError::usage(
            "the key file is not what an identity provider gives for a registered key",
            "it is JSON, with `userId`, `keyId` and `key`: download it again, or register another key",
        )
    })?;
    Ok(named.or(Some(key.user_id)))
}

async fn wished(cluster: &Cluster, args: EnrollArgs) -> Result<(Invitation, Bootstrap), FleetError> {
    if args.expires < Duration::from_secs(1) || args.expires > LONGEST {
        return Err(FleetError::usage(
            "an invitation is valid for at least a second, and at most 30 days",
            "choose another --expires, e.g. 24h",
        ));
    }
    let account = match (args.oidc_key_file, args.oidc_client_id, args.oidc_client_secret_file) {
        (Some(file), ..) => Some(AccountProof::KeyFile(Carried::new(private_file::read(&file)?.as_str()))),
        (None, Some(id), Some(file)) => {
            let secret = Carried::new(private_file::read(&file)?.trim());
            Some(AccountProof::Client { id, secret })
        }
        (None, ..) => None,
    };
    let invitation = Invitation {
        subject: subject(args.subject, account.as_ref())?,
        account,
        labels: labels::parse(&args.labels)?,
        taint: !args.no_taint,
        report_pod_ip: args.report_pod_ip,
        ..Invitation::of(args.name, args.expires)
    };
    let mut info = FleetInfo::of(cluster).await?;
    if let Some(file) = args.nats_ca_file {
        info.nats_ca = Some(private_file::read(&file)?.to_string());
    }
    info.nats_url = args.nats_url.or(info.nats_url);
    info.root_key = args.root_key.unwrap_or(info.root_key);
    Ok((invitation, Bootstrap::of(info)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{
        material::RootKey,
        plan::{Reach, Stored},
    };

    fn bootstrap() -> Bootstrap {
        let reach = Reach { nats_url: Some("tls://nats.example:4222".into()), nats_ca: Some("PEM".into()) };
        let desired = Stored::default().complete(reach, || Ok(RootKey::generate())).unwrap();
        Bootstrap::of(desired.info).unwrap()
    }

    fn invitation() -> Invitation {
        Invitation {
            labels: BTreeMap::from([("site".into(), "hall-3".into())]),
            taint: false,
            subject: Some("4711".into()),
            ..Invitation::of("pi-7".parse().unwrap(), Duration::from_secs(3600))
        }
    }

    #[test]
    fn the_token_lets_in_what_the_intent_carries() {
        let (token, intent) = prepare(&invitation(), &bootstrap()).unwrap();
        let stored = TokenRecord::parse(&token.secret("harmony-fleet")).unwrap();
        let carried: EnrollmentIntent =
            serde_json::from_str(&serde_json::to_string(&intent).unwrap()).unwrap();
        assert!(stored.token.accepts("statement", &carried.token.mac("statement")));
        assert_eq!((&stored.device, stored.taint), (&carried.device, false));
        assert_eq!(stored.subject.as_deref(), Some("4711"));
        assert_eq!(stored.labels["site"], "hall-3");
        assert!(stored.used_by.is_none());
        assert!(carried.keys.verify(&carried.root_key).is_ok());
        assert_eq!(carried.nats_ca.as_deref(), Some("PEM"));
    }

    #[test]
    fn an_account_is_carried_with_the_fleets_issuer_and_names_the_subject() {
        let key =
            AccountProof::KeyFile(Carried::new(r#"{ "userId": "4711", "keyId": "1", "key": "s3cret" }"#));
        assert_eq!(subject(None, Some(&key)).unwrap().as_deref(), Some("4711"));
        assert_eq!(subject(Some("pi-7".into()), Some(&key)).unwrap().as_deref(), Some("pi-7"));
        assert_eq!(subject(Some("pi-7".into()), None).unwrap().as_deref(), Some("pi-7"));
        let garbage = AccountProof::KeyFile(Carried::new("s3cret"));
        let error = subject(None, Some(&garbage)).unwrap_err();
        assert!(error.exit_code() == 2 && !error.to_string().contains("s3cret"), "{error}");

        let invited = Invitation { account: Some(key.clone()), ..invitation() };
        let error = prepare(&invited, &bootstrap()).unwrap_err();
        assert!(error.exit_code() == 2 && error.next().unwrap().contains("deviceIssuer"), "{error}");
        let issuer = DeviceIssuer {
            issuer: "https://id.example".into(),
            scopes: vec!["openid".into()],
            audience: None,
            ca: None,
        };
        let fleet = Bootstrap { device_issuer: Some(issuer.clone()), ..bootstrap() };
        let (stored, intent) = prepare(&invited, &fleet).unwrap();
        assert_eq!(intent.account, Some(DeviceAccount { issuer, proof: key }));
        let data = stored.secret("harmony-fleet").data.unwrap();
        let shown = |value: &k8s_openapi::ByteString| String::from_utf8_lossy(&value.0).contains("s3cret");
        assert!(!data.values().any(shown), "the cluster has no part of it");
        assert_eq!(
            prepare(&invitation(), &fleet).unwrap().1.account,
            None,
            "who has no key needs no account"
        );
    }

    #[test]
    fn no_two_invitations_share_a_token() {
        let bootstrap = bootstrap();
        let ids = [(), ()].map(|()| prepare(&invitation(), &bootstrap).unwrap().0.token.id);
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn keys_that_the_device_would_refuse_are_not_handed_out() {
        let other = Bootstrap { root_key: RootKey::generate().public(), ..bootstrap() };
        assert!(matches!(prepare(&invitation(), &other), Err(FleetError::Key(_))));
    }
}
