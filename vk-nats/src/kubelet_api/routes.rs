//! The routes of a kubelet: those that devices serve, and those that they will.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, Uri};
use k8s_openapi::{List, api::core::v1::Pod};

use super::{Shared, listener::Served, logs::container_logs};

/// Routes of a kubelet that devices do not serve yet.
const NOT_YET: &[&str] = &[
    "/attach",
    "/checkpoint",
    "/configz",
    "/debug",
    "/exec",
    "/logs",
    "/metrics",
    "/portForward",
    "/run",
    "/runningpods",
    "/spec",
    "/stats",
];

/// The router that all listeners share. Nothing in it is reached without [`super::auth::Auth::check`].
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/healthz", get(healthz))
        .route("/pods", get(pods))
        .fallback(other)
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Lets a request through if its user may send it, and counts it.
async fn guard(
    State(shared): State<Arc<Shared>>,
    Extension(served): Extension<Served>,
    request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let checked =
        shared.auth.check(&served.device, served.user.as_ref(), &method, &path, request.headers()).await;
    let (user, response) = match checked {
        Ok(user) => (Some(user.name), next.run(request).await),
        Err(error) => (None, error.into_response()),
    };
    let code = response.status().as_u16();
    tracing::debug!(device = %served.device, %method, path, user, code, "request");
    shared.metrics.request(route(&path), code);
    response
}

/// The first segment, if a kubelet has such a route.
fn route(path: &str) -> &'static str {
    let known = ["/containerLogs", "/healthz", "/pods"];
    known.iter().chain(NOT_YET).find(|root| is_below(path, root)).copied().unwrap_or("other")
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the device can be reached: the Node's API is up when the device is.
async fn healthz(State(shared): State<Arc<Shared>>, Extension(served): Extension<Served>) -> Response {
    match shared.fleet.reach(&served.device) {
        Ok(()) => "ok".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

/// The pods bound to the device, as the API server has them.
async fn pods(State(shared): State<Arc<Shared>>, Extension(served): Extension<Served>) -> Json<List<Pod>> {
    let pods = shared.fleet.pods_on(&served.device);
    Json(List { items: pods, ..List::default() })
}

/// Everything else: not yet, or not at all.
async fn other(Extension(served): Extension<Served>, uri: Uri) -> Response {
    let path = uri.path();
    match NOT_YET.iter().find(|root| is_below(path, root)) {
        Some(root) => (
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "{root} is not available yet on device {}: /containerLogs, /healthz and /pods are",
                served.device
            ),
        )
            .into_response(),
        None => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}
