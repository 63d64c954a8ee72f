//! One authorization, from the sealed request to the sealed answer: opens, gathers the facts, has them
//! decided, counts, writes the audit line. Knows nothing of NATS subjects.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fleet_wire::keys::CurveKey;
use jiff::Timestamp;

use crate::{
    audit::{self, Asked, Line},
    claims::{AuthorizationRequest, Grant, Issuer, IssuerError, RequestError},
    decide::{Admission, Decision, Facts, Holder, Key, Policy, Refusal, TokenRefusal, decide},
    limits::{Limits, Source},
    login::{Kind, Login, Proof},
    metrics::{AuthorizationLabels, Metrics},
    registry::{Registry, Standing},
    servers::Servers,
    tokens::Tokens,
};

/// A user's lifetime lies between these parts of the setting, so that those who came together do not come
/// back together.
const JITTER: (f64, f64) = (5.0 / 6.0, 5.0 / 4.0);

/// What the server's log says of every refusal. Why, only the audit line says: servers' logs have other
/// readers.
const REFUSED: &str = "not authorized";

/// Why a request gets no answer: there is nobody to give it to, or it must not be given.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Not sealed.
    #[error(
        "the request is not sealed: set `xkey` in nats-server's auth_callout to this process's public curve key"
    )]
    Plain,
    /// The header is no curve key.
    #[error("the request's header Nats-Server-Xkey is not a curve key")]
    Header,
    /// It was sealed to another key, or by another server.
    #[error(
        "the request cannot be opened: nats-server's `xkey` is the public half of another curve key than `xkey-seed-file`"
    )]
    Box,
    /// It is no request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server that signed it is not the one that sealed it.
    #[error("the request was not sealed by the server that signed it")]
    ServerKey,
    /// The server expects another issuer.
    #[error("nats-server expects answers of issuer {expected}, `issuer-seed-file` is that of {ours}")]
    Issuer {
        /// Its setting.
        expected: String,
        /// Our key.
        ours: String,
    },
    /// The answer cannot be signed.
    #[error(transparent)]
    Sign(#[from] IssuerError),
    /// The answer cannot be sealed.
    #[error("the answer cannot be sealed")]
    Seal,
}

impl Unanswered {
    fn label(&self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Header => "header",
            Self::Box => "box",
            Self::Request(_) => "request",
            Self::ServerKey => "server-key",
            Self::Issuer { .. } => "issuer",
            Self::Sign(_) => "sign",
            Self::Seal => "seal",
        }
    }
}

/// Everything that an authorization needs.
pub struct Authorizer {
    /// Signs.
    pub issuer: Issuer,
    /// Sign, too: the issuers on the other side of a rotation. Some servers have the new configuration already, others
    /// the old one still; a request says which issuer its server expects.
    pub spare_issuers: Vec<Issuer>,
    /// Opens and seals.
    pub servers: Servers,
    /// Devices.
    pub registry: Registry,
    /// Bearer tokens.
    pub tokens: Tokens,
    /// Settings of the decision.
    pub policy: Policy,
    /// How long a user lives, about.
    pub lifetime: Duration,
    /// Budgets.
    pub limits: Limits,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Which complaints about servers were made.
    pub complaints: Complaints,
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Complaints that are made once: what is wrong with a server's configuration is wrong at every request.
#[derive(Debug, Default)]
pub struct Complaints {
    plain: AtomicBool,
    sealing: AtomicBool,
    issuer: AtomicBool,
    other: AtomicBool,
}

/// What was gathered and decided.
struct Outcome {
    login: Kind,
    token_subject: Option<String>,
    decision: Decision,
}

impl Authorizer {
    /// Answers a request. `server_xkey` is the header `Nats-Server-Xkey`.
    ///
    /// # Errors
    /// [`Unanswered`], already counted and logged.
    pub async fn answer(&self, server_xkey: Option<&str>, payload: &[u8]) -> Result<Vec<u8>, Unanswered> {
        let started = Instant::now();
        let answer = self.sealed(server_xkey, payload, started).await;
        if let Err(why) = &answer {
            self.metrics.unanswered(why.label());
            self.complaints.tell(why);
        }
        answer
    }

    async fn sealed(
        &self,
        server_xkey: Option<&str>,
        payload: &[u8],
        started: Instant,
    ) -> Result<Vec<u8>, Unanswered> {
        let server_xkey: CurveKey =
            server_xkey.ok_or(Unanswered::Plain)?.parse().map_err(|_| Unanswered::Header)?;
        let (agreement, token) = self.servers.open(&server_xkey, payload).map_err(|_| Unanswered::Box)?;
        let request = AuthorizationRequest::decode(&token)?;
        if request.server.xkey.as_ref() != Some(&server_xkey) {
            return Err(Unanswered::ServerKey);
        }
        let mut issuers = std::iter::once(&self.issuer).chain(&self.spare_issuers);
        let Some(issuer) = issuers.find(|issuer| issuer.public_key() == request.issuer) else {
            let ours = self.issuer.public_key().to_owned();
            return Err(Unanswered::Issuer { expected: request.issuer, ours });
        };
        let (answer, labels) = self.decided(request, issuer, Timestamp::now()).await?;
        let sealed = agreement.seal(answer.as_bytes()).map_err(|_| Unanswered::Seal)?;
        // The key of the header opened the request, and the server's signature repeats it.
        self.servers.keep(server_xkey, agreement);
        self.metrics.decided(labels, started.elapsed());
        Ok(sealed)
    }

    async fn decided(
        &self,
        request: AuthorizationRequest,
        issuer: &Issuer,
        now: Timestamp,
    ) -> Result<(String, AuthorizationLabels), IssuerError> {
        let asked = Asked::from(&request);
        let claimed = audit::claimed(&request.connect.nkey, &request.connect.user);
        let user_nkey = request.user_nkey.clone();
        let Outcome { login, token_subject, decision } = self.outcome(request, now).await;
        let (answer, expires) = match &decision {
            Decision::Admit(admission) => {
                let expires = self.expiry(now, admission.not_after, rand::random());
                let answer = match &admission.member {
                    Some(member) => issuer.admit(&asked.server, &user_nkey, &member.grant, now, expires),
                    None => {
                        let grant = Grant::of(&admission.identity);
                        issuer.admit(&asked.server, &user_nkey, &grant, now, expires)
                    }
                }?;
                (answer, Some(expires))
            }
            Decision::Refuse(_) => (issuer.refuse(&asked.server, &user_nkey, now, REFUSED)?, None),
        };
        let (word, reason) = match &decision {
            Decision::Admit(_) => ("admit", ""),
            Decision::Refuse(refusal) => ("refuse", refusal.label()),
        };
        let token_subject = token_subject.as_deref();
        Line { login, claimed: &claimed, token_subject, decision: &decision, expires }.write(&asked);
        Ok((answer, AuthorizationLabels { login: login.label(), decision: word, reason }))
    }

    async fn outcome(&self, request: AuthorizationRequest, now: Timestamp) -> Outcome {
        let source = Source::parse(&request.client.host);
        // Whether this attempt was counted for its address already.
        let mut counted = false;
        let mut token_subject = None;
        let parsed = Login::parse(request.connect, &request.client);
        let mut kind = parsed.as_ref().map_or(Kind::None, Login::kind);
        let decision = match &parsed {
            Err(error) => self.decide(Facts::Malformed(*error), now),
            Ok(Login::Registry(proof)) => self.decide(Facts::Registry(proved(proof)), now),
            Ok(Login::Applicant(proof)) => self.decide(Facts::Applicant(proved(proof)), now),
            Ok(Login::EnrollmentToken(id)) => self.decide(Facts::EnrollmentToken(id), now),
            Ok(Login::Token(proof, token)) => {
                let key = proved(proof);
                let device_key = self.registry.index().standing(key.key) != Standing::Unknown;
                kind = self.tokens.kind(token.reveal(), device_key);
                let holder = if key.proven {
                    let may_ask = || {
                        counted = true;
                        self.limits.unverified(&source)
                    };
                    self.tokens.holder(kind, token.reveal(), now, may_ask).await
                } else {
                    // Nobody is asked for those who cannot prove the key; the signature is the reason.
                    Err(TokenRefusal::UnknownIssuer)
                };
                token_subject = holder.as_ref().ok().map(subject);
                self.decide(Facts::Token(key, holder), now)
            }
        };
        let decision = self.within_limits(decision, &source, counted);
        Outcome { login: kind, token_subject, decision }
    }

    fn decide(&self, facts: Facts<'_>, now: Timestamp) -> Decision {
        decide(facts, &self.registry.index(), &self.policy, now)
    }

    fn within_limits(&self, decision: Decision, source: &Source, counted: bool) -> Decision {
        let within = match &decision {
            Decision::Admit(Admission { verified: true, identity, .. }) => self.limits.admission(identity),
            Decision::Admit(_) => counted || self.limits.unverified(source),
            Decision::Refuse(refusal) => {
                if !counted && !refusal.is_of_known_key() {
                    self.limits.unverified(source);
                }
                // The reason says more than that there were many.
                true
            }
        };
        if within { decision } else { Refusal::RateLimited.into() }
    }

    /// `random` is uniform in 0..1.
    fn expiry(&self, now: Timestamp, not_after: Option<Timestamp>, random: f64) -> Timestamp {
        let part = JITTER.0 + (JITTER.1 - JITTER.0) * random.clamp(0.0, 1.0);
        let expires = now.saturating_add(self.lifetime.mul_f64(part)).unwrap_or(now);
        not_after.map_or(expires, |not_after| expires.min(not_after))
    }
}

fn proved(proof: &Proof) -> Key<'_> {
    Key { key: &proof.key, proven: proof.holds() }
}

fn subject(holder: &Holder) -> String {
    match holder {
        Holder::Device { subject, .. } | Holder::Person { subject, .. } => subject.clone(),
        Holder::ServiceAccount { user, .. } => user.clone(),
    }
}

impl Complaints {
    fn tell(&self, why: &Unanswered) {
        let told = match why {
            Unanswered::Plain => &self.plain,
            Unanswered::Header | Unanswered::Box | Unanswered::ServerKey => &self.sealing,
            Unanswered::Issuer { .. } => &self.issuer,
            Unanswered::Request(_) | Unanswered::Sign(_) | Unanswered::Seal => &self.other,
        };
        if !told.swap(true, Ordering::Relaxed) {
            tracing::error!(
                reason = %why,
                "an authorization request is not answered; callout_unanswered_total counts the others"
            );
        }
    }
}

#[cfg(test)]
#[path = "tests/authorize.rs"]
mod tests;
