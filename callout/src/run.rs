//! Wires the parts together and runs them until the shutdown.

use std::{sync::Arc, time::Duration};

use fleet_daemon::{
    health::{CheckHandle, Health, HealthServer},
    nats::{Connection, LinkState, NatsSettings},
    shutdown::{Shutdown, Tasks, until},
};
use prometheus_client::registry::Registry as MetricsRegistry;

use crate::{
    authorize::{Authorizer, Complaints},
    decide::Policy,
    limits::Limits,
    metrics::Metrics,
    oidc::{Provider, ProviderError, ProviderSettings},
    registry::{Registry, watch_nodes, watch_records},
    servers::Servers,
    service::{self, ServiceError},
    settings::{Issuing, Settings},
    tokens::{KubeReviews, Oidc, OidcVerifier, ServiceAccounts, Tokens},
};

/// How often figures of what is in memory are taken, and spent budgets forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] fleet_kube::ClientError),
    /// An identity provider cannot be set up.
    #[error("setting `{setting}`")]
    Oidc {
        /// Which one.
        setting: &'static str,
        /// Why.
        #[source]
        source: ProviderError,
    },
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
    let mut metrics_registry = MetricsRegistry::default();
    let metrics = Arc::new(Metrics::new(&mut metrics_registry));
    let health = Health::new();
    let (nats_check, service_check) = (health.check("nats"), health.check("service"));
    if let Some(addr) = settings.health_listen {
        let server = HealthServer::bind(addr, health.clone(), Arc::new(metrics_registry)).await?;
        tasks.spawn("health", server.run(shutdown.clone()));
    }

    let client = fleet_kube::client(settings.kubeconfig.as_deref()).await?;
    let registry = Registry::default();
    let records = {
        let (client, registry, check) = (client.clone(), registry.clone(), health.check("records"));
        async move { watch_records(client, &settings.records_namespace, registry, check).await }
    };
    tasks.spawn("records", until(shutdown.clone(), Box::pin(records)));
    let nodes = watch_nodes(client.clone(), registry.clone(), health.check("nodes"));
    tasks.spawn("nodes", until(shutdown.clone(), Box::pin(nodes)));

    let oidc = Oidc {
        device: provider("oidc-device-issuer", settings.oidc_device)?,
        person: provider("oidc-person-issuer", settings.oidc_person)?,
    };
    let reviews = KubeReviews::new(client, settings.token_audience);
    let authorizer = Arc::new(Authorizer {
        issuer: settings.issuer,
        servers: Servers::new(settings.curves),
        spare_issuers: settings.spare_issuers,
        registry: registry.clone(),
        tokens: Tokens::new(oidc, ServiceAccounts::new(reviews)),
        policy: Policy {
            device_requests: settings.device_requests,
            components: settings.components,
            admin_role: settings.admin_role,
        },
        lifetime: settings.jwt_lifetime,
        limits: Limits::default(),
        metrics,
        complaints: Complaints::default(),
    });
    tasks.spawn("housekeeping", keep_house(Arc::clone(&authorizer), shutdown.clone()));

    let nats = fleet_daemon::nats::connect(&NatsSettings {
        url: settings.nats_url,
        ca: settings.nats_ca_file.map(Into::into),
        login: fleet_daemon::credential::Login::Credential { key: settings.nats_seed, token: None },
        name: "callout".to_owned(),
        inbox_prefix: None,
        subscription_capacity: service::SUBSCRIPTION_CAPACITY,
    })
    .await?;
    tasks.spawn("nats-check", follow_nats(nats.clone(), nats_check, shutdown.clone()));
    tasks.spawn("service", serve_when_complete(nats, registry, authorizer, service_check, shutdown));
    Ok(())
}

/// Asks nobody yet: a provider that is away does not keep devices with registry logins out.
fn provider(
    setting: &'static str,
    issuing: Option<Issuing>,
) -> Result<Option<Arc<dyn OidcVerifier>>, RunError> {
    let Some(Issuing { issuer, audience, ca_file, roles_claim }) = issuing else { return Ok(None) };
    let settings = ProviderSettings { issuer, audience, ca_file, roles_claim };
    let provider = Provider::new(settings).map_err(|source| RunError::Oidc { setting, source })?;
    Ok(Some(Arc::new(provider)))
}

/// Before all devices are known, every one of them would be refused as a stranger: until then the other
/// callouts answer.
async fn serve_when_complete(
    nats: Connection,
    registry: Registry,
    authorizer: Arc<Authorizer>,
    check: CheckHandle,
    shutdown: Shutdown,
) -> Result<(), ServiceError> {
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = registry.complete() => {}
    }
    service::serve(nats.client, authorizer, check, shutdown).await
}

async fn keep_house(authorizer: Arc<Authorizer>, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        authorizer.limits.forget();
        let (records, nodes) = {
            let index = authorizer.registry.index();
            (index.records(), index.nodes())
        };
        authorizer.metrics.records.set(i64::try_from(records).unwrap_or(i64::MAX));
        authorizer.metrics.nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }
}

async fn follow_nats(nats: Connection, check: CheckHandle, shutdown: Shutdown) {
    let mut state = nats.state;
    loop {
        match *state.borrow_and_update() {
            LinkState::Connected => check.ready(),
            LinkState::Disconnected => check.not_ready("not connected to NATS"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = state.changed() => if changed.is_err() {
                return shutdown.cancelled().await;
            },
        }
    }
}
