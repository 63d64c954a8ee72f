//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.
//!
//! `/healthz` says that the process answers at all: a supervisor restarts it when it does not. `/readyz`
//! says whether it can do its work, check by check; nothing restarts it for that. Metrics are those of a
//! Prometheus registry in OpenMetrics text.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::Instrument as _;

use crate::shutdown::Shutdown;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time: probes and scrapers, not visitors.
const MAX_CONNECTIONS: usize = 32;

/// The checks that make up readiness. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Status>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Status {
    Ready,
    NotReady(String),
}

/// One check, held by whoever knows the answer.
#[derive(Debug, Clone)]
pub struct CheckHandle {
    health: Health,
    name: String,
}

/// Why the server is not there.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address cannot be bound.
    #[error("the health address {addr} cannot be bound: choose another `health-listen`")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Health {
    /// Without checks it is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, not ready until its handle says otherwise. A check of the same name is replaced.
    pub fn check(&self, name: impl Into<String>) -> CheckHandle {
        let handle = CheckHandle { health: self.clone(), name: name.into() };
        handle.not_ready("starting");
        handle
    }

    /// Whether all checks are ready.
    pub fn is_ready(&self) -> bool {
        self.checks().values().all(|status| *status == Status::Ready)
    }

    /// One line for each check that is not ready (for each, if `verbose`), in the form of Kubernetes'
    /// own components.
    fn report(&self, verbose: bool) -> (bool, String) {
        let mut ready = true;
        let mut text = String::new();
        for (name, status) in self.checks().iter() {
            // Writing to a String cannot fail.
            let _ = match status {
                Status::Ready if verbose => writeln!(text, "[+]{name} ok"),
                Status::Ready => Ok(()),
                Status::NotReady(reason) => {
                    ready = false;
                    writeln!(text, "[-]{name} not ready: {reason}")
                }
            };
        }
        let _ = match (ready, verbose) {
            (true, false) => write!(text, "ok"),
            (true, true) => writeln!(text, "readyz check passed"),
            (false, _) => writeln!(text, "readyz check failed"),
        };
        (ready, text)
    }

    fn checks(&self) -> MutexGuard<'_, BTreeMap<String, Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckHandle {
    /// It works.
    pub fn ready(&self) {
        self.set(Status::Ready);
    }

    /// It does not, for this reason.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Status::NotReady(reason.into()));
    }

    fn set(&self, status: Status) {
        let mut checks = self.health.checks();
        let before = checks.get(&self.name);
        if before == Some(&status) {
            return;
        }
        match &status {
            Status::Ready => tracing::info!(check = self.name, "ready"),
            Status::NotReady(reason) if before.is_some() => {
                tracing::warn!(check = self.name, reason, "not ready");
            }
            Status::NotReady(_) => {}
        }
        checks.insert(self.name.clone(), status);
    }
}

/// Answers on `addr` until the shutdown.
pub async fn serve(
    addr: SocketAddr,
    health: Health,
    registry: Arc<Registry>,
    shutdown: Shutdown,
) -> Result<(), HealthError> {
    HealthServer::bind(addr, health, registry).await?.run(shutdown).await;
    Ok(())
}

/// A server that has its address, but does not answer yet.
#[derive(Debug)]
pub struct HealthServer {
    listener: TcpListener,
    health: Health,
    registry: Arc<Registry>,
}

impl HealthServer {
    /// Takes the address.
    pub async fn bind(
        addr: SocketAddr,
        health: Health,
        registry: Arc<Registry>,
    ) -> Result<Self, HealthError> {
        let listener = TcpListener::bind(addr).await.map_err(|source| HealthError::Bind { addr, source })?;
        Ok(Self { listener, health, registry })
    }

    /// The address, also when port 0 was asked for.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: accepting again at once would spin.
                    tracing::warn!(%error, "a health connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // One connection too many is closed at once.
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
            let (health, registry, ended) =
                (self.health.clone(), Arc::clone(&self.registry), shutdown.cancelled());
            let connection = async move {
                let _slot = slot;
                let service = service_fn(move |request| {
                    let response = answer(&request, &health, &registry);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(REQUEST_TIMEOUT)
                    .max_buf_size(16 * 1024)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = ended => {}
                    served = connection => {
                        if let Err(error) = served {
                            tracing::debug!(%error, "health connection");
                        }
                    }
                }
            };
            tokio::spawn(connection.instrument(tracing::debug_span!("health connection")));
        }
    }
}

fn answer(request: &Request<Incoming>, health: &Health, registry: &Registry) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
    }
    match request.uri().path() {
        "/healthz" | "/livez" => respond(StatusCode::OK, TEXT, "ok".to_owned()),
        "/readyz" => {
            let verbose = request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|part| matches!(part, "verbose" | "verbose=true")));
            let (ready, text) = health.report(verbose);
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            respond(status, TEXT, text)
        }
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, registry) {
                Ok(()) => respond(StatusCode::OK, OPEN_METRICS, text),
                Err(_) => respond(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    TEXT,
                    "the metrics cannot be written\n".to_owned(),
                ),
            }
        }
        _ => respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /healthz, /readyz?verbose and /metrics\n".to_owned(),
        ),
    }
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
#[path = "tests/health.rs"]
mod tests;
