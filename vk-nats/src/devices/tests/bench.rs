//! An actor and a device's end of its session, in one process: no NATS, and an API server that takes everything and
//! notes it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use fleet_daemon::shutdown::Shutdown;
use fleet_wire::{
    digest::Digest,
    enrollment::Enrollment,
    envelope::Opened,
    keys::FleetKeys,
    message::{DesiredVersion, Heartbeat, HelloReply, HelloRequest, PROTOCOL, Reply},
    name::{DeviceName, KeyVersion, OwnerEpoch, PodKey},
    session::DeviceSession,
    subject::{self, Subject, SubjectError, UpVerb},
};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{NodeStatus, Pod};
use kube::client::Body;
use nkeys::{KeyPair, XKey};
use prometheus_client::registry::Registry;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    Arrivals, Context, Courier, Devices, Fleet, Inbound, Publisher, Settings, Subscriber,
    actor::{Actor, Deaf},
    down::Handle,
    stream::Streams,
};
use crate::{
    bundle::{DesiredSet, DesiredSets, build},
    identity::{Gate, NodeClient},
    metrics::Metrics,
    nodes::DeviceNode,
    ownership::Tenure,
    pods::Pods,
};

pub const INTERVAL: Duration = Duration::from_secs(10);
/// How long the API server takes for a pod named `slow`.
pub const SLOW: Duration = Duration::from_secs(7);

struct Wire(mpsc::UnboundedSender<(String, Vec<u8>)>);

impl Publisher for Wire {
    fn publish(&self, subject: String, message: Vec<u8>) -> BoxFuture<'_, Result<(), String>> {
        let _ = self.0.send((subject, message));
        Box::pin(async { Ok(()) })
    }
}

/// Subscriptions by their subject.
#[derive(Debug, Default)]
pub struct Ears(Mutex<HashMap<String, mpsc::UnboundedSender<Result<Inbound, SubjectError>>>>);

impl Subscriber for Ears {
    fn subscribe(&self, subject: String) -> BoxFuture<'_, Result<Arrivals, String>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().unwrap().insert(subject, sender);
        Box::pin(async { Ok(Box::pin(UnboundedReceiverStream::new(receiver)) as Arrivals) })
    }
}

pub type Requests = Arc<Mutex<Vec<(String, String, Value)>>>;

fn api_server() -> (kube::Client, Requests) {
    use http_body_util::BodyExt as _;
    let seen = Requests::default();
    let noted = Arc::clone(&seen);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let noted = Arc::clone(&noted);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            noted.lock().unwrap().push((parts.method.to_string(), parts.uri.path().to_owned(), body));
            if parts.uri.path().contains("/pods/slow/") {
                tokio::time::sleep(SLOW).await;
            }
            let gone = parts.method == http::Method::GET && parts.uri.path().starts_with("/api/v1/nodes/");
            let mut answer = http::Response::new(Body::from(b"{}".to_vec()));
            *answer.status_mut() = if gone { http::StatusCode::NOT_FOUND } else { http::StatusCode::OK };
            Ok::<_, tower::BoxError>(answer)
        }
    });
    (kube::Client::new(service, "default"), seen)
}

/// A device, the actor that serves it, and what is between them.
pub struct Bench {
    pub context: Arc<Context>,
    pub ears: Arc<Ears>,
    pub devices: Devices,
    pub device: DeviceName,
    pub session: DeviceSession,
    pub sent: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    pub api: Requests,
    pub actor: JoinHandle<Result<(), Deaf>>,
    pub handle: Handle,
    pub stop: Shutdown,
    pub inboxes: u32,
    pub curve: XKey,
    pub fleet: watch::Sender<Fleet>,
    pub rotated: Option<String>,
}

impl Bench {
    pub fn new() -> Self {
        let device: DeviceName = "pi-7".parse().unwrap();
        let (own, fleet) = (XKey::new(), XKey::new());
        let node = Enrollment {
            device: device.clone(),
            identity_key: KeyPair::new_user().public_key().parse().unwrap(),
            curve_key: own.public_key().parse().unwrap(),
            subject: None,
            labels: BTreeMap::new(),
            taint: true,
            pod_cidr: None,
            report_pod_ip: false,
        }
        .node();
        let node = Arc::new(DeviceNode::parse(&node).unwrap());
        let version = KeyVersion(1);
        let public = XKey::from_public_key(&fleet.public_key()).unwrap();
        let (client, api) = api_server();
        let metrics = Arc::new(Metrics::new(&mut Registry::default()));
        let tenure = Tenure::until(Instant::now() + Duration::from_secs(1_000_000));
        let (wire, sent) = mpsc::unbounded_channel();
        let ears = Arc::new(Ears::default());
        let ear: Arc<dyn Subscriber> = Arc::<Ears>::clone(&ears);
        let keys = FleetKeys::new(BTreeMap::from([(version, fleet)])).unwrap();
        let fleet_changes = watch::Sender::new(Fleet { keys, statement: None });
        let context = Arc::new(Context {
            settings: Settings {
                node_address: "10.0.0.5".parse().unwrap(),
                node_lease_duration: Duration::from_secs(40),
                heartbeat_interval: INTERVAL,
            },
            fleet: fleet_changes.subscribe(),
            epoch: OwnerEpoch(3),
            courier: Courier::new(Arc::new(Wire(wire)), tenure.clone()),
            ear,
            client: NodeClient::new(client, Gate::new(1000, 1000), tenure, Arc::clone(&metrics)),
            pods: Pods::default(),
            sets: DesiredSets::default(),
            metrics,
            started: Instant::now(),
        });
        let (inbox, inputs) = mpsc::channel(64);
        let handle = Handle {
            inbox,
            node: watch::channel((node, 10_307)).0,
            streams: Streams::default(),
            connected: Arc::default(),
        };
        let devices = Devices::default();
        devices.insert(device.clone(), handle.clone());
        let stop = Shutdown::new();
        let actor = Actor::new(Arc::clone(&context), &handle, inputs);
        let actor = tokio::spawn(Box::pin(actor.run(stop.clone())));
        let keys = FleetKeys::new(BTreeMap::from([(version, public)])).unwrap();
        let curve = own.clone();
        let session = DeviceSession::new(device.clone(), own, keys, OwnerEpoch(0));
        Self {
            context,
            ears,
            devices,
            device,
            session,
            sent,
            api,
            actor,
            handle,
            stop,
            inboxes: 0,
            curve,
            fleet: fleet_changes,
            rotated: None,
        }
    }

    pub fn subject(&self, verb: UpVerb) -> String {
        Subject::Up(self.device.clone(), verb).to_string()
    }

    /// Whether the actor has that subscription.
    pub fn hears(&self, subject: &str) -> bool {
        self.ears.0.lock().unwrap().get(subject).is_some_and(|sender| !sender.is_closed())
    }

    pub async fn give(&self, subject: &str, reply: Option<String>, payload: Vec<u8>) {
        let subject = Subject::parse(subject).unwrap();
        let subscribed = match subject {
            Subject::Stream(..) => subject::stream_up_wildcard(&self.device),
            _ => subject::up_wildcard(&self.device),
        };
        while !self.hears(&subscribed) {
            tokio::task::yield_now().await;
        }
        let message = Inbound { subject, reply, payload: payload.into() };
        self.ears.0.lock().unwrap()[&subscribed].send(Ok(message)).unwrap();
    }

    pub fn inbox(&mut self) -> String {
        self.inboxes += 1;
        format!("{}.n{}", subject::inbox_prefix(&self.device), self.inboxes)
    }

    /// What the actor sent next.
    pub async fn next(&mut self) -> (String, Vec<u8>) {
        tokio::time::timeout(Duration::from_secs(120), self.sent.recv()).await.unwrap().unwrap()
    }

    pub fn sealed_hello(&mut self, incarnation: Option<String>, set_digest: Digest) -> Vec<u8> {
        let request = HelloRequest {
            protocol: PROTOCOL,
            agent_version: "0.1.0".to_owned(),
            boot_id: "boot".to_owned(),
            capabilities: Vec::new(),
            incarnation,
            desired: DesiredVersion::default(),
            set_digest,
            key_statement: None,
            rotated: self.rotated.clone(),
            node: NodeStatus::default(),
        };
        self.session.seal_hello(&self.subject(UpVerb::Hello), &request).unwrap()
    }

    pub async fn hello(&mut self, incarnation: Option<String>, set_digest: Digest) -> HelloReply {
        let message = self.sealed_hello(incarnation, set_digest);
        let subject = self.subject(UpVerb::Hello);
        let inbox = self.inbox();
        self.give(&subject, Some(inbox.clone()), message).await;
        let (to, answer) = self.next().await;
        assert_eq!(to, inbox);
        self.session.open_hello_reply::<Reply<HelloReply>>(&to, &answer).unwrap().into_result().unwrap()
    }

    pub async fn beat(&mut self, set_digest: Digest) {
        let subject = self.subject(UpVerb::Heartbeat);
        let beat = Heartbeat { set_digest, desired: DesiredVersion::default() };
        let message = self.session.seal(&subject, &beat).unwrap().message;
        self.give(&subject, None, message).await;
    }

    pub async fn request<A: DeserializeOwned>(&mut self, verb: UpVerb, body: &impl Serialize) -> Reply<A> {
        let subject = self.subject(verb);
        let sealed = self.session.seal(&subject, body).unwrap();
        let inbox = self.inbox();
        self.give(&subject, Some(inbox.clone()), sealed.message).await;
        let (to, answer) = self.next().await;
        assert_eq!(to, inbox);
        let opened = self.session.open(&to, &answer).unwrap();
        assert!(opened.header.session.is_none() || opened.header.answers == Some(sealed.counter));
        opened.body().unwrap()
    }

    pub async fn requests(&self, wanted: usize) -> Vec<(String, String, Value)> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let seen = self.api.lock().unwrap().clone();
            if seen.len() >= wanted || Instant::now() > deadline {
                return seen;
            }
            // On the paused clock: lets everything run first.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn publish_pod(&self) -> (Arc<DesiredSet>, PodKey) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "namespace": "web", "name": "front", "uid": "8a0b", "resourceVersion": "5",
                          "deletionTimestamp": "2026-11-21T12:00:00Z" },
            "spec": { "nodeName": "pi-7", "containers": [{ "name": "web" }] },
        }))
        .unwrap();
        let uid: fleet_wire::name::PodUid = "8a0b".parse().unwrap();
        let built = build(&pod, |_| crate::references::RefState::Pending, &BTreeMap::new()).unwrap();
        self.context.pods.put(&self.device, &uid, &pod);
        let set = Arc::new(DesiredSet { bundles: BTreeMap::from([(uid.clone(), built)]) });
        self.context.sets.publish(&self.device, Arc::clone(&set));
        let key = PodKey { namespace: "web".parse().unwrap(), name: "front".parse().unwrap(), uid };
        (set, key)
    }

    /// A pod that waits, as the API has it.
    pub fn place_pod(&self, name: &str) -> PodKey {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "namespace": "web", "name": name, "uid": format!("uid-{name}") },
            "spec": { "nodeName": "pi-7", "containers": [{ "name": "web" }] },
            "status": { "phase": "Pending" },
        }))
        .unwrap();
        let uid: fleet_wire::name::PodUid = format!("uid-{name}").parse().unwrap();
        self.context.pods.put(&self.device, &uid, &pod);
        PodKey { namespace: "web".parse().unwrap(), name: name.parse().unwrap(), uid }
    }

    pub fn publish_nothing(&self) -> Digest {
        let set = Arc::new(DesiredSet::default());
        let digest = set.digest();
        self.context.sets.publish(&self.device, set);
        digest
    }

    pub fn counted(&self, verb: &'static str, result: &str) -> u64 {
        let labels = crate::metrics::MessageLabels { verb, result: result.to_owned() };
        self.context.metrics.messages.get_or_create(&labels).get()
    }
}

impl Bench {
    /// A live session, and what the cluster side says of itself in it.
    pub async fn live(&mut self) -> Digest {
        let empty = self.publish_nothing();
        self.hello(None, empty).await;
        self.beat(empty).await;
        self.requests(2).await;
        empty
    }

    pub async fn command(&mut self) -> (String, Opened) {
        let (subject, message) = self.next().await;
        let opened = self.session.open(&subject, &message).unwrap();
        (subject, opened)
    }
}
