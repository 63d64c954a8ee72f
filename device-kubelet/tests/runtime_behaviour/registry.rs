//! A registry in the test's process: as much of the distribution specification as a pull needs, over plain HTTP, of
//! images as Podman saved them. It takes nothing, and keeps nothing.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::device::within;

/// Of all images here.
pub const TAG: &str = "v1";
/// Smaller ones are configurations, larger ones layers.
const LAYER: usize = 64 * 1024;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How layers are handed out.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    AtOnce,
    /// So many pieces, each after this time.
    Pieces(usize, Duration),
    /// One half, and nothing more.
    Half,
}

/// Who may pull.
#[derive(Debug, Clone, Copy)]
pub enum Access<'a> {
    Anyone,
    /// Name and password.
    Only(&'a str, &'a str),
}

/// A registry that serves until it is dropped.
pub struct Registry {
    shelf: Arc<Shelf>,
    _server: JoinSet<()>,
}

struct Shelf {
    /// The `Authorization` of those who may.
    login: Option<String>,
    /// Folders of the OCI image layout, by repository.
    images: Mutex<BTreeMap<String, PathBuf>>,
    pace: Mutex<Pace>,
    /// How many layers are being handed out.
    handing: watch::Sender<usize>,
}

impl Registry {
    pub fn serve(listener: TcpListener, access: Access<'_>) -> Self {
        let login = match access {
            Access::Anyone => None,
            Access::Only(name, password) => {
                Some(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
            }
        };
        let shelf = Arc::new(Shelf {
            login,
            images: Mutex::default(),
            pace: Mutex::new(Pace::AtOnce),
            handing: watch::Sender::new(0),
        });
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut server = JoinSet::new();
        let asked = shelf.clone();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shelf = asked.clone();
                let service = service_fn(move |request| {
                    let answer = shelf.answer(&request);
                    async { Ok::<_, Infallible>(answer) }
                });
                connections.spawn(async move {
                    // Podman tries TLS first, which is an error here; and leaves when it likes.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { shelf, _server: server }
    }

    /// Puts an image there: a folder of the OCI image layout. Gives the digest of its manifest.
    pub fn publish(&self, repository: &str, image: PathBuf) -> String {
        let digest = Manifest::of(&image).digest;
        self.shelf.images.lock().unwrap().insert(repository.to_owned(), image);
        digest
    }

    pub fn pace(&self, pace: Pace) {
        *self.shelf.pace.lock().unwrap() = pace;
    }

    /// Waits until so many layers are being handed out.
    pub async fn hands_out(&self, layers: usize) {
        let mut handing = self.shelf.handing.subscribe();
        let wait = handing.wait_for(|handing| *handing == layers);
        within("layers being handed out", wait).await.unwrap();
    }
}

struct Manifest {
    media_type: String,
    digest: String,
}

impl Manifest {
    fn of(image: &Path) -> Self {
        let index: Value = serde_json::from_slice(&fs::read(image.join("index.json")).unwrap()).unwrap();
        let [manifest] = &index["manifests"].as_array().unwrap()[..] else { panic!("{index}") };
        let text = |key: &str| manifest[key].as_str().unwrap().to_owned();
        Self { media_type: text("mediaType"), digest: text("digest") }
    }
}

impl Shelf {
    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let authorization = request.headers().get(header::AUTHORIZATION);
        if let Some(login) = &self.login
            && authorization.is_none_or(|said| said != login.as_str())
        {
            let mut answer = refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
            let challenge = header::HeaderValue::from_static("Basic realm=\"test\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            return answer;
        }
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        let Some(asked) = request.uri().path().strip_prefix("/v2/").filter(|_| reads) else {
            return refusal(StatusCode::NOT_FOUND, "UNSUPPORTED", "this registry can only be pulled from");
        };
        if asked.is_empty() {
            return Response::new(Full::from("{}").boxed_unsync());
        }
        let images = self.images.lock().unwrap();
        if let Some((repository, reference)) = asked.rsplit_once("/manifests/") {
            let Some(image) = images.get(repository) else {
                return refusal(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "name unknown");
            };
            let manifest = Manifest::of(image);
            if reference == TAG || reference == manifest.digest {
                return Response::builder()
                    .header(header::CONTENT_TYPE, manifest.media_type)
                    .header("docker-content-digest", &manifest.digest)
                    .body(Full::from(blob(image, &manifest.digest).unwrap()).boxed_unsync())
                    .unwrap();
            }
            return refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown");
        }
        let found = asked.rsplit_once("/blobs/");
        match found.and_then(|(repository, digest)| blob(images.get(repository)?, digest)) {
            Some(layer) if layer.len() > LAYER => self.hand_out(layer.into()),
            Some(small) => Response::new(Full::from(small).boxed_unsync()),
            None => refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry"),
        }
    }

    fn hand_out(&self, layer: Bytes) -> Response<Body> {
        let (pieces, pause, stops) = match *self.pace.lock().unwrap() {
            Pace::AtOnce => (1, Duration::ZERO, false),
            Pace::Pieces(pieces, pause) => (pieces, pause, false),
            Pace::Half => (2, Duration::ZERO, true),
        };
        let length = layer.len();
        let size = length.div_ceil(pieces);
        let pieces = (0..length).step_by(size).take(if stops { 1 } else { pieces });
        let pieces: Vec<Bytes> = pieces.map(|at| layer.slice(at..length.min(at + size))).collect();
        let end = if stops { stream::pending().left_stream() } else { stream::empty().right_stream() };
        let handing = Handing::begin(&self.handing);
        let body = stream::iter(pieces)
            .then(move |piece| tokio::time::sleep(pause).map(|()| piece))
            .chain(end)
            .map(move |piece| {
                // As long as this stream is there.
                let _ = &handing;
                Ok(Frame::data(piece))
            });
        Response::builder()
            .header(header::CONTENT_LENGTH, length)
            .body(StreamBody::new(body).boxed_unsync())
            .unwrap()
    }
}

/// One layer that is being handed out.
struct Handing(watch::Sender<usize>);

impl Handing {
    fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|handing| *handing += 1);
        Self(count.clone())
    }
}

impl Drop for Handing {
    fn drop(&mut self) {
        self.0.send_modify(|handing| *handing -= 1);
    }
}

fn blob(image: &Path, digest: &str) -> Option<Vec<u8>> {
    let digits =
        digest.strip_prefix("sha256:").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    fs::read(image.join("blobs/sha256").join(digits)).ok()
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let body = json!({ "errors": [{ "code": code, "message": message }] }).to_string();
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body).boxed_unsync())
        .unwrap()
}
