//! The serving certificate, and whose client certificates are believed.
//!
//! The certificate is a pair of files, or comes from the cluster ([`crate::serving_certificate`]). Files are
//! looked at each ten seconds. A renewed certificate serves the next connection, without a restart; those that
//! are open go on with the one that they began with. A renewal that cannot be read is logged, and the last
//! good one goes on serving.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::metrics::Metrics;
use crate::serving_certificate::Pair;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum Certificate {
    /// From files.
    Files {
        /// The certificate with its chain, PEM.
        certificate: PathBuf,
        /// Its key, PEM.
        key: PathBuf,
    },
    /// From the cluster, once it has signed one.
    Cluster(watch::Receiver<Option<Arc<Pair>>>),
}

/// Where key material lies.
#[derive(Debug, Clone)]
pub struct Tls {
    /// What this end shows.
    pub certificate: Certificate,
    /// Authorities whose client certificates name users, PEM. Without it only tokens do.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {expected}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// Key and certificate do not fit, or are of a kind that cannot be used.
    #[error("certificate {} and key {} cannot serve: {cause}", .certificate.display(), .key.display())]
    Pair {
        /// The certificate's place.
        certificate: PathBuf,
        /// The key's place.
        key: PathBuf,
        /// Why.
        cause: rustls::Error,
    },
    /// The authorities for clients cannot be used.
    #[error("client authorities in {} cannot be used: {reason}", .path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The protocol versions are not available.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Contents of the files, and where they come from.
struct Material {
    pair: Pair,
    places: Places,
    client_ca: Option<(PathBuf, Vec<u8>)>,
}

/// What errors call the parts of a pair.
#[derive(Debug, Clone)]
struct Places {
    certificate: PathBuf,
    key: PathBuf,
}

impl Places {
    fn cluster() -> Self {
        Self { certificate: "from the cluster".into(), key: "in memory".into() }
    }
}

impl Material {
    /// `None`: the cluster has not signed a certificate yet.
    async fn read(tls: &Tls) -> Result<Option<Self>, TlsError> {
        let (pair, places) = match &tls.certificate {
            Certificate::Files { certificate, key } => (
                Pair { certificate: read(certificate).await?, key: read(key).await? },
                Places { certificate: certificate.clone(), key: key.clone() },
            ),
            Certificate::Cluster(signed) => match signed.borrow().clone() {
                Some(pair) => (Pair::clone(&pair), Places::cluster()),
                None => return Ok(None),
            },
        };
        let client_ca = match &tls.client_ca {
            Some(path) => Some((path.clone(), read(path).await?)),
            None => None,
        };
        Ok(Some(Self { pair, places, client_ca }))
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let authorities = self.client_ca.as_ref().map(|(_, pem)| pem.as_slice()).unwrap_or_default();
        for part in [&self.pair.certificate, &self.pair.key, authorities] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let builder = match &self.client_ca {
            Some((path, pem)) => {
                let refused = |reason: String| TlsError::ClientCa { path: path.clone(), reason };
                let mut roots = RootCertStore::empty();
                for authority in certificates(path, pem)? {
                    roots.add(authority).map_err(|error| refused(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| refused(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let Places { certificate, key } = &self.places;
        let secret = PrivateKeyDer::from_pem_slice(&self.pair.key)
            .map_err(|_| TlsError::Content { path: key.clone(), expected: "private key in PEM" })?;
        let mut config = builder
            .with_single_cert(certificates(certificate, &self.pair.certificate)?, secret)
            .map_err(|cause| TlsError::Pair { certificate: certificate.clone(), key: key.clone(), cause })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn not_after(&self) -> Result<Timestamp, TlsError> {
        let path = &self.places.certificate;
        let unreadable = || TlsError::Content { path: path.clone(), expected: "X.509 certificate" };
        let chain = certificates(path, &self.pair.certificate)?;
        let leaf = chain.first().ok_or_else(unreadable)?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| unreadable())?;
        Timestamp::from_second(leaf.validity().not_after.timestamp()).map_err(|_| unreadable())
    }
}

/// Whether a pair from the cluster can serve, and until when.
///
/// # Errors
/// [`TlsError`], which says what is wrong with it.
pub fn check_pair(pair: &Pair) -> Result<Timestamp, TlsError> {
    let material = Material { pair: pair.clone(), places: Places::cluster(), client_ca: None };
    material.config()?;
    material.not_after()
}

async fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|cause| TlsError::Read { path: path.to_owned(), cause })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Content { path: path.to_owned(), expected: "certificate in PEM" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| wrong())?;
    if found.is_empty() { Err(wrong()) } else { Ok(found) }
}

/// The present configuration, kept up to date by [`Reloading::run`]. `None`: there is no certificate yet.
pub struct Reloading {
    tls: Tls,
    seen: Option<[u8; 32]>,
    current: watch::Sender<Option<Arc<ServerConfig>>>,
    metrics: Metrics,
}

impl Reloading {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub async fn load(tls: Tls, metrics: Metrics) -> Result<Self, TlsError> {
        let mut reloading = Self { tls, seen: None, current: watch::Sender::new(None), metrics };
        reloading.look().await?;
        Ok(reloading)
    }

    /// Where the present configuration stands.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<ServerConfig>>> {
        self.current.subscribe()
    }

    /// Follows files and cluster for ever.
    pub async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signed = match &self.tls.certificate {
            Certificate::Cluster(signed) => Some(signed.clone()),
            Certificate::Files { .. } => None,
        };
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = renewed(&mut signed) => {}
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the renewed serving certificate cannot be used; the old one goes on");
            }
        }
    }

    async fn look(&mut self) -> Result<(), TlsError> {
        let Some(material) = Material::read(&self.tls).await? else { return Ok(()) };
        let fingerprint = Some(material.fingerprint());
        if fingerprint != self.seen {
            // Between the renewal of the certificate and of the key the pair does not fit: next time it will.
            let (config, not_after) = (material.config()?, material.not_after()?);
            self.current.send_replace(Some(Arc::new(config)));
            self.seen = fingerprint;
            self.metrics.certificate_expires(not_after);
            tracing::info!(expires = %not_after, "this serving certificate is shown from now on");
        }
        Ok(())
    }
}

/// Waits for the cluster's next certificate; for ever where there is none to come.
async fn renewed(signed: &mut Option<watch::Receiver<Option<Arc<Pair>>>>) {
    let gone = match signed {
        Some(signed) => signed.changed().await.is_err(),
        None => true,
    };
    if gone {
        std::future::pending().await
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
