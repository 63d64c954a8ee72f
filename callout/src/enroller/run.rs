//! Wires the parts together and runs them until the shutdown.

use std::{sync::Arc, time::Duration};

use fleet_daemon::{
    credential::Login,
    health::{CheckHandle, Health, HealthServer},
    nats::{self, NatsSettings},
    shutdown::{Shutdown, Tasks, until},
};
use fleet_wire::{enrollment::TokenRecord, name::DeviceName};
use futures::StreamExt as _;
use k8s_openapi::{api::authentication::v1::SelfSubjectReview, jiff::Timestamp};
use kube::{Api, api::PostParams};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::{
    certificates::{Defaults, ServingApprover, enroll_approved},
    converge::Step,
    kick::Kicker,
    metrics::Metrics,
    registrar::{Failure, Registrar, ask},
    requests::{self, Desk},
    settings::Settings,
    telling::teller,
    view::View,
    watches,
};

/// Requests that may wait for the reader.
const SUBSCRIPTION_CAPACITY: usize = 16 * 1024;
/// Devices that are worked on at a time.
const AT_A_TIME: usize = 8;
/// All records are looked at so often, whatever the watches said.
const ALL_EVERY: Duration = Duration::from_secs(30);
/// What failed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(2);
/// Tokens are looked at so often.
const TOKENS_EVERY: Duration = Duration::from_secs(600);
/// How long an expired token is kept, so that who asks too late is told so.
const TOKEN_KEPT: Duration = Duration::from_secs(3600);

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] fleet_kube::ClientError),
    /// NATS cannot be set up.
    #[error(transparent)]
    Nats(#[from] fleet_daemon::nats::NatsError),
    /// The health address cannot be bound.
    #[error(transparent)]
    Health(#[from] fleet_daemon::health::HealthError),
}

/// Starts everything. Returns once all tasks run; they end with `tasks`' shutdown.
///
/// # Errors
/// See [`RunError`].
pub async fn start(settings: Settings, tasks: &Tasks) -> Result<(), RunError> {
    let shutdown = tasks.shutdown().clone();
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let health = Health::new();
    let checks = ["nats", "nats-system", "records", "nodes", "applicants", "serving", "account"]
        .map(|name| health.check(name));
    let [
        nats_check,
        system_check,
        records_check,
        nodes_check,
        applicants_check,
        serving_check,
        account_check,
    ] = checks;
    if let Some(addr) = settings.health_listen {
        let server = HealthServer::bind(addr, health.clone(), Arc::new(registry)).await?;
        tasks.spawn("health", server.run(shutdown.clone()));
    }
    let client = fleet_kube::client(settings.kubeconfig.as_deref()).await?;
    let bus = nats::connect(&enroller_login(&settings)).await?;
    tasks.spawn("nats-check", until(shutdown.clone(), nats::report(bus.state.clone(), nats_check)));
    let system = nats::connect(&kicker_login(&settings)).await?;
    tasks.spawn(
        "nats-system-check",
        until(shutdown.clone(), nats::report(system.state.clone(), system_check)),
    );
    // Who one is at the API server: requests of others for the same signer are not believed.
    let Some(own) = own_name(&client, &account_check, &shutdown).await else { return Ok(()) };

    let view = View::default();
    let (kicks, kicked) = mpsc::unbounded_channel();
    let (teller, scribe) = teller();
    tasks.spawn("events", until(shutdown.clone(), scribe.run(client.clone())));
    let namespaces = (settings.tokens_namespace.as_str(), settings.records_namespace.as_str());
    let registrar = Registrar::new(
        client.clone(),
        namespaces,
        settings.retention,
        view.clone(),
        (kicks, teller),
        Arc::clone(&metrics),
    );
    let (changed, changes) = mpsc::unbounded_channel();
    let records = watches::records(
        client.clone(),
        settings.records_namespace.clone(),
        view.clone(),
        changed.clone(),
        records_check,
    );
    tasks.spawn("records", until(shutdown.clone(), records));
    let nodes = watches::nodes(client.clone(), view.clone(), changed, nodes_check);
    tasks.spawn("nodes", until(shutdown.clone(), nodes));
    let (applied, applications) = mpsc::unbounded_channel();
    let applicants =
        watches::applicants(client.clone(), own.clone(), view.clone(), applied, applicants_check);
    tasks.spawn("applicants", until(shutdown.clone(), applicants));
    let (serving, serving_requests) = mpsc::unbounded_channel();
    let serving = watches::serving(client.clone(), serving, serving_check);
    tasks.spawn("serving", until(shutdown.clone(), serving));

    let defaults = Defaults { pod_cidr: settings.pod_cidr.clone(), taint: settings.taint };
    let approved = enroll_approved(registrar.clone(), defaults.clone(), applications);
    tasks.spawn("approved", until(shutdown.clone(), Box::pin(approved)));
    let approver = ServingApprover::new(
        client.clone(),
        &settings.namespace,
        settings.serving_addresses.clone(),
        Arc::clone(&metrics),
    );
    tasks.spawn("serving-approver", until(shutdown.clone(), Box::pin(approver.run(serving_requests))));
    let keep = keep(registrar.clone(), Arc::clone(&metrics), changes);
    tasks.spawn("registrar", until(shutdown.clone(), Box::pin(keep)));
    let upkeep = keep_tokens(registrar.clone(), settings.pod_cidr.clone());
    tasks.spawn("tokens", until(shutdown.clone(), Box::pin(upkeep)));
    let kicker = Kicker::new(system.client, view, Arc::clone(&metrics));
    tasks.spawn("kicker", kicker.run(kicked, shutdown.clone()));

    let (queue, queued) = mpsc::channel(requests::QUEUE);
    let desk = Desk::new(
        (bus.client.clone(), client),
        registrar,
        (settings.enroller_keys, settings.fleet_keys_file),
        defaults,
        own,
        Arc::clone(&metrics),
    );
    tasks.spawn("desk", until(shutdown.clone(), Box::pin(desk.run(queued))));
    tasks.spawn("requests", requests::read(bus.client, queue, metrics, shutdown));
    Ok(())
}

fn enroller_login(settings: &Settings) -> NatsSettings {
    nats_settings(settings, "enroller", settings.nats.login())
}

fn kicker_login(settings: &Settings) -> NatsSettings {
    let key = settings.system_seed.clone();
    nats_settings(settings, "enroller's kicker", Login::Credential { key, token: None })
}

fn nats_settings(settings: &Settings, name: &str, login: Login) -> NatsSettings {
    NatsSettings {
        url: settings.nats.nats_url.clone(),
        ca: settings.nats.nats_ca.clone(),
        login,
        name: name.to_owned(),
        inbox_prefix: None,
        subscription_capacity: SUBSCRIPTION_CAPACITY,
    }
}

/// Keeps records and Nodes in step, for ever.
async fn keep(registrar: Registrar, metrics: Arc<Metrics>, mut changes: mpsc::UnboundedReceiver<DeviceName>) {
    let view = registrar.view.clone();
    view.synced().await;
    let mut all = tokio::time::interval(ALL_EVERY);
    let mut again = tokio::time::interval(AGAIN);
    let mut failed: Vec<DeviceName> = Vec::new();
    loop {
        let (mut devices, thorough) = tokio::select! {
            device = changes.recv() => match device {
                Some(device) => (vec![device], false),
                None => return,
            },
            _ = all.tick() => (view.devices(), true),
            _ = again.tick(), if !failed.is_empty() => (std::mem::take(&mut failed), true),
        };
        while let Ok(device) = changes.try_recv() {
            devices.push(device);
        }
        devices.sort_unstable();
        devices.dedup();
        devices.retain(|device| match registrar.outlook(device) {
            Step::Settled | Step::Blocked => false,
            // A claim is being finished by who made it; both at once only get into each other's way. What a
            // crash left is found at the start, or with the next look at all.
            Step::CreateNode | Step::Adopt(_) => thorough,
            _ => true,
        });
        let registrar = &registrar;
        let done = futures::stream::iter(devices).map(async |device| {
            let result = registrar.converge(&device).await;
            (device, result)
        });
        let mut done = std::pin::pin!(done.buffer_unordered(AT_A_TIME));
        while let Some((device, result)) = done.next().await {
            match result {
                Ok(Some((_, Step::Blocked))) => {
                    tracing::warn!(%device, "the device has no Node: another one has its name, or is being deleted");
                }
                Ok(_) => {}
                Err(failure) => {
                    tracing::warn!(%device, %failure, "not done yet, trying again");
                    failed.push(device);
                }
            }
        }
        let (enrolled, revoked) = view.count();
        metrics.enrolled.set(i64::try_from(enrolled).unwrap_or(i64::MAX));
        metrics.revoked.set(i64::try_from(revoked).unwrap_or(i64::MAX));
        metrics.waiting.set(i64::try_from(view.waiting_applicants()).unwrap_or(i64::MAX));
    }
}

/// Finishes what a spent token began, and deletes expired ones, for ever.
async fn keep_tokens(registrar: Registrar, pod_cidr: Option<String>) {
    registrar.view.synced().await;
    loop {
        if let Err(failure) = look_at_tokens(&registrar, pod_cidr.as_deref()).await {
            tracing::warn!(%failure, "the enrollment tokens are not looked after");
        }
        tokio::time::sleep(TOKENS_EVERY).await;
    }
}

async fn look_at_tokens(registrar: &Registrar, pod_cidr: Option<&str>) -> Result<(), Failure> {
    for secret in registrar.tokens().await? {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let token = match TokenRecord::parse(&secret) {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(secret = name, %error, "this enrollment token is damaged");
                continue;
            }
        };
        if let Some((identity, curve)) = token.used_by.clone()
            && registrar.view.key_use(&identity).is_none()
        {
            let enrollment = token.enrollment(identity, curve, pod_cidr.map(str::to_owned));
            if let Err(denial) = registrar.admit(&enrollment).await {
                tracing::warn!(device = %token.device, %denial, "a spent enrollment token does not become a device");
            }
        }
        let kept_until = token.expires.saturating_add(TOKEN_KEPT);
        if kept_until.is_ok_and(|kept_until| kept_until < Timestamp::now()) {
            registrar.delete_token(&secret).await?;
            tracing::info!(secret = name, "deleted an expired enrollment token");
        }
    }
    Ok(())
}

/// The own user name. Asked until it is answered; `None` at the shutdown.
async fn own_name(client: &kube::Client, check: &CheckHandle, shutdown: &Shutdown) -> Option<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    loop {
        let (parameters, review) = (PostParams::default(), SelfSubjectReview::default());
        let failure = match ask("ask the API server who this is", reviews.create(&parameters, &review)).await
        {
            Ok(review) => {
                let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
                if let Some(user) = user {
                    tracing::info!(user, "known at the API server");
                    check.ready();
                    return Some(user);
                }
                "the answer has no user name".to_owned()
            }
            Err(failure) => failure.to_string(),
        };
        tracing::warn!(failure, "waiting for the API server");
        check.not_ready(failure);
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
