//! The callout's library on requests that nats-server really made: processor time of an authorization without
//! NATS, TLS and audit lines, and of the cryptography that no callout can do without.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use callout::authorize::{Authorizer, Complaints};
use callout::claims::Issuer;
use callout::decide::Policy;
use callout::limits::Limits;
use callout::metrics::Metrics;
use callout::registry::Registry;
use callout::servers::Servers;
use callout::tokens::{Oidc, ReviewError, ServiceAccounts, TokenReviews, Tokens};
use e2e::bench::process_figures::own_thread;
use e2e::bench::quantiles::tenths;
use e2e::fleet::Fleet;
use fleet_wire::enrollment::{Enrollment, Record};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use nkeys::{KeyPair, XKey};

use crate::report::{Floor, Library};

const SUBJECT: &str = "$SYS.REQ.USER.AUTH";
const XKEY_HEADER: &str = "Nats-Server-Xkey";
/// Each request is answered so often; a device may log in thirty times at once.
const ROUNDS: usize = 20;
/// Cryptographic operations of each kind.
const OPERATIONS: usize = 5000;

/// One sealed request, and the curve key of the server that sealed it.
#[derive(Debug, Clone)]
pub struct Request {
    server_xkey: String,
    payload: Vec<u8>,
}

/// Somebody who hears what the callout is asked.
pub struct Recorded {
    _client: async_nats::Client,
    requests: async_nats::Subscriber,
}

impl Recorded {
    /// Begins to listen, with the callout's own key.
    pub async fn begin(fleet: &Fleet) -> Result<Self> {
        let client = fleet.nats.connect(&seed(fleet, "callout")?).await?;
        let requests = client.subscribe(SUBJECT).await?;
        client.flush().await?;
        Ok(Self { _client: client, requests })
    }

    /// The first `count` requests. Whoever listens is gone then: the server has one to tell less.
    pub async fn take(self, count: usize, within: Duration) -> Result<Vec<Request>> {
        let requests = self.requests.take(count).map(|message| {
            let xkey = message.headers.as_ref().and_then(|headers| headers.get(XKEY_HEADER));
            let server_xkey = xkey.context("a request without the server's key")?.as_str().to_owned();
            Ok(Request { server_xkey, payload: message.payload.to_vec() })
        });
        let requests: Vec<Result<Request>> = tokio::time::timeout(within, requests.collect()).await?;
        requests.into_iter().collect()
    }
}

/// Answers the requests again and again in a thread of its own.
pub async fn measure(fleet: &Fleet, members: Vec<Enrollment>, requests: Vec<Request>) -> Result<Library> {
    let (issuer, xkey) = (seed(fleet, "issuer")?, seed(fleet, "xkey")?);
    let measured = tokio::task::spawn_blocking(move || {
        let authorizer = authorizer(&issuer, &xkey, members)?;
        let mut sizes = (0, 0);
        let mut answer = |request: &Request| -> Result<()> {
            let answer = authorizer.answer(Some(&request.server_xkey), &request.payload);
            // Nothing in the way of a registry login waits for anything.
            sizes = (request.payload.len(), futures::executor::block_on(answer)?.len());
            Ok(())
        };
        // Caches, and the first use of everything.
        requests.iter().try_for_each(&mut answer)?;
        let us = each_us(ROUNDS * requests.len(), |number| answer(&requests[number % requests.len()]))?;
        let admitted: u64 = {
            let labels =
                callout::metrics::AuthorizationLabels { login: "registry", decision: "admit", reason: "" };
            authorizer.metrics.authorizations.get_or_create(&labels).get()
        };
        let answered = (ROUNDS + 1) * requests.len();
        // Whoever just connected for another reason may be among the recorded ones.
        ensure!(
            usize::try_from(admitted)? * 10 >= answered * 9,
            "only {admitted} of {answered} recorded requests were admitted"
        );
        let floor = floor(sizes.0, sizes.1)?;
        Ok(Library {
            requests: ROUNDS * requests.len(),
            cpu_us: us,
            per_core: tenths(1e6 / us.max(1e-9)),
            floor,
        })
    });
    measured.await?
}

/// The cryptography of one authorization, with the same library on messages of the same sizes: open the
/// request, verify the server's signature and the client's, sign the user and the answer, seal the answer.
fn floor(request: usize, answer: usize) -> Result<Floor> {
    let (ours, server) = (XKey::new(), XKey::new());
    let key = KeyPair::new_user();
    let sealed = server.seal(&vec![b'r'; request], &ours)?;
    let (token, answer) = (vec![b't'; request], vec![b'a'; answer]);
    let signature = key.sign(&token)?;
    let open_us = each_us(OPERATIONS, |_| Ok(ours.open(&sealed, &server)?))?;
    let seal_us = each_us(OPERATIONS, |_| Ok(ours.seal(&answer, &server)?))?;
    let verify_us = each_us(OPERATIONS, |_| Ok(key.verify(&token, &signature)?))?;
    let sign_us = each_us(OPERATIONS, |_| Ok(key.sign(&answer)?))?;
    let sum_us = tenths(open_us + seal_us + 2.0 * (verify_us + sign_us));
    Ok(Floor { open_us, seal_us, verify_us, sign_us, sum_us })
}

/// Microseconds of this thread's processor time for each of `count` calls.
pub fn each_us<T>(count: usize, mut call: impl FnMut(usize) -> Result<T>) -> Result<f64> {
    let before = own_thread()?;
    for number in 0..count {
        black_box(call(number)?);
    }
    let used = own_thread()?.saturating_sub(before);
    Ok(tenths(used.as_secs_f64() * 1e6 / f64::from(u32::try_from(count)?)))
}

/// As the process makes it, with all devices known.
fn authorizer(issuer: &str, xkey: &str, members: Vec<Enrollment>) -> Result<Authorizer> {
    let registry = Registry::default();
    for member in members {
        registry.update().put_node(member.device.to_string(), "uid");
        registry.update().put_record(Record::new(member, "uid"));
    }
    Ok(Authorizer {
        issuer: Issuer::new(issuer, "FLEET")?,
        servers: Servers::new([XKey::from_seed(xkey)?]),
        spare_issuers: Vec::new(),
        registry,
        tokens: Tokens::new(Oidc::default(), ServiceAccounts::new(Nobody)),
        policy: Policy {
            device_requests: false,
            components: Default::default(),
            admin_role: "fleet-admin".to_owned(),
        },
        lifetime: Duration::from_secs(720),
        limits: Limits::default(),
        metrics: Arc::new(Metrics::new(&mut prometheus_client::registry::Registry::default())),
        complaints: Complaints::default(),
    })
}

/// Nobody has a token here.
struct Nobody;

impl TokenReviews for Nobody {
    fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

fn seed(fleet: &Fleet, whose: &str) -> Result<String> {
    Ok(std::fs::read_to_string(fleet.nats.seed_file(whose))?.trim().to_owned())
}
