//! `GET /containerLogs/{namespace}/{pod}/{container}`: what `kubectl logs` reads.
//!
//! ```text
//! options ─► pod on this device? ─► container in its spec? ─► window ─► stream ─► request ─► pump ─► body
//!   422              404                    404                429       502     400, 404, …
//! ```

mod options;
mod pump;
mod reader;
mod window;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Extension, Path, Query, State},
    response::{IntoResponse, Response},
};
use fleet_wire::{
    message::{LogsRequest, RefusalCode},
    name::{DeviceName, RequestId},
    stream::Frame,
};
use http::{StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument as _;

use super::{Shared, edge::FrameStream, listener::Served};
use crate::devices::DownError;

use options::{LogOptions, OptionsError};
use reader::StreamReader;
use window::Window;
pub use window::{WindowError, Windows};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The query is wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The pod is not known, or not on this device.
    #[error("pod {0:?} does not exist")]
    Pod(String),
    /// The pod has no such container.
    #[error("container {container:?} not found in pod {pod:?}")]
    Container {
        /// The container.
        container: String,
        /// The pod.
        pod: String,
    },
    /// Too many streams.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The device did not open the stream.
    #[error(transparent)]
    Device(#[from] DownError),
}

impl IntoResponse for LogsError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Options(OptionsError::Invalid(_)) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Options(_) => StatusCode::BAD_REQUEST,
            Self::Pod(_) | Self::Container { .. } => StatusCode::NOT_FOUND,
            Self::Window(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Device(error) => status_of(error),
        };
        let text = match self {
            // The device's sentence stands alone, as a kubelet's would.
            Self::Device(DownError::Refused(refusal)) => refusal.message,
            other => other.to_string(),
        };
        let mut response = (status, text).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

fn status_of(error: &DownError) -> StatusCode {
    let DownError::Refused(refusal) = error else {
        // Of the statuses that fit (502, 503, 504) only 502 makes the API server show the text to people.
        return StatusCode::BAD_GATEWAY;
    };
    match refusal.code {
        RefusalCode::BadRequest | RefusalCode::Malformed => StatusCode::BAD_REQUEST,
        RefusalCode::NotFound => StatusCode::NOT_FOUND,
        RefusalCode::Busy => StatusCode::TOO_MANY_REQUESTS,
        RefusalCode::UnknownVerb | RefusalCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        RefusalCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// The handler.
pub async fn container_logs(
    State(shared): State<Arc<Shared>>,
    Extension(served): Extension<Served>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, LogsError> {
    let device = served.device;
    let options = LogOptions::parse(&query)?;
    let missing = || LogsError::Pod(pod.clone());
    let found = shared.fleet.pod(&namespace, &pod).filter(|found| is_on(found, &device));
    let found = found.ok_or_else(missing)?;
    if !has_container(&found, &container) {
        return Err(LogsError::Container { container, pod });
    }
    let window = shared.windows.open(&device)?;
    let id = RequestId::random();
    let request = options.request(
        id.clone(),
        namespace.parse().map_err(|_| missing())?,
        pod.parse().map_err(|_| missing())?,
        found.metadata.uid.as_deref().map(str::parse).transpose().map_err(|_| missing())?,
        container.parse().map_err(|_| missing())?,
        window.bytes(),
    );
    let stream = shared.fleet.open_stream(&device, id.clone())?;
    let (opened, answer) = oneshot::channel();
    let (body, bytes) = mpsc::channel(1);
    let span = tracing::info_span!("logs", %device, stream = %id, pod = %format_args!("{namespace}/{pod}"));
    let streams = shared.streams.clone();
    streams.spawn(serve_stream(shared, device, request, window, stream, opened, body).instrument(span));
    // The sender is only dropped without an answer when the task ends with the process.
    match answer.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Ok(StatusCode::SERVICE_UNAVAILABLE.into_response()),
    }
    let body = Body::from_stream(ReceiverStream::new(bytes));
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// Opens the stream on the device and runs it. A task of its own, so that the device is told when the
/// client goes away, at whatever point that happens.
async fn serve_stream(
    shared: Arc<Shared>,
    device: DeviceName,
    request: LogsRequest,
    window: Window,
    stream: Box<dyn FrameStream>,
    mut opened: oneshot::Sender<Result<(), DownError>>,
    body: pump::Body,
) {
    let answer = tokio::select! {
        answer = shared.fleet.open_logs(&device, &request) => answer,
        () = opened.closed() => {
            pump::publish(stream.as_ref(), Frame::Cancel).await;
            return;
        }
        () = shared.shutdown.cancelled() => return,
    };
    let failed = answer.is_err();
    if matches!(answer, Err(DownError::Timeout { .. })) {
        // It may have opened the stream after all.
        pump::publish(stream.as_ref(), Frame::Cancel).await;
    }
    let listening = opened.send(answer).is_ok();
    if failed {
        return;
    }
    if !listening {
        pump::publish(stream.as_ref(), Frame::Cancel).await;
        return;
    }
    let _open = shared.metrics.stream();
    let reader = StreamReader::new(window.bytes(), Instant::now().into_std());
    pump::pump(&device, stream, reader, body, shared.shutdown.clone()).await;
}

fn is_on(pod: &Pod, device: &DeviceName) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(device.as_str())
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.name);
    containers.map(|container| &container.name).chain(ephemeral).any(|known| known == name)
}
