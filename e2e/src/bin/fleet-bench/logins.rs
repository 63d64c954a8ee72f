//! Logins of devices through the callout, in turns with logins that nats-server decides alone.
//!
//! Both go to the same server over the same TLS, by the same client, with an nkey's signature over the
//! connection's nonce. The server decides alone about the few keys of its own configuration; it asks the
//! callout about all others. Connections are made beforehand, in batches: the time of a login is that from
//! CONNECT to the PONG behind it, and TLS handshakes are no part of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::answer;
use e2e::bench::process_figures::Usage;
use e2e::bench::quantiles::{Quantiles, rate, tenths};
use e2e::fleet::Fleet;
use e2e::hostile::client::{Login, RawClient};
use e2e::wait::{Look, until};
use fleet_wire::enrollment::Enrollment;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams};
use nkeys::{KeyPair, XKey};

use crate::authorizer::{self, Recorded};
use crate::idle::pid;
use crate::report::{Authorizations, Decided};

const LABEL: (&str, &str) = ("bench", "login");
/// Devices that log in, in turns: none comes near the budget that each identity has.
const DEVICES: usize = 1000;
/// Connections that are made before the first of them logs in. The server closes one that has not logged in
/// six seconds after it was made.
const BATCH: usize = 400;
/// Logins under way at the same time.
const IN_FLIGHT: usize = 16;
/// TLS handshakes under way at the same time.
const HANDSHAKES: usize = 16;
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures about `count` logins of each kind, and the callout's library on its own.
pub async fn measure(fleet: &Fleet, count: usize) -> Result<Authorizations> {
    tracing::info!("enrolling {DEVICES} keys");
    let keys: Vec<KeyPair> = (0..DEVICES).map(|_| KeyPair::new_user()).collect();
    let enrollments = keys.iter().enumerate().map(|(number, key)| enrollment(number, key));
    let enrollments: Vec<Enrollment> = enrollments.collect::<Result<_>>()?;
    fleet.enroll_all(&enrollments).await?;
    let callout = fleet.callouts.first().context("this fleet has no callout")?;
    let (callout, server) = (pid(&callout.process)?, pid(&fleet.nats.server)?);
    let core = pin(callout).await?;
    let last = keys.last().context("no key")?;
    until("the callout to know all records", PATIENCE, async || {
        RawClient::as_device(&fleet.nats, last).await.map(|_| Look::Done(()))
    })
    .await?;

    let recorded = Recorded::begin(fleet).await?;
    let batch: Vec<&KeyPair> = keys.iter().take(BATCH).collect();
    logins(fleet, &batch).await?;
    let requests = recorded.take(BATCH, PATIENCE).await?;

    let observer = std::fs::read_to_string(fleet.nats.seed_file("observer"))?;
    let observer = KeyPair::from_seed(observer.trim())?;
    let batches = count.div_ceil(BATCH);
    tracing::info!("logging in {} times with the callout, and as often without", batches * BATCH);
    let (mut asked, mut alone) = (Sum::default(), Sum::default());
    for number in 0..batches {
        let batch: Vec<&KeyPair> = keys.iter().cycle().skip(number * BATCH).take(BATCH).collect();
        asked.add(fleet, (callout, server), &batch).await?;
        alone.add(fleet, (callout, server), &vec![&observer; BATCH]).await?;
    }

    tracing::info!("answering recorded requests in this process");
    let library = authorizer::measure(fleet, enrollments, requests).await?;
    let nodes: Api<Node> = Api::all(fleet.client().await?);
    let ours = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
    nodes.delete_collection(&DeleteParams::default(), &ours).await?;
    let callout_cpu_us = asked.callout_cpu_us();
    Ok(Authorizations {
        records: DEVICES,
        in_flight: IN_FLIGHT,
        callout_core: core,
        callout_cpu_us,
        callout_per_core: tenths(1e6 / callout_cpu_us.max(1e-9)),
        registry: asked.decided()?,
        static_nkey: alone.decided()?,
        library,
    })
}

fn enrollment(number: usize, key: &KeyPair) -> Result<Enrollment> {
    Ok(Enrollment {
        device: format!("{}-{number}", LABEL.1).parse()?,
        identity_key: key.public_key().parse()?,
        curve_key: XKey::new().public_key().parse()?,
        subject: None,
        labels: BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())]),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    })
}

/// Leaves the process the machine's last core, with all its threads; gives its number.
async fn pin(pid: i32) -> Result<usize> {
    let core = std::thread::available_parallelism()?.get() - 1;
    let (core_text, pid_text) = (core.to_string(), pid.to_string());
    answer::run("taskset", ["--all-tasks", "--cpu-list", "--pid", core_text.as_str(), pid_text.as_str()])
        .await?;
    Ok(core)
}

/// Connects and logs in once with each key; gives how long each login took, and all of them together.
async fn logins(fleet: &Fleet, keys: &[&KeyPair]) -> Result<(Vec<Duration>, Window)> {
    let clients: Vec<RawClient> = stream::iter(0..keys.len())
        .map(|_| RawClient::open(&fleet.nats))
        .buffer_unordered(HANDSHAKES)
        .try_collect()
        .await?;
    let signed = clients.into_iter().zip(keys).map(|(client, key)| {
        let login = Login::key(key, client.nonce())?;
        anyhow::Ok((client, login))
    });
    let signed: Vec<(RawClient, Login)> = signed.collect::<Result<_>>()?;
    let began = Instant::now();
    let done: Vec<(Duration, RawClient)> = stream::iter(signed)
        .map(|(mut client, login)| async move {
            let began = Instant::now();
            let said = client.login(&login).await?;
            let took = began.elapsed();
            ensure!(said.is_ok(), "a login was refused: {said:?}");
            Ok((took, client))
        })
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await?;
    let ended = Instant::now();
    // The connections end here, after the last login.
    Ok((done.into_iter().map(|(took, _)| took).collect(), Window { began, ended }))
}

struct Window {
    began: Instant,
    ended: Instant,
}

/// Batches of one kind.
#[derive(Default)]
struct Sum {
    times: Vec<Duration>,
    busy: Duration,
    callout_cpu: f64,
    server_cpu: f64,
}

impl Sum {
    /// Processor times are those of the whole batch: the callout has nothing to do with TLS handshakes, and
    /// the server has the same of them in both kinds.
    async fn add(&mut self, fleet: &Fleet, (callout, server): (i32, i32), keys: &[&KeyPair]) -> Result<()> {
        let before = (Usage::of(callout)?, Usage::of(server)?);
        let (times, window) = logins(fleet, keys).await?;
        self.callout_cpu += Usage::of(callout)?.since(&before.0).cpu_seconds;
        self.server_cpu += Usage::of(server)?.since(&before.1).cpu_seconds;
        self.times.extend(times);
        self.busy += window.ended - window.began;
        Ok(())
    }

    fn each_us(&self, cpu_seconds: f64) -> f64 {
        let count = f64::from(u32::try_from(self.times.len()).unwrap_or(u32::MAX));
        tenths(cpu_seconds * 1e6 / count.max(1.0))
    }

    fn callout_cpu_us(&self) -> f64 {
        self.each_us(self.callout_cpu)
    }

    fn decided(self) -> Result<Decided> {
        Ok(Decided {
            per_second: rate(self.times.len(), self.busy),
            server_cpu_us: self.each_us(self.server_cpu),
            connect_to_pong: Quantiles::of(self.times).context("nobody logged in")?,
        })
    }
}
