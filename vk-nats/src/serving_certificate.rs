//! The kubelet API's certificate from the cluster: asks for it, waits for it, renews it in good time.
//!
//! ```text
//!         ┌────────────── renewed at 70–90 % of its life ──────────────┐
//!         ▼                                                            │
//!  key, CertificateSigningRequest ─► pending ─► approved ─► signed ─► served
//!         ▲                            │  (enroller)  (kube-controller-manager)
//!         └──── after a pause ◄── denied, failed, gone, nobody answered
//! ```
//!
//! Owns: the key (in memory, fresh for each certificate, never written), when to ask, and what `/readyz` says
//! of it. Never approves anything. The process asks with its own account and not as a device's node: the
//! certificate is for the address of this replica, which all Nodes share, and the enroller believes the author
//! that the API server noted. (NodeRestriction would bind a node to a request for its own name.)
//!
//! | module | question it answers |
//! |---|---|
//! | [`request`] | what is asked for, and what became of it? |
//! | [`schedule`] | when is it renewed, and when tried again? |
//! | [`signer`] | how does the request get to the API server? |

pub mod request;
pub mod schedule;
pub mod signer;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use fleet_daemon::health::CheckHandle;
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::kubelet_api::{Metrics, tls};
pub use request::Wanted;
use request::{Asked, Progress, RequestError};
pub use signer::KubeSigner;
use signer::{Signer, SignerError};

/// How long one request may stay unanswered before it is replaced: a kubelet's 15 minutes.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// As long as this it takes each time, and nobody has to be told.
const QUICK: Duration = Duration::from_secs(3);
/// How long nobody has to wonder why it is not approved.
const USUAL: Duration = Duration::from_secs(30);
/// How often a certificate's age is looked at, by the wall clock: machines sleep, and clocks are set.
const LOOK: Duration = Duration::from_secs(60);

/// A certificate and its key, as they serve.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The chain, PEM.
    pub certificate: Vec<u8>,
    /// The key, PEM. Never shown.
    pub key: Vec<u8>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// Why a request did not become a certificate.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error("the request {0} was denied: {1}")]
    Denied(String, String),
    #[error(
        "the signer refused the request {0}: {1}; does the cluster sign `kubernetes.io/kubelet-serving`?"
    )]
    Failed(String, String),
    #[error("the request {0} is gone")]
    Gone(String),
    #[error("nobody answered the request {0} within {PATIENCE:?}")]
    Unanswered(String),
    #[error("what the cluster signed for the request {0} cannot be used: {1}")]
    Unusable(String, tls::TlsError),
}

impl Failure {
    /// For metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Request(_) => "invalid",
            Self::Signer(_) => "unavailable",
            Self::Denied(..) => "denied",
            Self::Failed(..) => "failed",
            Self::Gone(_) => "gone",
            Self::Unanswered(_) => "unanswered",
            Self::Unusable(..) => "unusable",
        }
    }
}

/// Keeps a certificate for this replica.
pub struct Keeper<S, C> {
    signer: S,
    wanted: Wanted,
    served: watch::Sender<Option<Arc<Pair>>>,
    /// When the served one ends.
    expires: Option<Timestamp>,
    check: CheckHandle,
    metrics: Metrics,
    now: C,
}

impl<S: Signer, C: Fn() -> Timestamp> Keeper<S, C> {
    /// `now` is the wall clock. The pair appears in `served`.
    pub fn new(
        signer: S,
        wanted: Wanted,
        served: watch::Sender<Option<Arc<Pair>>>,
        check: CheckHandle,
        metrics: Metrics,
        now: C,
    ) -> Self {
        Self { signer, wanted, served, expires: None, check, metrics, now }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            match self.obtain().await {
                Ok((request, pair, not_after)) => {
                    failures = 0;
                    let now = (self.now)();
                    let renewal = schedule::renewal(now, not_after, rand::random());
                    tracing::info!(request, expires = %not_after, %renewal, "the cluster signed the serving certificate");
                    self.metrics.certificate_request("issued");
                    self.expires = Some(not_after);
                    self.served.send_replace(Some(Arc::new(pair)));
                    self.check.ready();
                    self.sleep_until(renewal).await;
                }
                Err(failure) => {
                    failures += 1;
                    let pause = schedule::pause(failures, rand::random());
                    self.metrics.certificate_request(failure.label());
                    tracing::warn!(%failure, again_in = ?pause, served = self.is_good(), "no serving certificate from the cluster");
                    self.lack(&failure.to_string());
                    sleep(pause).await;
                }
            }
        }
    }

    /// Asks, and waits for the answer.
    async fn obtain(&self) -> Result<(String, Pair, Timestamp), Failure> {
        let Asked { object, key } = Asked::new(&self.wanted)?;
        let request = self.signer.ask(&object).await?;
        tracing::info!(request, address = %self.wanted.address, "asked the cluster for a serving certificate");
        let asked = Instant::now();
        let mut wondered = false;
        while asked.elapsed() < PATIENCE {
            let waiting = match self.signer.look(&request).await {
                Ok(None) => return Err(Failure::Gone(request)),
                Ok(Some(object)) => match request::progress(&object) {
                    Progress::Signed(certificate) => {
                        let pair = Pair { certificate, key: key.serialize_pem().into_bytes() };
                        return match tls::check_pair(&pair) {
                            Ok(not_after) => Ok((request, pair, not_after)),
                            Err(error) => Err(Failure::Unusable(request, error)),
                        };
                    }
                    Progress::Denied(why) => return Err(Failure::Denied(request, why)),
                    Progress::Failed(why) => return Err(Failure::Failed(request, why)),
                    Progress::Approved => {
                        format!("the request {request} is approved and waits for the signer")
                    }
                    Progress::Pending => format!("the request {request} waits for the enroller's approval"),
                },
                // It may be back before the request is too old.
                Err(error) => error.to_string(),
            };
            if asked.elapsed() >= QUICK {
                self.lack(&waiting);
            }
            if !wondered && asked.elapsed() >= USUAL {
                wondered = true;
                tracing::warn!(
                    address = %self.wanted.address,
                    "{waiting}: does the enroller run, and is this the address of a running vk-nats pod, or in the enroller's `serving-addresses`?"
                );
            }
            sleep(schedule::poll(asked.elapsed())).await;
        }
        Err(Failure::Unanswered(request))
    }

    /// While the old one is good nobody has to know that the new one is not there yet.
    fn lack(&self, why: &str) {
        if !self.is_good() {
            self.check.not_ready(format!("kubectl logs does not work: {why}"));
        }
    }

    fn is_good(&self) -> bool {
        self.expires.is_some_and(|expires| (self.now)() < expires)
    }

    async fn sleep_until(&self, moment: Timestamp) {
        while let Ok(left) = Duration::try_from(moment.duration_since((self.now)()))
            && !left.is_zero()
        {
            sleep(left.min(LOOK)).await;
        }
    }
}

/// Asks the cluster for ever, with the wall clock of this machine.
pub fn keep(
    client: kube::Client,
    wanted: Wanted,
    served: watch::Sender<Option<Arc<Pair>>>,
    check: CheckHandle,
    metrics: Metrics,
) -> impl Future<Output = ()> {
    Keeper::new(KubeSigner::new(client), wanted, served, check, metrics, Timestamp::now).run()
}

#[cfg(test)]
#[path = "serving_certificate/tests/keeper.rs"]
mod tests;
