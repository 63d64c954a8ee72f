//! The fleet command against a real API server, as different people. The enroller's part is played by the
//! administrator: here it matters what the command reads and writes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::wait::{Look, until};
use fleet::cli::Command;
use fleet_wire::enrollment::{
    CURVE_KEY, Enrollment, EnrollmentIntent, FINGERPRINT, IDENTITY_KEY, Record, RecordState, SIGNER_NAME,
    TokenRecord, record_name, token_name,
};
use fleet_wire::keys::{CurveKey, IdentityKey, SignedKeyStatement, fingerprint};
use k8s_openapi::api::core::v1::{Node, Secret};
use serde_json::json;

const RECORDS: &str = "harmony-fleet-devices";

scenarios!(
    FleetOptions::with_devices([]).bare();
    keys_are_made_once_and_rotated_by_who_has_the_root_key,
    an_operator_invites_a_device_and_reads_no_key,
    an_operator_approves_what_has_the_right_fingerprint,
    a_revocation_is_seen_through_and_taken_back,
    a_viewer_looks_and_changes_nothing,
);

/// Runs `fleet` with the administrator's kubeconfig; the exit code.
async fn as_administrator(fleet: &Fleet, arguments: &[&str]) -> Result<u8> {
    run(fleet.kubectl.kubeconfig().to_owned(), arguments).await
}

/// Runs `fleet` as a person of a group of `deploy/rbac.yaml`; the exit code.
async fn as_member(fleet: &Fleet, group: &str, arguments: &[&str]) -> Result<u8> {
    run(kubeconfig_of(fleet, group).await?, arguments).await
}

async fn run(kubeconfig: PathBuf, arguments: &[&str]) -> Result<u8> {
    let kubeconfig = kubeconfig.display().to_string();
    let line = ["fleet", "--kubeconfig", &kubeconfig].into_iter().chain(arguments.iter().copied());
    Ok(match Command::try_parse_from(line) {
        Err(error) => u8::try_from(error.exit_code())?,
        Ok(command) => match Box::pin(command.run()).await {
            Ok(()) => 0,
            Err(error) => {
                tracing::info!("fleet {}: {error}", arguments.join(" "));
                error.exit_code()
            }
        },
    })
}

/// The administrator's kubeconfig, acting as somebody with that group only.
async fn kubeconfig_of(fleet: &Fleet, group: &str) -> Result<PathBuf> {
    let view = fleet.kubectl.run("config view --raw --minify --flatten --output json").await?;
    let mut config: serde_json::Value = serde_json::from_str(&view)?;
    let user = &mut config["users"][0]["user"];
    user["as"] = json!("somebody");
    user["as-groups"] = json!([format!("harmony-fleet:{group}")]);
    let path = fleet.folder().join(format!("{group}.kubeconfig"));
    tokio::fs::write(&path, config.to_string()).await?;
    Ok(path)
}

/// Roles, namespaces and keys: what every scenario needs, whichever runs first. The root key's file.
async fn prepared(fleet: &Fleet) -> Result<String> {
    fleet.kubectl.apply(include_str!("../../deploy/rbac.yaml")).await?;
    let root = fleet.folder().join("fleet-root.nk").display().to_string();
    let init = ["keys", "init", "--root-key", &root, "--nats-url", "tls://nats.example:4222"];
    ensure!(as_administrator(fleet, &init).await? == 0, "keys init failed");
    Ok(root)
}

async fn statement(fleet: &Fleet) -> Result<fleet_wire::keys::KeyStatement> {
    let info = fleet.kubectl.json("get configmap fleet-info --namespace harmony-fleet").await?;
    let text = |key: &str| info["data"][key].as_str().with_context(|| format!("fleet-info has no {key}"));
    let signed: SignedKeyStatement = serde_json::from_str(text("keys")?)?;
    Ok(signed.verify(text("rootKey")?)?)
}

async fn keys_are_made_once_and_rotated_by_who_has_the_root_key(fleet: &Fleet) -> Result<()> {
    let root = prepared(fleet).await?;
    let made = statement(fleet).await?;
    prepared(fleet).await?;
    ensure!(statement(fleet).await? == made, "a second init changed the keys");

    let rotate = ["keys", "rotate", "--root-key", &root];
    ensure!(as_member(fleet, "operators", &rotate).await? == 1, "an operator rotated the fleet's key");
    ensure!(as_member(fleet, "keepers", &rotate).await? == 0, "a keeper could not rotate the fleet's key");
    let rotated = statement(fleet).await?;
    ensure!(rotated.sequence == made.sequence + 1, "{rotated:?}");
    ensure!(rotated.curve_keys.len() == made.curve_keys.len() + 1, "{rotated:?}");
    let seeds = fleet.kubectl.json("get secret fleet-curve-keys --namespace harmony-fleet").await?;
    let seeds = seeds["data"].as_object().map_or(0, serde_json::Map::len);
    ensure!(seeds == rotated.curve_keys.len(), "{seeds} seeds");

    let foreign = fleet.folder().join("foreign.nk").display().to_string();
    tokio::fs::write(&foreign, nkeys::KeyPair::new_operator().seed()?).await?;
    let rotate = ["keys", "rotate", "--root-key", &foreign];
    ensure!(as_administrator(fleet, &rotate).await? == 4, "another fleet's root key signed");
    ensure!(statement(fleet).await? == rotated, "a refused rotation changed something");
    ensure!(as_administrator(fleet, &["keys", "nats-init"]).await? == 0, "nats-init failed");
    fleet.kubectl.run("get secret fleet-nats-auth --namespace harmony-fleet").await.map(drop)
}

async fn an_operator_invites_a_device_and_reads_no_key(fleet: &Fleet) -> Result<()> {
    prepared(fleet).await?;
    let file = fleet.folder().join("pi-1.intent.json");
    let path = file.display().to_string();
    let enroll = ["device", "enroll", "pi-1", "-l", "site=hall-3", "-o", &path];
    ensure!(as_member(fleet, "operators", &enroll).await? == 0, "an operator could not invite");
    ensure!(as_member(fleet, "operators", &enroll).await? == 4, "the intent was overwritten");
    let intent: EnrollmentIntent = serde_json::from_slice(&tokio::fs::read(&file).await?)?;
    let secret = fleet
        .kubectl
        .json(&format!("get secret {} --namespace harmony-fleet-tokens", token_name(&intent.token.id)))
        .await?;
    let token = TokenRecord::parse(&serde_json::from_value::<Secret>(secret)?)?;
    ensure!(token.token.accepts("x", &intent.token.mac("x")), "the cluster has another token");
    ensure!(token.labels == BTreeMap::from([("site".into(), "hall-3".into())]), "{:?}", token.labels);

    let operator = fleet.kubectl.with_kubeconfig(kubeconfig_of(fleet, "operators").await?);
    let token = token_name(&intent.token.id);
    for (what, namespace) in [("fleet-curve-keys", "harmony-fleet"), (&token, "harmony-fleet-tokens")] {
        let read = operator.ask(&format!("get secret {what} --namespace {namespace}")).await?;
        ensure!(!read.ok(), "an operator read {what}");
    }
    ensure!(as_member(fleet, "viewers", &["device", "show", "pi-1"]).await? == 3, "a viewer saw a token");
    ensure!(as_member(fleet, "keepers", &["device", "show", "pi-1"]).await? == 0, "a keeper saw no token");
    Ok(())
}

fn enrollment(device: &str) -> Result<Enrollment> {
    Ok(Enrollment {
        device: device.parse()?,
        identity_key: nkeys::KeyPair::new_user().public_key().parse()?,
        curve_key: nkeys::XKey::new().public_key().parse()?,
        subject: None,
        labels: BTreeMap::new(),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    })
}

/// A member, as the enroller makes one.
async fn enrolled(fleet: &Fleet, enrollment: Enrollment) -> Result<Record> {
    let node = serde_json::to_string(&enrollment.node())?;
    fleet.kubectl.apply(&node).await?;
    let node = fleet.kubectl.json(&format!("get node {}", enrollment.device)).await?;
    let node: Node = serde_json::from_value(node)?;
    let record = Record::new(enrollment, node.metadata.uid.unwrap_or_default());
    write(fleet, &record).await?;
    Ok(record)
}

async fn write(fleet: &Fleet, record: &Record) -> Result<()> {
    fleet.kubectl.apply(&serde_json::to_string(&record.secret(RECORDS))?).await.map(drop)
}

async fn a_revocation_is_seen_through_and_taken_back(fleet: &Fleet) -> Result<()> {
    prepared(fleet).await?;
    let mut record = enrolled(fleet, enrollment("pi-2")?).await?;
    let operator = async |arguments: &[&str]| as_member(fleet, "operators", arguments).await;
    ensure!(operator(&["device", "enroll", "pi-2", "-o", "-"]).await? == 4, "a taken name was invited");
    ensure!(operator(&["device", "revoke", "pi-2"]).await? == 4, "revoked without anybody's yes");
    let revoke = ["device", "revoke", "pi-2", "--yes", "--wait"];
    let enroller = async {
        until("the Node to be gone", Duration::from_secs(20), async || {
            let gone = !fleet.kubectl.ask("get node pi-2").await?.ok();
            Ok(if gone { Look::Done(()) } else { Look::not_yet("it is there") })
        })
        .await?;
        record.state = RecordState::Revoked(jiff::Timestamp::now());
        write(fleet, &record).await
    };
    let (code, enroller) = tokio::join!(operator(&revoke), enroller);
    enroller?;
    ensure!(code? == 0, "the revocation was not seen through");
    ensure!(operator(&["device", "revoke", "pi-2"]).await? == 0, "revoking twice is no error");
    ensure!(operator(&["device", "undelete", "pi-2"]).await? == 0, "it was not taken back");
    let secret = fleet.kubectl.json(&format!("get secret device-pi-2 --namespace {RECORDS}")).await?;
    let secret: Secret = serde_json::from_value(secret)?;
    ensure!(
        secret.metadata.annotations.is_some_and(|all| all.contains_key(fleet_wire::enrollment::UNDELETE)),
        "nobody asks the enroller to take it back"
    );
    ensure!(operator(&["device", "undelete", "nobody"]).await? == 3, "what never was cannot come back");
    ensure!(record_name(&"pi-2".parse()?) == "device-pi-2", "the name of a record");
    Ok(())
}

async fn an_operator_approves_what_has_the_right_fingerprint(fleet: &Fleet) -> Result<()> {
    prepared(fleet).await?;
    let shown = request(fleet, "pi-3", false).await?;
    request(fleet, "pi-4", true).await?;
    let operator = async |arguments: &[&str]| as_member(fleet, "operators", arguments).await;
    let approve = ["device", "approve", "pi-3"];
    ensure!(operator(&approve).await? == 4, "approved without anybody's yes");
    let wrong = [&approve[..], &["--fingerprint", "SHA256:other"]].concat();
    ensure!(operator(&wrong).await? == 4, "approved with another fingerprint");
    ensure!(conditions(fleet, "pi-3").await?.is_empty(), "a refused approval left something");
    let right = [&approve[..], &["--fingerprint", &shown]].concat();
    ensure!(as_member(fleet, "viewers", &right).await? == 1, "a viewer approved");
    ensure!(operator(&right).await? == 0, "an operator could not approve");
    ensure!(conditions(fleet, "pi-3").await? == "Approved", "it is not approved");
    let forged = ["device", "approve", "device-pi-4-0123abcd", "--yes"];
    ensure!(operator(&forged).await? == 4, "approved although the fingerprint beside it was forged");
    ensure!(operator(&["device", "deny", "device-pi-4-0123abcd", "--yes"]).await? == 0, "not denied");
    ensure!(conditions(fleet, "pi-4").await? == "Denied", "it is not denied");
    Ok(())
}

async fn conditions(fleet: &Fleet, device: &str) -> Result<String> {
    let path = "--output jsonpath={.status.conditions[*].type}";
    fleet.kubectl.run(&format!("get csr device-{device}-0123abcd {path}")).await
}

/// A request for membership, as the enroller makes it for a device; its fingerprint.
async fn request(fleet: &Fleet, device: &str, forged: bool) -> Result<String> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let raw: [u8; 32] = key.public_key_raw().try_into()?;
    let identity: IdentityKey = identity_text(raw).parse()?;
    let curve: CurveKey = nkeys::XKey::new().public_key().parse()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, device);
    params.subject_alt_names = vec![rcgen::SanType::URI(format!("harmony-fleet:curve:{curve}").try_into()?)];
    let shown = fingerprint(&identity, &curve);
    let beside = if forged { "SHA256:forged".to_owned() } else { shown.clone() };
    let request = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {
            "name": format!("device-{device}-0123abcd"),
            "annotations": {
                IDENTITY_KEY: identity, CURVE_KEY: curve, FINGERPRINT: beside,
            },
        },
        "spec": {
            "signerName": SIGNER_NAME,
            "usages": ["client auth"],
            "request": k8s_openapi::ByteString(params.serialize_request(&key)?.pem()?.into_bytes()),
        },
    });
    fleet.kubectl.apply(&request.to_string()).await?;
    Ok(shown)
}

/// The text form of a public Ed25519 key as an nkey of a user.
fn identity_text(raw: [u8; 32]) -> String {
    // Base32 of prefix, key and CRC-16/XMODEM (little end first).
    let mut bytes = vec![20 << 3];
    bytes.extend(raw);
    let crc = bytes.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    bytes.extend(crc.to_le_bytes());
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect::<Vec<_>>();
    bits.chunks(5)
        .map(|chunk| {
            let index = chunk.iter().fold(0_usize, |index, bit| index << 1 | usize::from(*bit));
            char::from(alphabet[index << (5 - chunk.len())])
        })
        .collect()
}

async fn a_viewer_looks_and_changes_nothing(fleet: &Fleet) -> Result<()> {
    prepared(fleet).await?;
    enrolled(fleet, enrollment("pi-5")?).await?;
    let viewer = async |arguments: &[&str]| as_member(fleet, "viewers", arguments).await;
    for looks in [
        &["device", "list", "-o", "wide"][..],
        &["device", "list", "-o", "json"],
        &["device", "show", "pi-5"],
        &["keys", "show"],
    ] {
        ensure!(viewer(looks).await? == 0, "a viewer cannot {looks:?}");
    }
    for changes in [
        &["device", "enroll", "pi-6", "-o", "-"][..],
        &["device", "rotate", "pi-5"],
        &["device", "revoke", "pi-5", "--yes"],
    ] {
        ensure!(viewer(changes).await? == 1, "a viewer may {changes:?}");
    }
    ensure!(as_member(fleet, "operators", &["device", "rotate", "pi-5"]).await? == 0, "an operator cannot");
    let strangers = as_member(fleet, "strangers", &["device", "list"]).await?;
    ensure!(strangers == 1, "a stranger lists devices");
    Ok(())
}
