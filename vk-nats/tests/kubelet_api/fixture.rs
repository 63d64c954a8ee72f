//! A fleet, an authority and a client for the tests of the kubelet API.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::body::Body;
use fleet_daemon::shutdown::Shutdown;
use fleet_wire::{
    message::{LogsRequest, Refusal, RefusalCode},
    name::{DeviceName, RequestId},
    stream::Frame,
};
use futures::future::{BoxFuture, FutureExt as _};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use vk_nats::{
    devices::DownError,
    kubelet_api::{
        self, Certificate, KubeletApi, KubeletApiError, Metrics, Tls,
        auth::{Access, ReviewError, Reviewer, User},
        edge::{Fleet, FrameStream},
    },
    serving_certificate::Pair as ServingPair,
};

pub fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

pub fn refusal(code: RefusalCode, message: &str) -> DownError {
    DownError::Refused(Refusal::new(code, message))
}

/// Ports that were given to a test. The kernel hands out a port again as soon as it is free, and one test would then
/// speak to the server of another.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nobody listens on at the moment, and that no other test gets.
pub fn free_port() -> u16 {
    free_ports(1)[0]
}

/// So many of them.
pub fn free_ports(number: usize) -> Vec<u16> {
    let mut given = GIVEN.lock().unwrap();
    // They stay open until all are found: none is found twice.
    let mut open = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < number {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        open.push(socket);
        if given.insert(port) {
            ports.push(port);
        }
    }
    ports
}

/// `admin` may everything, `reader` may see the health; tokens are `token-of-<name>`.
struct Rules;

impl Reviewer for Rules {
    fn token(&self, token: String) -> BoxFuture<'_, Result<Option<User>, ReviewError>> {
        let user = token.strip_prefix("token-of-").map(|name| User {
            name: name.to_owned(),
            uid: None,
            groups: Vec::new(),
            extra: BTreeMap::new(),
        });
        async move { Ok(user) }.boxed()
    }

    fn access(&self, access: Access) -> BoxFuture<'_, Result<bool, ReviewError>> {
        let allowed = match access.user.name.as_str() {
            "admin" => true,
            "reader" => access.subresource == "healthz",
            _ => false,
        };
        async move { Ok(allowed) }.boxed()
    }
}

/// The device's end of a stream that was opened.
pub struct Opened {
    pub request: LogsRequest,
    answer: Mutex<Option<oneshot::Sender<Result<(), DownError>>>>,
    up: mpsc::UnboundedSender<Frame>,
    down: mpsc::UnboundedReceiver<Frame>,
}

impl Opened {
    /// Answers the request that opened it.
    pub fn answer(&self, answer: Result<(), DownError>) {
        self.answer.lock().unwrap().take().unwrap().send(answer).ok();
    }

    pub fn say(&self, frame: Frame) {
        self.up.send(frame).ok();
    }

    pub async fn hear(&mut self) -> Frame {
        self.down.recv().await.expect("a frame of the reader")
    }
}

/// The reader's end.
struct Stream {
    up: mpsc::UnboundedReceiver<Frame>,
    down: mpsc::UnboundedSender<Frame>,
}

impl FrameStream for Stream {
    fn recv(&mut self) -> BoxFuture<'_, Option<Frame>> {
        self.up.recv().boxed()
    }

    fn send(&self, frame: Frame) -> BoxFuture<'_, Result<(), DownError>> {
        self.down.send(frame).ok();
        async { Ok(()) }.boxed()
    }
}

type Ends = (mpsc::UnboundedSender<Frame>, mpsc::UnboundedReceiver<Frame>);

/// Two devices: `pi-1` runs `default/web-1`, `pi-2` runs `default/elsewhere`. The test plays the devices.
pub struct FakeFleet {
    connected: AtomicBool,
    registered: Mutex<BTreeMap<String, Ends>>,
    requests: mpsc::UnboundedSender<Opened>,
    opened: tokio::sync::Mutex<mpsc::UnboundedReceiver<Opened>>,
}

impl FakeFleet {
    fn new() -> Self {
        let (requests, opened) = mpsc::unbounded_channel();
        Self {
            connected: AtomicBool::new(true),
            registered: Mutex::default(),
            requests,
            opened: tokio::sync::Mutex::new(opened),
        }
    }

    /// From now on no device is connected.
    pub fn disconnect(&self) {
        self.connected.store(false, Ordering::Relaxed);
    }

    /// The next stream that is asked for.
    pub async fn opened(&self) -> Opened {
        self.opened.lock().await.recv().await.unwrap()
    }

    fn pods() -> Vec<Pod> {
        [("web-1", "pi-1"), ("elsewhere", "pi-2")]
            .into_iter()
            .map(|(name, node)| {
                let pod = serde_json::json!({
                    "metadata": {"namespace": "default", "name": name, "uid": format!("uid-of-{name}")},
                    "spec": {"nodeName": node, "containers": [{"name": "web"}]},
                });
                serde_json::from_value(pod).unwrap()
            })
            .collect()
    }
}

impl Fleet for FakeFleet {
    fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        Self::pods().into_iter().find(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        })
    }

    fn pods_on(&self, device: &DeviceName) -> Vec<Pod> {
        let on = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(device.as_str());
        Self::pods().into_iter().filter(on).collect()
    }

    fn reach(&self, device: &DeviceName) -> Result<(), DownError> {
        if self.connected.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(DownError::NotConnected { device: device.clone() })
        }
    }

    fn open_stream(&self, device: &DeviceName, id: RequestId) -> Result<Box<dyn FrameStream>, DownError> {
        self.reach(device)?;
        let (up, from_device) = mpsc::unbounded_channel();
        let (to_device, down) = mpsc::unbounded_channel();
        self.registered.lock().unwrap().insert(id.to_string(), (up, down));
        Ok(Box::new(Stream { up: from_device, down: to_device }))
    }

    fn open_logs<'a>(
        &'a self,
        _: &'a DeviceName,
        request: &'a LogsRequest,
    ) -> BoxFuture<'a, Result<(), DownError>> {
        let (up, down) = self.registered.lock().unwrap().remove(request.stream.as_str()).unwrap();
        let (answer, answered) = oneshot::channel();
        let answer = Mutex::new(Some(answer));
        self.requests.send(Opened { request: request.clone(), answer, up, down }).ok();
        async move { answered.await.unwrap() }.boxed()
    }
}

/// An authority for servers and clients.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    authority: String,
}

/// A certificate and its key, in PEM.
pub type Pair = (String, String);

impl Pki {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of the test");
        let authority = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), authority }
    }

    fn pair(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub fn server(&self) -> Pair {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.pair(params)
    }

    /// A client certificate.
    pub fn client(&self, name: &str, groups: &[&str]) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.pair(params)
    }
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The API, served.
pub struct Case {
    pub pki: Pki,
    pub fleet: Arc<FakeFleet>,
    pub port: u16,
    pub ports: watch::Sender<BTreeMap<DeviceName, u16>>,
    pub shutdown: Shutdown,
    pub serving: JoinHandle<Result<(), KubeletApiError>>,
    _files: tempfile::TempDir,
}

impl Case {
    pub async fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let pki = Pki::new();
        let (certificate, key) = pki.server();
        let certificate = Certificate::Files {
            certificate: write(&files, "tls.crt", &certificate),
            key: write(&files, "tls.key", &key),
        };
        Self::with(certificate, pki, files)
    }

    /// With a certificate that comes when the test sends it.
    pub fn signed_later() -> (Self, watch::Sender<Option<Arc<ServingPair>>>) {
        let (signed, certificate) = watch::channel(None);
        let files = tempfile::tempdir().unwrap();
        (Self::with(Certificate::Cluster(certificate), Pki::new(), files), signed)
    }

    fn with(certificate: Certificate, pki: Pki, files: tempfile::TempDir) -> Self {
        let tls = Tls { certificate, client_ca: Some(write(&files, "ca.crt", &pki.authority)) };
        let fleet = Arc::new(FakeFleet::new());
        let port = free_port();
        let ports = watch::Sender::new(BTreeMap::from([(device("pi-1"), port)]));
        let shutdown = Shutdown::new();
        let api = KubeletApi {
            fleet: fleet.clone(),
            reviewer: Arc::new(Rules),
            ports: ports.subscribe(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            tls,
            metrics: Metrics::default(),
        };
        let serving = tokio::spawn(kubelet_api::serve(api, shutdown.clone()));
        Self { pki, fleet, port, ports, shutdown, serving, _files: files }
    }

    pub async fn try_client(&self, pair: Option<Pair>, token: Option<&str>) -> anyhow::Result<Client> {
        Client::connect(&self.pki, self.port, pair, token).await
    }

    pub async fn client(&self, pair: Option<Pair>, token: Option<&str>) -> Client {
        self.try_client(pair, token).await.unwrap()
    }

    pub async fn admin(&self) -> Client {
        self.client(None, Some("token-of-admin")).await
    }

    pub async fn wait_until_closed(&self, port: u16) {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}

/// One connection to a port.
pub struct Client {
    requests: tokio::sync::Mutex<hyper::client::conn::http1::SendRequest<Body>>,
    token: Option<String>,
    _connection: AbortOnDrop,
}

/// The connection ends with the client that uses it.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub bytes: Vec<u8>,
    pub text: String,
    /// How the body broke off, if it did.
    pub error: Option<String>,
}

impl Client {
    pub async fn connect(
        pki: &Pki,
        port: u16,
        pair: Option<Pair>,
        token: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.authority.as_bytes())?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match pair {
            Some((certificate, key)) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key.as_bytes())?,
            )?,
            None => builder.with_no_client_auth(),
        };
        // The listener comes up in a task of its own.
        let stream = loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?;
        let (mut requests, connection) =
            hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
        let connection = AbortOnDrop(tokio::spawn(async move {
            connection.await.ok();
        }));
        // With TLS 1.3 a client learns only with the first answer that its certificate was refused.
        requests.ready().await?;
        let token = token.map(str::to_owned);
        let client = Self { requests: tokio::sync::Mutex::new(requests), token, _connection: connection };
        client.request("GET", "/probe").await?;
        Ok(client)
    }

    async fn request(&self, method: &str, path: &str) -> anyhow::Result<Answer> {
        let response = self.response(method, path).await?;
        let status = response.status();
        let mut body = response.into_body();
        let (mut bytes, mut error) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
                Err(broken) => error = Some(broken.to_string()),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { status, bytes, text, error })
    }

    async fn response(&self, method: &str, path: &str) -> anyhow::Result<http::Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut requests = self.requests.lock().await;
        requests.ready().await?;
        Ok(requests.send_request(request.body(Body::empty())?).await?)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path).await.unwrap()
    }

    pub async fn send(&self, method: &str, path: &str) -> Answer {
        self.request(method, path).await.unwrap()
    }

    /// The body of an answer that goes on.
    pub async fn open(&self, path: &str) -> Incoming {
        let response = self.response("GET", path).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body()
    }
}

/// The next bytes of a body.
pub async fn next_bytes(body: &mut Incoming) -> Vec<u8> {
    body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec()
}
