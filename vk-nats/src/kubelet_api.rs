//! The kubelet's HTTPS API for every device in one process: what makes `kubectl logs` work.
//!
//! ```text
//! kube-apiserver ─HTTPS :port─► listener ─► auth ─► routes ─► logs ─┬─ request  down.logs ──► device
//!                 (port = Node) 1 per Node  401/403  404/501        └─ frames   session.<id> ◄─►
//! ```
//!
//! Owns: sockets, TLS, who may ask, the reading end of log streams. Never decides what a log contains, and
//! never talks to NATS: that is [`crate::devices`]. Every request is authenticated and authorized, whatever
//! its path.
//!
//! | module | question it answers |
//! |---|---|
//! | [`listener`] | which port serves which device, and how many connections may there be? |
//! | [`tls`] | which certificate serves, whose client certificates are believed? |
//! | [`auth`] | who asks, and may they? |
//! | [`routes`] | what does this path mean? |
//! | [`logs`] | how does a container's log get from the device to the client? |
//! | [`edge`] | what is needed of the rest of `vk-nats`? |

pub mod auth;
pub mod edge;
pub mod listener;
pub mod logs;
pub mod metrics;
pub mod routes;
pub mod tls;

use std::{net::IpAddr, sync::Arc};

use fleet_daemon::shutdown::Shutdown;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{devices::Devices, nodes::NodePorts, pods::Pods};
use auth::{ApiServer, Auth, Reviewer};
use edge::{Fleet, Served};
use listener::Listening;
use logs::Windows;
pub use metrics::Metrics;
use tls::Reloading;
pub use tls::{Certificate, Tls, TlsError};

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum KubeletApiError {
    /// The certificate files are not usable.
    #[error("the kubelet API cannot be served: {0}")]
    Tls(TlsError),
}

/// What the API is made of.
pub struct KubeletApi {
    /// The devices.
    pub fleet: Arc<dyn Fleet>,
    /// Who answers whether a user may ask.
    pub reviewer: Arc<dyn Reviewer>,
    /// Which port serves which Node; listeners come and go with it.
    pub ports: watch::Receiver<NodePorts>,
    /// The address to listen on.
    pub address: IpAddr,
    /// Key material.
    pub tls: Tls,
    /// Counters.
    pub metrics: Metrics,
}

impl KubeletApi {
    /// The API of the devices that this process serves; `client` acts with the process' own account, which
    /// may create `tokenreviews` and `subjectaccessreviews`.
    pub fn new(
        devices: Devices,
        pods: Pods,
        client: kube::Client,
        ports: watch::Receiver<NodePorts>,
        address: IpAddr,
        tls: Tls,
        metrics: Metrics,
    ) -> Self {
        Self {
            fleet: Arc::new(Served { devices, pods }),
            reviewer: Arc::new(ApiServer(client)),
            ports,
            address,
            tls,
            metrics,
        }
    }
}

/// What handlers share.
pub struct Shared {
    fleet: Arc<dyn Fleet>,
    auth: Auth,
    windows: Windows,
    metrics: Metrics,
    streams: TaskTracker,
    shutdown: CancellationToken,
}

/// Serves until `shutdown`; open streams end with a line that says so.
///
/// # Errors
/// Only at the start, when the certificate files are not usable.
pub async fn serve(api: KubeletApi, shutdown: Shutdown) -> Result<(), KubeletApiError> {
    let shutdown = shutdown.token();
    let tls = Reloading::load(api.tls, api.metrics.clone()).await.map_err(KubeletApiError::Tls)?;
    let shared = Arc::new(Shared {
        fleet: api.fleet,
        auth: Auth::new(api.reviewer),
        windows: Windows::default(),
        metrics: api.metrics.clone(),
        streams: TaskTracker::new(),
        shutdown: shutdown.clone(),
    });
    let listening = Listening::new(routes::router(shared.clone()), tls.watch(), api.address, api.metrics);
    let reload = tls.run().instrument(tracing::info_span!("certificate"));
    let listen = listening.run(api.ports, shutdown);
    tokio::select! {
        () = listen => {}
        () = reload => {}
    }
    shared.streams.close();
    shared.streams.wait().await;
    Ok(())
}
