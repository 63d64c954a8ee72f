//! The serving certificate, and whose client certificates are believed.
//!
//! Files are looked at again ten seconds: a renewed certificate serves the next connection, without a
//! restart. A renewal that cannot be read is logged, and the last good one goes on serving.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

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

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Where key material lies.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Serving certificate with its chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
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
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
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

/// Contents of the files.
struct Material {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Material {
    async fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&files.certificate).await?,
            key: read(&files.key).await?,
            client_ca: match &files.client_ca {
                Some(path) => Some(read(path).await?),
                None => None,
            },
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.certificate, &self.key, self.client_ca.as_deref().unwrap_or_default()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn config(&self, files: &TlsFiles) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
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
            _ => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::Content { path: files.key.clone(), expected: "private key in PEM" })?;
        let mut config = builder
            .with_single_cert(certificates(&files.certificate, &self.certificate)?, key)
            .map_err(|cause| TlsError::Pair {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                cause,
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|cause| TlsError::Read { path: path.to_owned(), cause })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Content { path: path.to_owned(), expected: "certificate in PEM" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| wrong())?;
    if found.is_empty() { Err(wrong()) } else { Ok(found) }
}

/// The present configuration, kept up to date by [`Reloading::run`].
pub struct Reloading {
    files: TlsFiles,
    seen: [u8; 32],
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Reloading {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub async fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let material = Material::read(&files).await?;
        let config = material.config(&files)?;
        Ok(Self { seen: material.fingerprint(), files, current: watch::Sender::new(Arc::new(config)) })
    }

    /// Where the present configuration stands.
    pub fn watch(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.current.subscribe()
    }

    /// Looks at the files for ever.
    pub async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the renewed serving certificate cannot be used; the old one goes on");
            }
        }
    }

    async fn look(&mut self) -> Result<(), TlsError> {
        let material = Material::read(&self.files).await?;
        let fingerprint = material.fingerprint();
        if fingerprint != self.seen {
            // Between the renewal of the certificate and of the key the pair does not fit: next time it will.
            self.current.send_replace(Arc::new(material.config(&self.files)?));
            self.seen = fingerprint;
            tracing::info!("serving certificate reloaded");
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
