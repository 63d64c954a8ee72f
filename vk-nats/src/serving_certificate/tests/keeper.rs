#![allow(clippy::unwrap_used)]

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use fleet_daemon::health::Health;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData, SignatureAlgorithm};
use x509_parser::{
    certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer as _,
};

use super::*;

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Sign,
    Ignore,
    Deny,
}

/// A cluster that signs, for as long as its certificates are to live.
struct Cluster {
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicU32>,
    requests: Mutex<Vec<CertificateSigningRequest>>,
    clock: Clock,
    life: Duration,
}

/// The key of a request.
struct Public(Vec<u8>);

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// The wall clock of a paused runtime.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Timestamp {
        let began = Timestamp::from_second(1_800_000_000).unwrap();
        began.checked_add(jiff::SignedDuration::try_from(self.0.elapsed()).unwrap()).unwrap()
    }
}

impl Cluster {
    fn sign(&self, pem: &[u8]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(params, KeyPair::generate().unwrap());
        let (_, pem) = parse_x509_pem(pem).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        let key = Public(request.certification_request_info.subject_pki.subject_public_key.data.to_vec());
        let mut params = CertificateParams::default();
        let ends = self.clock.now().as_second() + i64::try_from(self.life.as_secs()).unwrap();
        // To the second; rcgen counts in its own dates.
        let days = u32::try_from(ends / 86_400).unwrap();
        let date = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::from(days) * 86_400);
        params.not_after = date + Duration::from_secs(u64::try_from(ends % 86_400).unwrap());
        params.signed_by(&key, &issuer).unwrap().pem().into_bytes()
    }
}

impl Signer for Cluster {
    async fn ask(&self, request: &CertificateSigningRequest) -> Result<String, SignerError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut requests = self.requests.lock().unwrap();
        requests.push(request.clone());
        Ok((requests.len() - 1).to_string())
    }

    async fn look(&self, name: &str) -> Result<Option<CertificateSigningRequest>, SignerError> {
        let mut request = self.requests.lock().unwrap()[name.parse::<usize>().unwrap()].clone();
        let condition = |kind: &str| CertificateSigningRequestCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            ..CertificateSigningRequestCondition::default()
        };
        let mood = *self.mood.lock().unwrap();
        request.status = match mood {
            Mood::Ignore => None,
            Mood::Deny => Some(CertificateSigningRequestStatus {
                conditions: Some(vec![condition("Denied")]),
                certificate: None,
            }),
            Mood::Sign => Some(CertificateSigningRequestStatus {
                conditions: Some(vec![condition("Approved")]),
                certificate: Some(ByteString(self.sign(&request.spec.request.0))),
            }),
        };
        Ok(Some(request))
    }
}

struct Case {
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicU32>,
    served: watch::Receiver<Option<Arc<Pair>>>,
    health: Health,
    began: Instant,
}

impl Case {
    fn start(mood: Mood, life: Duration) -> Self {
        let (mood, asked, health) = (Arc::new(Mutex::new(mood)), Arc::<AtomicU32>::default(), Health::new());
        let (sender, served) = watch::channel(None);
        let clock = Clock(Instant::now());
        let cluster = Cluster {
            mood: Arc::clone(&mood),
            asked: Arc::clone(&asked),
            requests: Mutex::default(),
            clock,
            life,
        };
        let wanted =
            Wanted { identity: "vk-nats-0".to_owned(), address: [10, 0, 0, 5].into(), lifetime: life };
        let check = health.check("serving-certificate");
        tokio::spawn(
            Keeper::new(cluster, wanted, sender, check, Metrics::default(), move || clock.now()).run(),
        );
        Self { mood, asked, served, health, began: clock.0 }
    }

    async fn next(&mut self) -> Arc<Pair> {
        self.served.changed().await.unwrap();
        self.served.borrow_and_update().clone().unwrap()
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_with_another_key_before_it_ends() {
    let mut case = Case::start(Mood::Sign, HOUR);
    let first = case.next().await;
    assert!(case.health.is_ready());
    let second = case.next().await;
    assert_ne!(first, second);
    assert_ne!(first.key, second.key);
    let age = case.began.elapsed();
    assert!(age >= HOUR.mul_f64(0.7) && age <= HOUR.mul_f64(0.9) + Duration::from_secs(2), "{age:?}");
    assert_eq!(case.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn until_somebody_approves_it_is_not_ready_and_asks_anew_now_and_then() {
    let mut case = Case::start(Mood::Ignore, HOUR);
    sleep(PATIENCE / 2).await;
    assert!(!case.health.is_ready());
    assert_eq!(case.asked(), 1, "one request waits, not a new one each second");
    sleep(PATIENCE).await;
    assert_eq!(case.asked(), 2);
    *case.mood.lock().unwrap() = Mood::Sign;
    case.next().await;
    assert!(case.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn the_old_one_serves_while_the_renewal_is_denied_and_readiness_ends_with_it() {
    let mut case = Case::start(Mood::Sign, HOUR);
    let first = case.next().await;
    *case.mood.lock().unwrap() = Mood::Deny;
    sleep(HOUR.mul_f64(0.95)).await;
    assert!(case.asked() > 1, "it asked for the next one");
    assert!(case.health.is_ready(), "the old one is good");
    assert_eq!(case.served.borrow().clone().unwrap(), first);
    sleep(HOUR).await;
    assert!(!case.health.is_ready(), "the old one is over");
    assert!(case.asked() < 40, "{} requests in an hour", case.asked());
    *case.mood.lock().unwrap() = Mood::Sign;
    case.next().await;
    assert!(case.health.is_ready());
}
