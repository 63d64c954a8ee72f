//! The HTTPS client for identity providers: small answers, bounded in time and size, from trusted servers.
//!
//! It never follows a redirect (who may answer stands in the settings, not in an answer), never keeps a
//! connection (a provider is asked every few minutes), and never sends anything over plain HTTP, except to
//! this very machine. It fits the libraries that take a client as a function from request to response.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};

/// Largest answer, in bytes. Discovery documents and key sets have a few thousand.
const MAX_ANSWER: usize = 256 * 1024;

/// Why a provider could not be asked, or its answer not be read.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The CA file cannot be read.
    #[error("the identity provider's CA file {file} cannot be read: {source}", file = file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The CA file has no certificate that could be used.
    #[error("the identity provider's CA file {file} has no usable certificate: expected PEM", file = file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// The system has no certificate authorities.
    #[error(
        "the system's certificate authorities cannot be used ({0}); install ca-certificates, or set the \
         provider's CA file"
    )]
    SystemRoots(String),
    /// The TLS library refused its settings: a fault of the program.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// Not a URL that may be asked.
    #[error("{url:?} may not be asked: expected https:// (http:// only for this machine itself)")]
    NotAllowed {
        /// The URL.
        url: String,
    },
    /// No connection, no TLS, or the answer broke off.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// The URL.
        url: String,
        /// What failed, down to the cause.
        reason: String,
    },
    /// No answer in time.
    #[error("{url} did not answer within {} s", .within.as_secs_f32())]
    TimedOut {
        /// The URL.
        url: String,
        /// How long it had.
        within: Duration,
    },
    /// The answer is too large.
    #[error("the answer of {url} has more than {MAX_ANSWER} bytes")]
    TooLarge {
        /// The URL.
        url: String,
    },
}

/// A client that trusts one set of certificate authorities. Clones share it.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    within: Duration,
}

impl HttpClient {
    /// Trusts the authorities in `ca_file` (PEM) and no others; without a file, the system's. Every request
    /// has to be answered completely within `within`.
    pub fn new(ca_file: Option<&Path>, within: Duration) -> Result<Self, HttpError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = match ca_file {
            Some(file) => builder.with_root_certificates(roots(file)?),
            None => builder.with_native_roots().map_err(|e| HttpError::SystemRoots(e.to_string()))?,
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(builder.with_no_client_auth())
            // Whether plain HTTP is allowed depends on the address: see `allowed`.
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client, within })
    }

    /// Sends one request and reads the whole answer, whatever its status.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, HttpError> {
        let url = request.uri().to_string();
        if !allowed(request.uri()) {
            return Err(HttpError::NotAllowed { url });
        }
        let exchange = async {
            let unreachable = |error: &dyn std::error::Error| HttpError::Unreachable {
                url: url.clone(),
                reason: causes(error),
            };
            let request = request.map(|body| Full::new(Bytes::from(body)));
            let (head, body) = self.client.request(request).await.map_err(|e| unreachable(&e))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| match error
                .downcast_ref::<LengthLimitError>(
            ) {
                Some(_) => HttpError::TooLarge { url: url.clone() },
                None => unreachable(error.as_ref()),
            })?;
            Ok(Response::from_parts(head, body.to_bytes().to_vec()))
        };
        match tokio::time::timeout(self.within, exchange).await {
            Ok(result) => result,
            Err(_) => Err(HttpError::TimedOut { url: url.clone(), within: self.within }),
        }
    }
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient").field("within", &self.within).finish_non_exhaustive()
    }
}

/// Whether a secret may be sent there, and keys be believed from there.
pub fn allowed(uri: &Uri) -> bool {
    let Some(host) = uri.host() else { return false };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        _ => false,
    }
}

fn roots(file: &Path) -> Result<RootCertStore, HttpError> {
    let pem = std::fs::read(file).map_err(|source| HttpError::CaFile { file: file.to_owned(), source })?;
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
        let certificate =
            certificate.map_err(|source| HttpError::CaFile { file: file.to_owned(), source })?;
        roots.add(certificate).map_err(|_| HttpError::NoCertificate { file: file.to_owned() })?;
    }
    if roots.is_empty() {
        return Err(HttpError::NoCertificate { file: file.to_owned() });
    }
    Ok(roots)
}

/// hyper's own text is `client error (Connect)`; why stands in the causes below it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "tests/http.rs"]
mod tests;
