//! A device with a valid credential tries everything that is not its own, while the others go on with their
//! work. What it tried, and what came of it, is printed as a table.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::enrollment::Issued;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::hostile::envelopes::{self, Wire};
use e2e::hostile::member::Member;
use e2e::hostile::table::{Table, Verdict};
use e2e::hostile::{doors, floods, logins, subjects, tokens};
use e2e::scenarios;
use e2e::wait::{Look, until};
use e2e::workload::{PATIENCE, Scene, condition, daemon_set, pod, shell};
use fleet_wire::digest::Digest;
use fleet_wire::name::PodKey;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]).issuers();
    a_hostile_device_gets_nowhere,
);

/// Kubernetes' own default for how old a Lease may become before its Node is no longer Ready.
const LEASE: Duration = Duration::from_secs(40);
/// How soon the witness looks again while the attack goes on: each look is two programs for each device, and the
/// state that it looks for would last until the device is heard again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

async fn a_hostile_device_gets_nowhere(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "bystanders").await?;
    let set = |word: &str| {
        let line = format!("echo {word}; exec sleep 100000");
        // Not on the devices that the attack brings along: nothing runs there.
        let hosts = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": ["alpha", "beta"] });
        let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": [hosts] }] });
        let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms } });
        daemon_set("work", &json!({ "containers": [shell("c", &line)], "affinity": affinity }))
    };
    scene.apply(&set("one")).await?;
    // A pod of its own to aim at: the rollout replaces those of the DaemonSet during the attack.
    let target = json!({ "nodeName": "alpha", "containers": [shell("c", "exec sleep 100000")] });
    scene.apply(&pod("target", &target)).await?;
    scene.kubectl("rollout status daemonset/work --timeout 60s").await?;
    scene.kubectl("wait pod/target --for condition=Ready --timeout 60s").await?;

    let mut table = Table::default();
    let (ended, over) = watch::channel(false);
    let attack = async {
        let result = attack(fleet, &scene, &mut table).await;
        // Nobody listens any more if the witness has failed.
        let _ = ended.send(true);
        result
    };
    let rollout = async {
        scene.apply(&set("two")).await?;
        scene.kubectl("rollout status daemonset/work --timeout 150s").await?;
        ensure!(!*over.borrow(), "the rollout outlasted the attack: it shows nothing");
        Ok(())
    };
    let (attacked, rolled_out, gap) = tokio::join!(attack, rollout, witness(fleet, over.clone()));
    let verdict = match &rolled_out {
        Ok(()) => (Verdict::Works, "finished during the attack".to_owned()),
        Err(error) => (Verdict::Broken, format!("{error:#}")),
    };
    table.note("a rollout on the other devices", verdict.1, verdict.0);
    let verdict = match &gap {
        Ok(gap) => {
            (Verdict::Works, format!("Ready throughout, no Lease older than {:.0} s", gap.as_secs_f32()))
        }
        Err(error) => (Verdict::Broken, format!("{error:#}")),
    };
    table.note("the other devices' heartbeats", verdict.1, verdict.0);
    show(&table);
    attacked?;
    table.is_clean()?;
    scene.close().await
}

async fn attack(fleet: &Fleet, scene: &Scene<'_>, table: &mut Table) -> Result<()> {
    let nats = &fleet.nats;
    let (alpha, stated) = (fleet.device("alpha")?, fleet.keys()?.stated()?);
    let victim = Member::stolen("alpha", &alpha.seeds()?, stated)?;
    let own = Member::enroll(nats, &Issued::for_device("mallory")?.intent(fleet).await?).await?;
    let wire = Wire { nats, vk: fleet.vk()? };

    subjects::listen(table, nats, &own, &victim.name).await?;
    subjects::speak(table, nats, &own, &victim.name).await?;
    subjects::bend_replies(table, nats, &own, &victim.name).await?;
    envelopes::damage(table, wire, &own, &victim.name).await?;
    let target = scene.json("get pod target").await?;
    let uid = target["metadata"]["uid"].as_str().context("no uid")?.parse()?;
    let key = PodKey { namespace: scene.name.parse()?, name: "target".parse()?, uid };
    envelopes::meddle(table, wire, &own, None, (&key, Digest::of(b"guessed"))).await?;
    let seen = scene.json(&format!("get pod {}", key.name)).await?;
    let running = seen["status"]["phase"] == "Running" && seen["metadata"]["uid"] == key.uid.as_str();
    table.control(
        "that pod goes on",
        match running {
            true => Ok("Running".to_owned()),
            false => Err(seen["status"].to_string()),
        },
    );
    twice(table, fleet, &own).await?;
    doors::without_the_secret(table, nats, &Issued::for_device("gamma")?.intent(fleet).await?).await?;
    doors::names_of_others(table, nats, &Issued::for_device("delta")?.intent(fleet).await?, &victim.name)
        .await?;
    doors::keys_for_others(table, nats, &own, &victim).await?;
    let token = Issued::for_device("epsilon")?.intent(fleet).await?.token;
    logins::try_all(table, nats, &own, &victim.identity.public_key(), &token).await?;
    tokens::try_all(table, fleet, &own).await?;
    floods::try_all(table, nats, &own).await?;
    out(table, fleet, &own).await
}

/// The same credential on two machines at once, and then from an old copy of the disk.
async fn twice(table: &mut Table, fleet: &Fleet, own: &Member) -> Result<()> {
    let nats = &fleet.nats;
    let conflict = async |wanted: &str| {
        until(format!("IdentityConflict={wanted}"), PATIENCE, async || {
            let node = fleet.kubectl.json(&format!("get node {}", own.name)).await?;
            let seen = condition(&node, "IdentityConflict").unwrap_or("False").to_owned();
            Ok(if seen == wanted { Look::Done(seen) } else { Look::not_yet(seen) })
        })
        .await
        .map_err(|error| format!("{error:#}"))
    };
    let mut old = own.open_session(nats, None).await?;
    let copied = old.welcome.incarnation.clone();
    let (subject, message) = old.heartbeat(own)?;
    old.client.publish(&subject, "", &message).await?;
    let mut newer = own.open_session(nats, Some(copied.clone())).await?;
    let (subject, message) = newer.heartbeat(own)?;
    newer.client.publish(&subject, "", &message).await?;
    table.control("the own disk, its newest token shown", conflict("False").await);

    let mut clone = own.open_session(nats, Some(copied)).await?;
    let (subject, message) = clone.heartbeat(own)?;
    clone.client.publish(&subject, "", &message).await?;
    match conflict("True").await {
        Ok(_) => table.note("a cloned disk", "the Node says IdentityConflict=True", Verdict::Refused),
        Err(error) => table.note("a cloned disk", error, Verdict::Succeeded),
    }
    let before = envelopes::counted(fleet.vk()?, "Session").await?;
    let (subject, message) = newer.heartbeat(own)?;
    newer.client.publish(&subject, "", &message).await?;
    let refused = until("the older session's message to be refused", PATIENCE, async || {
        let now = envelopes::counted(fleet.vk()?, "Session").await?;
        Ok(if now > before { Look::Done(()) } else { Look::not_yet(now) })
    })
    .await;
    table.attempt(
        "two connections of one credential: the older session",
        match refused {
            Ok(()) => Err("counted Session".to_owned()),
            Err(error) => Ok(format!("{error:#}")),
        },
    );
    Ok(())
}

/// Revocation, and what can be done after it.
async fn out(table: &mut Table, fleet: &Fleet, own: &Member) -> Result<()> {
    let nats = &fleet.nats;
    let mut live = own.connect_patiently(nats).await?;
    let there = !nats.connections_of(&format!("device:{}", own.name)).await?.is_empty();
    table.control(
        "the connection before revocation",
        match there {
            true => Ok("listed".to_owned()),
            false => Err("not listed".to_owned()),
        },
    );
    fleet.kubectl.run(&format!("delete node {} --wait=false", own.name)).await?;
    let user = format!("device:{}", own.name);
    let gone = until("its connections to end", Duration::from_secs(5), async || {
        let left = nats.connections_of(&user).await?.len();
        Ok(if left == 0 { Look::Done(()) } else { Look::not_yet(left) })
    })
    .await;
    table.attempt(
        "stay connected after revocation",
        match gone {
            Ok(()) => Err("thrown out".to_owned()),
            Err(error) => Ok(format!("{error:#}")),
        },
    );
    let heard = live.publish(&own.up(fleet_wire::subject::UpVerb::Heartbeat), "", b"x").await;
    table.attempt(
        "speak on the old connection",
        heard.map_err(|error| error.to_string()).and_then(|heard| subjects::verdict(&heard)),
    );
    logins::refused(table, nats, "with the key of a revoked device", |nonce| {
        e2e::hostile::client::Login::key(&own.identity, nonce)
    })
    .await?;
    logins::refused(table, nats, "with the key of a revoked device, asking anew", |nonce| {
        e2e::hostile::client::Login::applicant(&own.identity, nonce)
    })
    .await?;
    let again = Issued::for_device(own.name.as_str())?.intent(fleet).await?;
    let asked = own.ask_with_token(nats, &again.token).await;
    table.attempt("enroll the revoked keys again, with a good token", doors::membership(asked));
    let fresh = Member::fresh(&again)?;
    let asked = fresh.ask_with_token(nats, &again.token).await;
    table.control("enroll new keys with that token", doors::membership(asked));
    Ok(())
}

/// Looks at the other devices' Nodes and Leases until the attack is over; gives the largest age of a Lease.
async fn witness(fleet: &Fleet, mut over: watch::Receiver<bool>) -> Result<Duration> {
    let mut oldest = Duration::ZERO;
    loop {
        // Once more after the attack: what it did last shows, too.
        let last = *over.borrow();
        for device in fleet.devices() {
            let node = fleet.kubectl.json(&format!("get node {}", device.name)).await?;
            ensure!(
                condition(&node, "Ready") == Some("True"),
                "{}: {}",
                device.name,
                node["status"]["conditions"]
            );
            let lease =
                fleet.kubectl.json(&format!("--namespace kube-node-lease get lease {}", device.name)).await?;
            let renewed: Timestamp = lease["spec"]["renewTime"].as_str().context("no renewTime")?.parse()?;
            oldest = oldest.max(Timestamp::now().duration_since(renewed).unsigned_abs());
            ensure!(oldest < LEASE, "{}'s Lease is {oldest:?} old", device.name);
        }
        if last {
            return Ok(oldest);
        }
        // Its end, or the time to look again; in between nothing would be known anyway.
        let _ = tokio::time::timeout(LOOK_AGAIN, over.wait_for(|over| *over)).await;
    }
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn show(table: &Table) {
    println!("\n{table}");
}
