//! One request at a time to Podman's REST service over its unix socket: its own API, and Docker's for pulls.
//!
//! Each request opens a connection of its own: on a unix socket that costs some ten microseconds, and an idle
//! agent then holds no connection, so that a socket-activated Podman service can end and give its
//! 50 MB back to the device.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use futures::{Stream, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::runtime::RegistryAuth;

/// The API version that we speak: the lowest that Podman 4 and 5 both serve.
pub(super) const API: &str = "v4.0.0";
/// The version of Docker's API that we speak, which Podman serves beside its own.
const DOCKER_API: &str = "v1.40";
/// Credentials for a registry, as JSON in base64.
const REGISTRY_AUTH: HeaderName = HeaderName::from_static("x-registry-auth");
/// Largest answer taken: a list of some ten thousand containers.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// Why a request had no useful answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// No connection, a broken one, or no answer in time.
    Unreachable(String),
    /// The service refused.
    Status {
        /// HTTP status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// The service answered something else than expected.
    Malformed(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(message) | Self::Malformed(message) => f.write_str(message),
            Self::Status { status, message } if message.is_empty() => write!(f, "{status}"),
            Self::Status { message, .. } => f.write_str(message),
        }
    }
}

impl Fault {
    /// Removed while it was looked at answers with status 500.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
            || self.says("no such container")
            || self.says("no such pod")
    }

    /// "Nothing to do": how libpod answers when the object is in the wished state.
    pub(super) fn is_not_modified(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_MODIFIED)
    }

    pub(super) fn says(&self, text: &str) -> bool {
        matches!(self, Self::Status { message, .. } if message.contains(text))
    }
}

/// An answer with a status of success.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Fault::Malformed(format!("the answer is not understood: {error}")))
    }
}

/// A body that arrives bit by bit.
pub(super) struct Lines {
    body: hyper::body::Incoming,
    rest: Vec<u8>,
    // The connection's driver; ends with this value.
    _driver: AbortOnDrop,
}

impl Lines {
    /// The next non-empty line; `None` when the service closed the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=end).collect();
                line.pop();
                if !line.is_empty() {
                    return Ok(Some(line));
                }
            }
            if self.rest.len() > ANSWER_LIMIT {
                return Err(Fault::Malformed("a line without end".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Fault::Unreachable(chain(&error))),
            }
        }
    }

    /// All that follow.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Vec<u8>, Fault>> {
        stream::try_unfold(self, async |mut lines| Ok(lines.next().await?.zip(Some(lines))))
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The service behind a socket.
#[derive(Debug, Clone)]
pub(super) struct Libpod {
    socket: PathBuf,
}

impl Libpod {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) async fn get(&self, path: &str, limit: Duration) -> Result<Answer, Fault> {
        self.send(Method::GET, path, Bytes::new(), limit).await
    }

    pub(super) async fn post(&self, path: &str, limit: Duration) -> Result<Answer, Fault> {
        self.send(Method::POST, path, Bytes::new(), limit).await
    }

    pub(super) async fn post_json<B: Serialize>(
        &self,
        path: &str,
        body: &B,
        limit: Duration,
    ) -> Result<Answer, Fault> {
        let body = serde_json::to_vec(body).map_err(|error| Fault::Malformed(error.to_string()))?;
        self.send(Method::POST, path, body.into(), limit).await
    }

    /// Opens a stream of lines, e.g. events.
    pub(super) async fn lines(&self, path: &str) -> Result<Lines, Fault> {
        let request = Request::get(format!("/{API}/libpod{path}"));
        self.open(request).await
    }

    /// Pulls an image; its progress comes in lines. By Docker's API: libpod's own tells nothing of a layer between its
    /// begin and its end.
    pub(super) async fn pull(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<Lines, Fault> {
        let mut request = Request::post(format!("/{DOCKER_API}/images/create?fromImage={}", query(image)));
        if let Some(auth) = auth {
            request = request.header(REGISTRY_AUTH, credentials(auth)?);
        }
        self.open(request).await
    }

    async fn open(&self, request: http::request::Builder) -> Result<Lines, Fault> {
        let (response, driver) = self.request(request, Bytes::new()).await?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(Fault::Status { status: head.status, message: refusal(&whole(body).await?) });
        }
        Ok(Lines { body, rest: Vec::new(), _driver: driver })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes, limit: Duration) -> Result<Answer, Fault> {
        let exchange = async {
            let request = Request::builder().method(method).uri(format!("/{API}/libpod{path}"));
            let (response, _driver) = self.request(request, body).await?;
            let (head, body) = response.into_parts();
            let body = whole(body).await?;
            if head.status.is_success() {
                Ok(Answer { headers: head.headers, body })
            } else {
                Err(Fault::Status { status: head.status, message: refusal(&body) })
            }
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(Fault::Unreachable(format!("no answer within {} s", limit.as_secs()))))
    }

    async fn request(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<(http::Response<hyper::body::Incoming>, AbortOnDrop), Fault> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| Fault::Unreachable(format!("{}: {error}", self.socket.display())))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Fault::Unreachable(chain(&error)))?;
        let driver = AbortOnDrop(tokio::spawn(async move {
            // Its error reaches the caller through the request.
            let _ = connection.await;
        }));
        let request = request
            .header(header::HOST, "podman")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Fault::Malformed(error.to_string()))?;
        let response =
            sender.send_request(request).await.map_err(|error| Fault::Unreachable(chain(&error)))?;
        Ok((response, driver))
    }
}

async fn whole(body: hyper::body::Incoming) -> Result<Bytes, Fault> {
    let collected = Limited::new(body, ANSWER_LIMIT).collect().await;
    Ok(collected.map_err(|error| Fault::Unreachable(chain(error.as_ref())))?.to_bytes())
}

fn credentials(auth: &RegistryAuth) -> Result<HeaderValue, Fault> {
    let json = serde_json::json!({ "username": auth.username, "password": auth.password }).to_string();
    let value = HeaderValue::from_str(&URL_SAFE.encode(json));
    let mut value = value.map_err(|error| Fault::Malformed(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What libpod said: `{"message", "cause"}` in general, `{"Errs"}` where several containers are concerned, `{"error"}`
/// of a pull.
fn refusal(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        #[serde(alias = "error")]
        message: Option<String>,
        #[serde(rename = "Errs")]
        errors: Option<Vec<String>>,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { message: Some(m), .. }) => m,
        Ok(Refusal { errors: Some(e), .. }) => e.join("; "),
        _ => String::from_utf8_lossy(body).trim().chars().take(1024).collect(),
    }
}

/// An error with its causes, as one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Percent-encodes what may not stand in a query.
pub(super) fn query(value: &str) -> String {
    let mut out = String::with_capacity(value.len() * 2);
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_in_all_forms() {
        assert_eq!(refusal(br#"{"cause":"c","message":"m: c","response":500}"#), "m: c");
        assert_eq!(refusal(br#"{"Errs":["a","b"],"Id":"x"}"#), "a; b");
        assert_eq!(refusal(br#"{"progressDetail":{},"errorDetail":{"message":"m"},"error":"m"}"#), "m");
        assert_eq!(refusal(b"plain\n"), "plain");
    }

    #[test]
    fn a_query_value_is_encoded() {
        assert_eq!(query(r#"{"a":["b=c"]}"#), "%7B%22a%22%3A%5B%22b%3Dc%22%5D%7D");
    }
}
