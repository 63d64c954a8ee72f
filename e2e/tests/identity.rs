//! Logins through an identity provider, from the account there to a Node that is Ready: a device, a person, and
//! what goes on while the provider is away.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::binaries;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::hostile::client::{Heard, Login, RawClient};
use e2e::hostile::tokens::refusals;
use e2e::identity_provider::{Account, CLIENT};
use e2e::issuers::{ADMIN, DEVICES, Issuers, PERSONS, scope};
use e2e::scenarios;
use e2e::wait::{Look, until};
use e2e::workload::PATIENCE;
use fleet_daemon::credential::{DeviceCredential, TokenSource};
use fleet_daemon::nats::{LinkState, NatsSettings};
use fleet_wire::enrollment::{EnrollmentIntent, RECORDS_NAMESPACE, Record, record_name};
use fleet_wire::subject::{Subject, UpVerb};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use nkeys::KeyPair;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

scenarios!(
    // Users of NATS last ten seconds here instead of twelve minutes: all of it goes on across many of them.
    FleetOptions::with_devices(["alpha", "beta"])
        .unenrolled("beta")
        .issuers()
        .callout_setting("jwt-lifetime", 10);
    a_device_with_an_account_is_enrolled_and_renews_its_token,
    a_user_of_nats_never_outlives_its_token,
    a_person_who_logged_in_connects_with_the_same_credential,
    the_identity_provider_goes_away_and_comes_back,
    a_name_enrolled_again_leaves_the_old_account_outside,
);

/// How long beta's tokens are good. The agent asks for a new one when a third is left.
const TOKEN: Duration = Duration::from_secs(45);

/// What a device shows to its provider.
enum Shows {
    /// A registered key (JWT profile).
    Key,
    /// A secret (client credentials).
    Secret,
}

/// Tells the fleet where its devices get tokens, and enrolls beta with an account there, all as an operator does.
async fn enroll_with_account(fleet: &Fleet, subject: &str, shows: Shows) -> Result<()> {
    let issuers = fleet.issuers()?;
    let lifetime_seconds = i64::try_from(TOKEN.as_secs())?;
    let secret = "s3cret".to_owned();
    let account = Account { id: subject.into(), lifetime_seconds, secret, ..Account::default() };
    issuers.devices.put(&account).await?;
    let given = match shows {
        Shows::Key => format!("--oidc-key-file {}", issuers.devices.register_key(subject).await?.display()),
        Shows::Secret => {
            let file = fleet.folder().join(format!("{subject}.secret"));
            std::fs::write(&file, &account.secret)?;
            let file = file.display();
            format!("--subject {subject} --oidc-client-id {subject} --oidc-client-secret-file {file}")
        }
    };
    let info = json!({ "data": {
        "deviceIssuer": issuers.devices.issuer(),
        "deviceIssuerScopes": format!("openid {}", scope(DEVICES)),
        "deviceIssuerCa": std::fs::read_to_string(issuers.devices.ca_file())?,
    } });
    let patch = ["--type", "merge", "--patch", &info.to_string()];
    let fleet_info = ["patch", "configmap", "fleet-info", "--namespace", "harmony-fleet"];
    let keeper = ["--as", "somebody", "--as-group", "harmony-fleet:keepers"];
    fleet.kubectl.run_args(&[&fleet_info[..], &patch, &keeper].concat()).await?;

    let line = format!("device enroll beta {given} --output -");
    let intent: EnrollmentIntent = serde_json::from_str(&fleet.command(&line).await?.success()?)?;
    let device = fleet.device("beta")?;
    device.agent.stop(Duration::from_secs(20)).await?;
    device.configure(&fleet.options.agent_settings, Some(&intent))?;
    device.agent.start().await?;
    fleet.node_ready("beta", "True", PATIENCE).await
}

/// Beta, a member with an account, whichever scenario runs first.
async fn with_account(fleet: &Fleet) -> Result<()> {
    if !fleet.kubectl.ask("get node beta").await?.ok() {
        enroll_with_account(fleet, "subject-beta", Shows::Key).await?;
    }
    fleet.node_ready("beta", "True", PATIENCE).await
}

async fn subject_of(fleet: &Fleet, device: &str) -> Result<Option<String>> {
    let secrets: Api<Secret> = Api::namespaced(fleet.client().await?, RECORDS_NAMESPACE);
    Ok(Record::parse(&secrets.get(&record_name(&device.parse()?)).await?)?.enrollment.subject)
}

/// How many tokens the devices' provider was asked for.
fn tokens_asked(issuers: &Issuers) -> usize {
    issuers.devices.process.log_text().matches("POST /oauth/token").count()
}

async fn connections(fleet: &Fleet, user: &str) -> Result<Vec<u64>> {
    Ok(fleet.nats.connections_of(user).await?.iter().map(|connection| connection.cid).collect())
}

/// Waits until a user has a connection that it did not have before.
async fn reconnected(fleet: &Fleet, user: &str) -> Result<()> {
    let old = connections(fleet, user).await?;
    until(format!("{user} to connect anew"), PATIENCE, async || {
        let now = connections(fleet, user).await?;
        Ok(match now.iter().any(|cid| !old.contains(cid)) {
            true => Look::Done(()),
            false => Look::not_yet(format!("{now:?}")),
        })
    })
    .await
}

/// What the server says to a key and a token.
async fn log_in(fleet: &Fleet, key: &KeyPair, token: Option<&str>) -> Result<Result<RawClient, String>> {
    let mut client = RawClient::open(&fleet.nats).await?;
    let login = match token {
        Some(token) => Login::key_and_token(key, client.nonce(), token)?,
        None => Login::key(key, client.nonce())?,
    };
    Ok(client.login(&login).await?.map(|()| client))
}

async fn let_in(fleet: &Fleet, key: &KeyPair, token: Option<&str>) -> Result<RawClient> {
    log_in(fleet, key, token).await?.map_err(|refusal| anyhow::anyhow!("not let in: {refusal}"))
}

/// That the server refuses, and the callout for this reason.
async fn refused(
    fleet: &Fleet,
    (key, token): (&KeyPair, Option<&str>),
    (login, reason): (&str, &str),
) -> Result<()> {
    let before = refusals(&fleet.callouts, login, reason).await?;
    ensure!(log_in(fleet, key, token).await?.is_err(), "let in, instead of {login}: {reason}");
    let after = refusals(&fleet.callouts, login, reason).await?;
    ensure!(after > before, "refused, and not as {login}: {reason}");
    Ok(())
}

/// A token of a device's account that is good for so many seconds.
async fn token_of(issuers: &Issuers, subject: &str, seconds: i64) -> Result<(String, Timestamp)> {
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": issuers.devices.issuer(), "aud": [DEVICES], "sub": subject, "iat": now, "exp": now + seconds,
    });
    Ok((issuers.devices.sign(&claims, None).await?, Timestamp::from_second(now + seconds)?))
}

async fn a_device_with_an_account_is_enrolled_and_renews_its_token(fleet: &Fleet) -> Result<()> {
    with_account(fleet).await?;
    let (issuers, device) = (fleet.issuers()?, fleet.device("beta")?);
    ensure!(subject_of(fleet, "beta").await?.as_deref() == Some("subject-beta"), "another subject");

    // What came of the intent is a credential like any other, and no copy of the account's key but the one.
    let file = device.data().join("credential.toml");
    let credential = DeviceCredential::load(&file)?;
    let Some(TokenSource::Oidc(login)) = &credential.token else { bail!("{credential:?}") };
    ensure!(login.settings().issuer == issuers.devices.issuer(), "{:?}", login.settings());
    ensure!(!std::fs::read_to_string(&file)?.contains("PRIVATE KEY"), "the key stands in the credential");
    ensure!(!device.config().with_file_name("enrollment.json").exists(), "the intent is still there");

    // The key alone is not enough any more, and the audit line names the account.
    let seeds = device.seeds()?;
    let key = KeyPair::from_seed(&seeds.identity)?;
    refused(fleet, (&key, None), ("registry", "token-required")).await?;
    let admitted = fleet.callouts.iter().any(|callout| {
        let log = callout.process.log_text();
        log.lines().any(|line| line.contains("device:beta") && line.contains("subject-beta"))
    });
    ensure!(admitted, "no audit line names the account");

    // It shows the token that it has at each connection, and gets a new one in time.
    let asked = tokens_asked(issuers);
    reconnected(fleet, "device:beta").await?;
    reconnected(fleet, "device:beta").await?;
    ensure!(tokens_asked(issuers) <= asked + 1, "a token for each connection");
    until("a new token", TOKEN + Duration::from_secs(20), async || {
        let now = tokens_asked(issuers);
        Ok(if now > asked { Look::Done(()) } else { Look::not_yet(now) })
    })
    .await?;
    reconnected(fleet, "device:beta").await?;
    fleet.node_ready("beta", "True", Duration::from_secs(5)).await
}

async fn a_user_of_nats_never_outlives_its_token(fleet: &Fleet) -> Result<()> {
    with_account(fleet).await?;
    let issuers = fleet.issuers()?;
    let seeds = fleet.device("beta")?.seeds()?;
    // A user's own time would be over after eight seconds at the earliest.
    let (token, end) = token_of(issuers, "subject-beta", 4).await?;
    let mut client = let_in(fleet, &KeyPair::from_seed(&seeds.identity)?, Some(&token)).await?;
    let last = client.hear(Duration::from_secs(20)).await.context("it is still connected")?;
    let late = Timestamp::now().duration_since(end).as_secs_f64();
    let said = matches!(&last, Heard::Error(text) if text.to_lowercase().contains("expired"));
    ensure!(said && (-1.0..2.0).contains(&late), "{last:?}, {late:.1} s after the token's end");

    // Nor is one admitted whose end has come: what clocks may differ by is for the provider's sake.
    let (over, _) = token_of(issuers, "subject-beta", -1).await?;
    let key = KeyPair::from_seed(&seeds.identity)?;
    refused(fleet, (&key, Some(&over)), ("oidc-device", "token-expired")).await
}

/// `fleet login` on a laptop, with the person's browser; gives what it printed, or its complaint.
async fn fleet_login(
    fleet: &Fleet,
    config: &std::path::Path,
    person: &str,
) -> Result<std::result::Result<String, String>> {
    let persons = &fleet.issuers()?.persons;
    let mut command = Command::new(binaries::own("fleet")?);
    command
        .args(["login", "--issuer", &persons.issuer(), "--client-id", CLIENT])
        .args(["--scope", &scope(PERSONS), "--ca-file", &persons.ca_file().display().to_string()])
        .env("XDG_CONFIG_HOME", config)
        .env("KUBECONFIG", fleet.kubectl.kubeconfig())
        .env("NO_PROXY", "*")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut stdout = child.stdout.take().context("no output")?;
    let mut lines = BufReader::new(child.stderr.take().context("no output")?).lines();
    let ended = async {
        let mut said = String::new();
        while let Some(line) = lines.next_line().await? {
            // Open https://… and enter the code ABCD-EFGH within 5 min
            if let Some((_, rest)) = line.split_once("enter the code ") {
                persons.decide(rest.split(' ').next().unwrap_or_default(), person, true).await?;
            }
            said.push_str(&line);
            said.push('\n');
        }
        let mut printed = String::new();
        stdout.read_to_string(&mut printed).await?;
        anyhow::Ok(match child.wait().await?.success() {
            true => Ok(printed),
            false => Err(said),
        })
    };
    tokio::time::timeout(PATIENCE, ended).await.context("fleet login does not end")?
}

async fn a_person_who_logged_in_connects_with_the_same_credential(fleet: &Fleet) -> Result<()> {
    let persons = &fleet.issuers()?.persons;
    persons.put(&Account { id: "carol".into(), roles: vec![ADMIN.into()], ..Account::default() }).await?;
    let config = tempfile::tempdir()?;
    let printed = fleet_login(fleet, config.path(), "carol").await?.map_err(anyhow::Error::msg)?;
    ensure!(printed == "logged in as carol\n", "{printed}");

    // The loader of devices reads it, and the connection of devices takes it.
    let credential = DeviceCredential::load(&config.path().join("harmony-fleet/credential.toml"))?;
    let key = credential.key.key_pair()?;
    let user = format!("person:{}", key.public_key());
    let settings = NatsSettings {
        url: credential.nats_url.clone(),
        ca: credential.nats_ca.clone(),
        login: credential.login(),
        name: "laptop".into(),
        inbox_prefix: Some(format!("_INBOX._person.{}", key.public_key())),
        subscription_capacity: 64,
    };
    fleet_daemon::install_crypto_provider();
    let mut connection = fleet_daemon::nats::connect(&settings).await?;
    let connected = connection.state.wait_for(|state| *state == LinkState::Connected);
    tokio::time::timeout(PATIENCE, connected).await.context("it does not connect")??;
    ensure!(connections(fleet, &user).await?.len() == 1, "{user} is not connected");
    let mut heartbeats =
        connection.client.subscribe(Subject::Up("alpha".parse()?, UpVerb::Heartbeat).to_string()).await?;
    let heard = tokio::time::timeout(PATIENCE, heartbeats.next()).await.context("no heartbeat")?;
    ensure!(heard.is_some(), "the subscription ended");

    // The same key and token, byte by byte: an administrator looks, and says nothing.
    let token = credential.token.as_ref().context("no token")?.token().await?;
    let mut client = let_in(fleet, &key, Some(&token)).await?;
    let said = client.publish("fleet.v1.0.alpha.down.changed", "", b"").await?;
    ensure!(said.iter().any(|heard| heard.error().is_some()), "the server had no objection: {said:?}");

    let mut command = Command::new(binaries::own("fleet")?);
    let out = command.arg("logout").env("XDG_CONFIG_HOME", config.path()).output().await?;
    ensure!(out.status.success(), "{out:?}");
    let left = std::fs::read_dir(config.path().join("harmony-fleet"))?.count();
    // The lock of renewals may stay, and is empty.
    ensure!(left <= 1, "{left} files are left");
    Ok(())
}

async fn the_identity_provider_goes_away_and_comes_back(fleet: &Fleet) -> Result<()> {
    with_account(fleet).await?;
    let issuers = fleet.issuers()?;
    let (alice, session) = (issuers.person("alice", &[ADMIN]).await?, KeyPair::new_user());
    let alices = alice.access_token.expose();
    let_in(fleet, &session, Some(alices)).await?;
    // With a new token, so that all of its time is ahead.
    let asked = tokens_asked(issuers);
    until("a new token", TOKEN + Duration::from_secs(20), async || {
        let now = tokens_asked(issuers);
        Ok(if now > asked { Look::Done(()) } else { Look::not_yet(now) })
    })
    .await?;
    issuers.devices.away(true).await?;
    issuers.persons.away(true).await?;

    // Whoever has a token goes on with it, and its key is known.
    reconnected(fleet, "device:beta").await?;
    reconnected(fleet, "device:beta").await?;
    let_in(fleet, &session, Some(alices)).await?;
    // Nobody new gets a token, and is told why.
    let config = tempfile::tempdir()?;
    let complaint = match fleet_login(fleet, config.path(), "alice").await? {
        Ok(printed) => bail!("logged in at nobody's: {printed}"),
        Err(complaint) => complaint,
    };
    ensure!(complaint.contains(&issuers.persons.issuer()), "{complaint}");
    ensure!(complaint.contains("cannot be used") && complaint.contains("reached"), "{complaint}");
    ensure!(!config.path().join("harmony-fleet/credential.toml").exists(), "a credential of nobody");

    // Both get other keys meanwhile, and forget the old ones.
    issuers.devices.rotate("ES256", true).await?;
    issuers.persons.rotate("EdDSA", true).await?;
    until("beta's token to end", PATIENCE, async || {
        let left = connections(fleet, "device:beta").await?;
        Ok(if left.is_empty() { Look::Done(()) } else { Look::not_yet(format!("{left:?}")) })
    })
    .await?;
    // A device with its key alone has noticed nothing.
    reconnected(fleet, "device:alpha").await?;
    fleet.node_ready("alpha", "True", Duration::from_secs(5)).await?;

    issuers.devices.away(false).await?;
    issuers.persons.away(false).await?;
    reconnected(fleet, "device:beta").await?;
    fleet.node_ready("beta", "True", PATIENCE).await?;
    let back = issuers.person("alice", &[ADMIN]).await?;
    // The first token of a new key has the callout fetch the keys, and may have to wait until it may.
    until("alice's new token to be believed", PATIENCE, async || {
        Ok(match log_in(fleet, &session, Some(back.access_token.expose())).await? {
            Ok(_) => Look::Done(()),
            Err(refusal) => Look::not_yet(refusal),
        })
    })
    .await?;
    refused(fleet, (&session, Some(alices)), ("oidc-person", "token-unknown-key")).await
}

async fn a_name_enrolled_again_leaves_the_old_account_outside(fleet: &Fleet) -> Result<()> {
    with_account(fleet).await?;
    let (issuers, device) = (fleet.issuers()?, fleet.device("beta")?);
    let subject = subject_of(fleet, "beta").await?.context("no subject")?;
    let old = KeyPair::from_seed(&device.seeds()?.identity)?;
    let (old_token, _) = token_of(issuers, &subject, 300).await?;
    let_in(fleet, &old, Some(&old_token)).await?;

    fleet.kubectl.run("delete node beta --wait=false").await?;
    until("the agent to know of its revocation", PATIENCE, async || {
        let status = device.ask("status").await?.stdout;
        Ok(if status.contains("\nRevoked ") { Look::Done(()) } else { Look::not_yet(status) })
    })
    .await?;
    // The callout sees the Node go before its record says why: until then the reason is the missing Node.
    let kept_out = until("the reason to be the revocation", PATIENCE, async || {
        let before = refusals(&fleet.callouts, "oidc-device", "revoked").await?;
        if log_in(fleet, &old, Some(&old_token)).await?.is_ok() {
            return Ok(Look::Done(false));
        }
        let after = refusals(&fleet.callouts, "oidc-device", "revoked").await?;
        Ok(if after > before { Look::Done(true) } else { Look::not_yet("another reason") })
    })
    .await?;
    ensure!(kept_out, "let in after its revocation");

    enroll_with_account(fleet, "subject-beta-again", Shows::Secret).await?;
    ensure!(subject_of(fleet, "beta").await?.as_deref() == Some("subject-beta-again"), "the old subject");
    let credential = std::fs::read_to_string(device.data().join("credential.toml"))?;
    ensure!(credential.contains("client-secret-file") && !credential.contains("s3cret"), "{credential}");
    let new = KeyPair::from_seed(&device.seeds()?.identity)?;
    ensure!(new.public_key() != old.public_key(), "the old key");
    let (new_token, _) = token_of(issuers, "subject-beta-again", 300).await?;
    refused(fleet, (&old, Some(&old_token)), ("oidc-device", "retired-key")).await?;
    refused(fleet, (&old, Some(&new_token)), ("oidc-device", "retired-key")).await?;
    refused(fleet, (&new, Some(&old_token)), ("oidc-device", "subject")).await?;
    refused(fleet, (&new, None), ("registry", "token-required")).await?;
    let_in(fleet, &new, Some(&new_token)).await.map(drop)
}
