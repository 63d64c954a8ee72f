//! One TCP listener for each Node's port: the port tells which device is meant.
//!
//! ```text
//! ports (watch) ─► listeners ─┬─ :10300 pi-1 ─ accept ─ TLS ─ HTTP/1.1 ─┐
//!                             ├─ :10301 pi-2 ─ …                        ├─► one router for all
//!                             └─ …                                      ┘
//! ```
//!
//! A listener is a socket and one sleeping task. Every wait on a client has a limit; so has the number of
//! connections, of a device and in all.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use fleet_wire::name::DeviceName;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::{auth::User, metrics::Metrics};
use crate::nodes::NodePorts;

/// Most connections to one device's port at once.
const CONNECTIONS_PER_DEVICE: usize = 64;
/// Most connections at once to all of them.
const CONNECTIONS: usize = 4096;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take for a request's head, and how long a connection may rest between two
/// (a kubelet waits 32 s).
const HEADER: Duration = Duration::from_secs(30);
/// Most header lines of a request.
const HEADERS: usize = 64;
/// Most bytes that are buffered for a connection, and so the longest request head.
const BUFFER: usize = 64 * 1024;
/// How long connections may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Pauses between attempts to take a port that is in use.
const RETRY: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(10)];

/// Whom a request is for, and who sent it: an extension of every request.
#[derive(Debug, Clone)]
pub struct Served {
    /// The device whose port it came in on.
    pub device: DeviceName,
    /// The user of the connection's client certificate.
    pub user: Option<User>,
}

/// What all listeners share.
pub struct Listening {
    router: Router,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    address: IpAddr,
    metrics: Metrics,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Listening {
    /// Serves `router` on ports of `address`.
    pub fn new(
        router: Router,
        tls: watch::Receiver<Option<Arc<ServerConfig>>>,
        address: IpAddr,
        metrics: Metrics,
    ) -> Self {
        Self {
            router,
            tls,
            address,
            metrics,
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            tasks: TaskTracker::new(),
        }
    }

    /// Keeps a listener for each port until `shutdown`; then lets connections end.
    pub async fn run(self, mut ports: watch::Receiver<NodePorts>, shutdown: CancellationToken) {
        raise_open_files();
        let this = Arc::new(self);
        let mut running: BTreeMap<DeviceName, (u16, CancellationToken)> = BTreeMap::new();
        loop {
            let wanted = ports.borrow_and_update().clone();
            running.retain(|device, (port, stop)| {
                let keep = wanted.get(device) == Some(port);
                if !keep {
                    stop.cancel();
                }
                keep
            });
            for (device, port) in wanted {
                running.entry(device).or_insert_with_key(|device| {
                    let stop = shutdown.child_token();
                    let span = tracing::info_span!("listener", %device, port);
                    let listener = this.clone().listen(device.clone(), port, stop.clone());
                    this.tasks.spawn(listener.instrument(span));
                    (port, stop)
                });
            }
            tokio::select! {
                changed = ports.changed() => if changed.is_err() {
                    // Whoever knew the ports is gone: those that are known go on.
                    shutdown.cancelled().await;
                    break;
                },
                () = shutdown.cancelled() => break,
            }
        }
        this.tasks.close();
        if timeout(DRAIN, this.tasks.wait()).await.is_err() {
            tracing::warn!(open = this.tasks.len(), "connections did not end within {DRAIN:?}");
        }
    }

    async fn listen(self: Arc<Self>, device: DeviceName, port: u16, stop: CancellationToken) {
        let serve = async {
            let socket = self.bind(port).await;
            let limit = Arc::new(Semaphore::new(CONNECTIONS_PER_DEVICE));
            loop {
                match socket.accept().await {
                    Ok((stream, peer)) => self.admit(stream, peer, &device, &limit, &stop),
                    Err(error) => {
                        // Out of file descriptors, or a connection that ended before it was accepted.
                        tracing::debug!(%error, "cannot accept");
                        sleep(RETRY[0]).await;
                    }
                }
            }
        };
        tokio::select! {
            () = serve => {}
            () = stop.cancelled() => {}
        }
    }

    async fn bind(&self, port: u16) -> TcpListener {
        let mut pauses = RETRY.into_iter().chain(std::iter::repeat(RETRY[RETRY.len() - 1]));
        loop {
            match TcpListener::bind(SocketAddr::new(self.address, port)).await {
                Ok(socket) => return socket,
                Err(error) => tracing::warn!(
                    %error,
                    "cannot listen: kubectl logs will not reach this device until the port is free"
                ),
            }
            sleep(pauses.next().unwrap_or(DRAIN)).await;
        }
    }

    fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        device: &DeviceName,
        limit: &Arc<Semaphore>,
        stop: &CancellationToken,
    ) {
        let permits = (limit.clone().try_acquire_owned(), self.connections.clone().try_acquire_owned());
        let (Ok(of_device), Ok(of_all)) = permits else {
            self.metrics.refuse();
            tracing::debug!(%peer, "too many connections");
            return;
        };
        let (this, device, stop) = (self.clone(), device.clone(), stop.clone());
        let connection = async move {
            let _held = (of_device, of_all, this.metrics.connection());
            this.connection(stream, device, stop).await;
        };
        self.tasks.spawn(connection.instrument(tracing::debug_span!("connection", %peer)));
    }

    /// The present configuration. Right after the start the cluster may not have signed the certificate yet:
    /// whoever comes then waits for it.
    async fn certified(&self) -> Option<Arc<ServerConfig>> {
        let mut tls = self.tls.clone();
        tls.wait_for(Option::is_some).await.ok().and_then(|config| config.clone())
    }

    async fn connection(&self, stream: TcpStream, device: DeviceName, stop: CancellationToken) {
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(%error, "cannot set up the socket");
        }
        let accepted = async {
            let Some(config) = self.certified().await else {
                return Err(std::io::Error::other("there is no serving certificate"));
            };
            TlsAcceptor::from(config).accept(stream).await
        };
        let stream = match timeout(HANDSHAKE, accepted).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("no TLS handshake within {HANDSHAKE:?}"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let served =
            Served { device, user: certificate.and_then(|certificate| User::of_certificate(certificate)) };
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(served.clone());
            let response = hyper::service::Service::call(&router, request);
            async move { Ok::<Response<_>, Infallible>(response.await.unwrap_or_else(|never| match never {})) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .max_headers(HEADERS)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match timeout(DRAIN, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "the connection ended early");
        }
    }
}

/// A thousand Nodes are a thousand sockets: as many as the process may have, not only as many as it has by
/// default (often 1024).
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "the limit of open files stays as it is");
    }
}

/// A client that vanished without a word is noticed within a minute, also on a log that is silent.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}
