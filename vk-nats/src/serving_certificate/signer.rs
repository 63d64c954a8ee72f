//! The edge to the API server: makes certificate requests and looks at them, with the process' own account.

use std::{future::Future, time::Duration};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{Api, api::PostParams};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the API server was of no help.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// It refused, or could not be reached.
    #[error("cannot {verb} a certificate request: {source}; the rights are in vk-nats/rbac.yaml")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// It did not answer.
    #[error("cannot {verb} a certificate request: the API server did not answer within {TIMEOUT:?}")]
    Silence {
        /// What was tried.
        verb: &'static str,
    },
}

/// Who takes requests.
pub trait Signer: Send + Sync {
    /// Makes a request and gives its name.
    fn ask(
        &self,
        request: &CertificateSigningRequest,
    ) -> impl Future<Output = Result<String, SignerError>> + Send;

    /// A request as it stands; `None`: there is none.
    fn look(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<CertificateSigningRequest>, SignerError>> + Send;
}

/// The API server. Requests are looked at by name, so that the account needs no right to list them.
#[derive(Clone)]
pub struct KubeSigner(Api<CertificateSigningRequest>);

impl KubeSigner {
    /// With a client of the process' own account.
    pub fn new(client: kube::Client) -> Self {
        Self(Api::all(client))
    }
}

impl Signer for KubeSigner {
    async fn ask(&self, request: &CertificateSigningRequest) -> Result<String, SignerError> {
        let made = answered("create", self.0.create(&PostParams::default(), request)).await?;
        Ok(made.metadata.name.unwrap_or_default())
    }

    async fn look(&self, name: &str) -> Result<Option<CertificateSigningRequest>, SignerError> {
        answered("get", self.0.get_opt(name)).await
    }
}

async fn answered<T>(
    verb: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, SignerError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(SignerError::Api { verb, source: Box::new(source) }),
        Err(_) => Err(SignerError::Silence { verb }),
    }
}
