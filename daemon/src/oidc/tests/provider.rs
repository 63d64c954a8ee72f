//! A provider for tests: real HTTP on loopback, with answers that a test writes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Notify,
    task::JoinSet,
};

/// What a path answers.
#[derive(Clone)]
pub enum Answer {
    Says(u16, String),
    Redirects(String),
    Hangs,
}

/// One request that came.
pub struct Asked {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

#[derive(Default)]
pub struct Script {
    answers: Mutex<HashMap<String, Answer>>,
    asked: Mutex<Vec<Asked>>,
    date: Mutex<Option<String>>,
    arrived: Notify,
}

pub struct Provider {
    pub url: String,
    pub script: Arc<Script>,
    _server: JoinSet<()>,
}

impl Provider {
    /// Serves plain HTTP.
    pub async fn start() -> Self {
        Self::serve("http", async |stream| Some(stream)).await
    }

    /// Serves whatever `wrap` makes of a connection.
    pub async fn serve<S, W>(scheme: &str, wrap: W) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        W: AsyncFn(tokio::net::TcpStream) -> Option<S> + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let script = Arc::new(Script::default());
        let mut server = JoinSet::new();
        let answers = Arc::clone(&script);
        server.spawn_local(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Some(stream) = wrap(stream).await else { continue };
                let script = Arc::clone(&answers);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&script), request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, script, _server: server }
    }

    pub fn set(&self, path: &str, answer: Answer) {
        self.script.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// The discovery document of a provider whose issuer is this server.
    pub fn discovery(&self, extra: serde_json::Value) {
        let mut document =
            serde_json::json!({ "issuer": self.url, "token_endpoint": format!("{}/token", self.url) });
        document.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.set("/.well-known/openid-configuration", Answer::Says(200, document.to_string()));
    }

    pub fn token(&self, token: &str, expires_in: u64) {
        let answer =
            serde_json::json!({ "access_token": token, "token_type": "Bearer", "expires_in": expires_in });
        self.set("/token", Answer::Says(200, answer.to_string()));
    }

    /// What the provider's clock says, in every answer.
    pub fn date(&self, date: &str) {
        *self.script.date.lock().unwrap() = Some(date.to_owned());
    }

    /// How often a path was asked.
    pub fn count(&self, path: &str) -> usize {
        self.script.asked.lock().unwrap().iter().filter(|asked| asked.path == path).count()
    }

    /// What was last asked there.
    pub fn last<T>(&self, path: &str, look: impl FnOnce(&Asked) -> T) -> T {
        look(self.script.asked.lock().unwrap().iter().rfind(|asked| asked.path == path).unwrap())
    }

    /// Waits until a path was asked.
    pub async fn asked(&self, path: &str) {
        while self.count(path) == 0 {
            self.script.arrived.notified().await;
        }
    }
}

async fn answer(
    script: Arc<Script>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
    let path = head.uri.path().to_owned();
    let answer = script.answers.lock().unwrap().get(&path).cloned();
    script.asked.lock().unwrap().push(Asked { path, headers: head.headers, body });
    script.arrived.notify_one();
    let mut response = Response::builder();
    if let Some(date) = script.date.lock().unwrap().clone() {
        response = response.header("date", date);
    }
    Ok(match answer {
        Some(Answer::Says(status, text)) => response.status(status).body(Full::from(text)).unwrap(),
        Some(Answer::Redirects(to)) => {
            response.status(302).header("location", to).body(Full::default()).unwrap()
        }
        Some(Answer::Hangs) => std::future::pending().await,
        None => response.status(404).body(Full::default()).unwrap(),
    })
}
