//! Acting as a node: the one way in which anything is read or written *for* a device.
//!
//! Every request here carries `Impersonate-User: system:node:<device>` and no group, which is what the
//! API server's constrained impersonation wants (a group header would fall back to the old, unlimited
//! kind). From there on Kubernetes' own Node authorizer and NodeRestriction decide, exactly as they do for
//! a kubelet. The process's own account lists and watches, and never goes through this module.

mod error;
mod gate;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fleet_wire::name::DeviceName;
use http::{HeaderValue, Method, Request, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::{Serialize, de::DeserializeOwned};
use tower::{BoxError, service_fn};

pub use error::ApiError;
pub use gate::{Gate, Lane, TokenBucket};

use crate::{metrics::Metrics, ownership::Tenure};

/// How long one request may take before it counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const IMPERSONATE_USER: &str = "impersonate-user";

/// The API server as nodes see it. Cheap to clone.
#[derive(Clone)]
pub struct NodeClient {
    client: kube::Client,
    gate: Gate,
    tenure: Tenure,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeClient").finish_non_exhaustive()
    }
}

/// One request in words of the API.
#[derive(Debug, Clone)]
pub struct Call {
    /// For metrics, e.g. `patch pods/status`.
    pub operation: &'static str,
    /// Which share of the budget it uses.
    pub lane: Lane,
    /// HTTP method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// `Content-Type` of the body.
    pub content_type: &'static str,
    /// Body.
    pub body: Vec<u8>,
}

/// `Content-Type` of a body that is an object.
pub const JSON: &str = "application/json";
/// `Content-Type` of a strategic merge patch.
pub const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
/// `Content-Type` of a JSON merge patch.
pub const MERGE_PATCH: &str = "application/merge-patch+json";

impl Call {
    /// A request with a JSON body.
    pub fn new<T: Serialize>(
        operation: &'static str,
        lane: Lane,
        method: Method,
        path: String,
        content_type: &'static str,
        body: &T,
    ) -> Self {
        // The bodies are JSON values and Kubernetes types, whose serialization cannot fail.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { operation, lane, method, path, content_type, body }
    }

    /// A GET.
    pub fn get(operation: &'static str, lane: Lane, path: String) -> Self {
        Self { operation, lane, method: Method::GET, path, content_type: JSON, body: Vec::new() }
    }
}

/// The user that a device's node is.
pub fn node_user(device: &DeviceName) -> String {
    format!("system:node:{device}")
}

impl NodeClient {
    /// `tenure` says whether this process may still write.
    pub fn new(client: kube::Client, gate: Gate, tenure: Tenure, metrics: Arc<Metrics>) -> Self {
        Self { client, gate, tenure, metrics }
    }

    /// Sends a request as the node and gives the answer's body.
    ///
    /// Waits for a place in the lane; obeys the API server's `Retry-After` for everyone.
    ///
    /// # Errors
    /// See [`ApiError`]; it says what may be tried again.
    pub async fn send(&self, device: &DeviceName, call: Call) -> Result<Bytes, ApiError> {
        let operation = call.operation;
        let _place = self.gate.enter(call.lane).await;
        if !self.tenure.holds() {
            return Err(ApiError::NotOwner);
        }
        let began = tokio::time::Instant::now();
        let result = match tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(device, call)).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::Unavailable {
                message: format!("the API server did not answer within {REQUEST_TIMEOUT:?}"),
            }),
        };
        if let Err(ApiError::Throttled { after, .. }) = &result {
            self.gate.pause(*after);
        }
        let label = result.as_ref().map_or_else(ApiError::label, |_| "Ok");
        self.metrics.api_request(operation, label, began.elapsed());
        result
    }

    /// Sends a request as the node and reads the answer.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn read<T: DeserializeOwned>(&self, device: &DeviceName, call: Call) -> Result<T, ApiError> {
        let bytes = self.send(device, call).await?;
        serde_json::from_slice(&bytes).map_err(|error| ApiError::Unavailable {
            message: format!("the API server's answer cannot be read: {error}"),
        })
    }

    async fn exchange(&self, device: &DeviceName, call: Call) -> Result<Bytes, ApiError> {
        let request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::CONTENT_TYPE, call.content_type)
            .header(header::ACCEPT, JSON)
            .header(IMPERSONATE_USER, node_user(device))
            .body(Body::from(call.body))
            .map_err(|error| ApiError::Invalid {
                message: format!("the request cannot be built: {error}"),
            })?;
        let response = self.client.send(request).await.map_err(|error| ApiError::Unavailable {
            message: format!("the API server cannot be reached: {error}"),
        })?;
        let (parts, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| ApiError::Unavailable { message: format!("the answer broke off: {error}") })?
            .to_bytes();
        if parts.status.is_success() {
            Ok(body)
        } else {
            Err(ApiError::classify(parts.status, &parts.headers, &body))
        }
    }

    /// A client that does everything as the node, for kube's watchers.
    pub fn impersonating(&self, device: &DeviceName) -> kube::Client {
        let inner = self.client.clone();
        let user = HeaderValue::from_str(&node_user(device)).ok();
        let namespace = self.client.default_namespace().to_owned();
        kube::Client::new(
            service_fn(move |mut request: Request<Body>| {
                let inner = inner.clone();
                let user = user.clone();
                async move {
                    // A device's name is an RFC 1123 label, so this never fails; were it to, the request
                    // must not go out as the process itself.
                    let user = user.ok_or("the node's user is not a header value")?;
                    request.headers_mut().insert(IMPERSONATE_USER, user);
                    inner.send(request).await.map_err(BoxError::from)
                }
            }),
            namespace,
        )
    }
}

#[cfg(test)]
#[path = "tests/identity.rs"]
mod tests;
