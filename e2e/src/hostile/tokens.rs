//! Getting in with tokens of identity providers that are not good, not one's own, or not for this.
//!
//! Each token differs from a good one in one thing only, and bears the provider's own signature wherever that is
//! possible: the provider is made to sign what it never would. Each is shown in a CONNECT of its own, beside a
//! signature over that connection's nonce. The server tells nobody why it refuses, so the reason is read from the
//! callout's counters, and it has to be the one that the attempt is about: what fails for another reason shows
//! nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use jiff::Timestamp;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::client::{Login, RawClient, sign};
use super::member::Member;
use super::subjects::verdict;
use super::table::{Table, Verdict};
use crate::enrollment::Issued;
use crate::fleet::Fleet;
use crate::identity_provider::{Account, ROLES_CLAIM};
use crate::issuers::{ADMIN, Issuers, PERSONS};
use crate::jwt;
use crate::nats::Nats;
use crate::service::Service;
use crate::wait::{Look, until};

/// What nats-server gives a callout.
const LIMIT: Duration = Duration::from_secs(2);
/// How many show a token that nobody can check at the same time.
const CROWD: usize = 8;
const NOBODY: &str = "https://id.nobody.example";

/// How often callouts refused a kind of login for a reason.
///
/// # Errors
/// When one does not answer.
pub async fn refusals(callouts: &[Service], login: &str, reason: &str) -> Result<f64> {
    let labels = [format!("login=\"{login}\""), format!("reason=\"{reason}\"")];
    let mut sum = 0.0;
    for callout in callouts {
        let text = callout.metrics().await?;
        let lines = text.lines().filter(|line| line.starts_with("callout_authorizations_total"));
        let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        sum += lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}

/// A device whose record names a subject, and the token of that subject.
struct Holder {
    member: Member,
    token: String,
}

/// The stage: who tries, and with what.
struct Attack<'a> {
    table: &'a mut Table,
    nats: &'a Nats,
    callouts: &'a [Service],
    issuers: &'a Issuers,
}

/// Everything that is tried with tokens.
///
/// # Errors
/// When a server is not there.
pub async fn try_all(table: &mut Table, fleet: &Fleet, plain: &Member) -> Result<()> {
    let issuers = fleet.issuers()?;
    let mut attack = Attack { table, nats: &fleet.nats, callouts: &fleet.callouts, issuers };
    let mona = account(fleet, issuers, "mona").await?;
    let nora = account(fleet, issuers, "nora").await?;
    attack.without_a_good_token(&mona).await?;
    attack.forged(&mona).await?;
    attack.of_others(&mona, &nora, plain).await?;
    attack.of_people(&mona).await?;
    attack.while_keys_hang(&mona, plain).await
}

/// Enrolls a device with a subject of its own name.
async fn account(fleet: &Fleet, issuers: &Issuers, name: &str) -> Result<Holder> {
    let issued = Issued { subject: Some(format!("subject-{name}")), ..Issued::for_device(name)? };
    let member = Member::enroll(&fleet.nats, &issued.intent(fleet).await?).await?;
    // An account may have any role: at the devices' provider it means nothing.
    let account =
        Account { id: format!("subject-{name}"), roles: vec![ADMIN.to_owned()], ..Account::default() };
    let token = issuers.machine(account).await?.token().await?.secret().to_owned();
    Ok(Holder { member, token })
}

impl Attack<'_> {
    /// One login that must be refused, and for this reason.
    async fn refused(
        &mut self,
        attempt: &str,
        (kind, reason): (&str, &str),
        login: impl FnOnce(&str) -> Result<Login>,
    ) -> Result<()> {
        let attempt = format!("log in {attempt}");
        let before = refusals(self.callouts, kind, reason).await?;
        let mut client = RawClient::open(self.nats).await?;
        let login = login(client.nonce())?;
        match client.login(&login).await? {
            Ok(()) => self.table.note(attempt, "let in", Verdict::Succeeded),
            Err(said) if refusals(self.callouts, kind, reason).await? > before => {
                self.table.note(attempt, format!("{said} ({kind}: {reason})"), Verdict::Refused);
            }
            Err(said) => {
                let answer = format!("{said}, but the callout counts no {kind}: {reason}");
                self.table.note(attempt, answer, Verdict::Broken);
            }
        }
        Ok(())
    }

    /// One login that must work.
    async fn works(&mut self, attempt: &str, login: impl FnOnce(&str) -> Result<Login>) -> Result<RawClient> {
        let mut client = RawClient::open(self.nats).await?;
        let login = login(client.nonce())?;
        let answer = client.login(&login).await?;
        self.table.control(format!("log in {attempt}"), answer.map(|()| "let in".to_owned()));
        Ok(client)
    }

    async fn good(&mut self, attempt: &str, own: &Holder) -> Result<()> {
        self.works(attempt, |nonce| Login::key_and_token(&own.member.identity, nonce, &own.token))
            .await
            .map(drop)
    }

    async fn without_a_good_token(&mut self, own: &Holder) -> Result<()> {
        let (key, token) = (&own.member.identity, own.token.as_str());
        self.good("with the own key and the own token", own).await?;
        self.refused("without the token that the record asks for", ("registry", "token-required"), |nonce| {
            Login::key(key, nonce)
        })
        .await?;
        self.refused("with a good token and no key", ("none", "unsigned"), |_| {
            Ok(Login(json!({ "auth_token": token })))
        })
        .await?;
        self.refused("with a good token and a key without a signature", ("none", "unsigned"), |_| {
            Ok(Login(json!({ "auth_token": token, "nkey": key.public_key() })))
        })
        .await?;
        let elsewhere = RawClient::open(self.nats).await?;
        let signature = sign(key, elsewhere.nonce())?;
        self.refused(
            "with a good token, the signature over another connection's nonce",
            ("oidc-device", "signature"),
            |_| Ok(Login(json!({ "auth_token": token, "nkey": key.public_key(), "sig": signature }))),
        )
        .await
    }

    /// Tokens that name the right subject and are not good.
    async fn forged(&mut self, own: &Holder) -> Result<()> {
        let (devices, persons) = (&self.issuers.devices, &self.issuers.persons);
        let claims = jwt::part(&own.token, 1);
        let key_id = jwt::part(&own.token, 0)["kid"].clone();
        let name_of_key = key_id.as_str().context("the token names no key")?;
        let with = |changes: Value| {
            let mut claims = claims.clone();
            for (claim, value) in changes.as_object().into_iter().flatten() {
                claims[claim] = value.clone();
            }
            claims
        };
        let now = Timestamp::now().as_second();
        let public = devices.public_key().await?;
        let signature = own.token.rsplit_once('.').context("no JWT")?.1;
        let header = own.token.split('.').next().unwrap_or_default();
        let other_subject = with(json!({ "sub": "subject-nora" }));
        let signed = async |changes: Value| devices.sign(&with(changes), None).await;
        // What shows that the provider's odd door makes good tokens of good claims.
        let again = signed(json!({})).await?;
        let forged = [
            (
                "an expired token",
                "token-expired",
                signed(json!({ "exp": now - 120, "iat": now - 420, "nbf": now - 420 })).await?,
            ),
            (
                "a token that begins later",
                "token-not-yet-valid",
                signed(json!({ "exp": now + 600, "iat": now + 300, "nbf": now + 300 })).await?,
            ),
            ("a token for another audience", "token-audience", signed(json!({ "aud": [PERSONS] })).await?),
            ("a token without a signature (alg: none)", "token-algorithm", jwt::unsigned(&key_id, &claims)),
            (
                "an HMAC with the provider's public key (PEM)",
                "token-algorithm",
                jwt::hmac(&key_id, &claims, public.pem.as_bytes()),
            ),
            (
                "an HMAC with the provider's public key (modulus)",
                "token-algorithm",
                jwt::hmac(&key_id, &claims, &public.modulus),
            ),
            (
                "a token under a key id that nobody has",
                "token-unknown-key",
                devices.sign(&claims, Some("nobodys")).await?,
            ),
            (
                "a token that another provider signed",
                "token-signature",
                persons.sign(&claims, Some(name_of_key)).await?,
            ),
            (
                "a token with another subject under the old signature",
                "token-signature",
                format!("{header}.{}.{signature}", jwt::encode(&other_subject)),
            ),
        ];
        let elsewhere = signed(json!({ "iss": NOBODY })).await?;
        let as_person = signed(json!({ "iss": persons.issuer(), "aud": [PERSONS] })).await?;
        let key = &own.member.identity;
        self.works("with a token that the provider was told to sign", |nonce| {
            Login::key_and_token(key, nonce, &again)
        })
        .await?;
        for (attempt, reason, token) in &forged {
            self.refused(&format!("with {attempt}"), ("oidc-device", reason), |nonce| {
                Login::key_and_token(key, nonce, token)
            })
            .await?;
        }
        // Whose issuer nobody set up, the API server is asked; it does not know it either.
        self.refused("with a token of another issuer", ("service-account", "not-authenticated"), |nonce| {
            Login::key_and_token(key, nonce, &elsewhere)
        })
        .await?;
        self.refused(
            "with a token that names the people's issuer, signed by the devices'",
            ("oidc-person", "token-unknown-key"),
            |nonce| Login::key_and_token(&KeyPair::new_user(), nonce, &as_person),
        )
        .await
    }

    /// Good tokens and good keys that do not belong together.
    async fn of_others(&mut self, own: &Holder, other: &Holder, plain: &Member) -> Result<()> {
        let key = &own.member.identity;
        self.good("the other device with its own key and token", other).await?;
        self.refused("with another device's token and the own key", ("oidc-device", "subject"), |nonce| {
            Login::key_and_token(key, nonce, &other.token)
        })
        .await?;
        self.refused("with the own token and another device's key", ("oidc-device", "subject"), |nonce| {
            Login::key_and_token(&other.member.identity, nonce, &own.token)
        })
        .await?;
        let (public, token) = (other.member.identity.public_key(), other.token.as_str());
        self.refused(
            "with another device's token and its key, signed with the own one",
            ("oidc-device", "signature"),
            |nonce| Ok(Login(json!({ "nkey": public, "sig": sign(key, nonce)?, "auth_token": token }))),
        )
        .await?;
        self.refused(
            "with a good token and the key of a device without a subject",
            ("oidc-device", "subject"),
            |nonce| Login::key_and_token(&plain.identity, nonce, &own.token),
        )
        .await
    }

    /// One kind in the place of the other.
    async fn of_people(&mut self, own: &Holder) -> Result<()> {
        let admin = self.issuers.person("alice", &[ADMIN]).await?;
        let guest = self.issuers.person("bob", &["viewer"]).await?;
        let (admin, guest) = (admin.access_token.expose(), guest.access_token.expose());
        let session = KeyPair::new_user();
        let mut client = self
            .works("as a person with the administrators' role", |nonce| {
                Login::key_and_token(&session, nonce, admin)
            })
            .await?;
        let subject = fleet_wire::subject::Subject::Down(
            own.member.name.clone(),
            fleet_wire::subject::DownVerb::Revoked,
        );
        let heard = client.publish(&subject.to_string(), "", b"x").await;
        self.table.attempt(
            "as an administrator, say anything to a device",
            heard.map_err(|error| error.to_string()).and_then(|heard| verdict(&heard)),
        );
        self.refused("as a person without that role", ("oidc-person", "role"), |nonce| {
            Login::key_and_token(&KeyPair::new_user(), nonce, guest)
        })
        .await?;
        self.refused("as a person, with the key of a device", ("oidc-person", "device-key"), |nonce| {
            Login::key_and_token(&own.member.identity, nonce, admin)
        })
        .await?;
        self.refused(
            "as a person, with a device's token that has the role",
            ("oidc-device", "unknown-key"),
            |nonce| Login::key_and_token(&KeyPair::new_user(), nonce, &own.token),
        )
        .await?;
        let mut raised = jwt::part(guest, 1);
        raised[ROLES_CLAIM] = json!({ ADMIN: { "1": "fleet.example.com" } });
        let (header, signature) =
            (guest.split('.').next().unwrap_or_default(), guest.rsplit_once('.').context("no JWT")?.1);
        let raised = format!("{header}.{}.{signature}", jwt::encode(&raised));
        self.refused(
            "as a person who wrote the role into the token",
            ("oidc-person", "token-signature"),
            |nonce| Login::key_and_token(&KeyPair::new_user(), nonce, &raised),
        )
        .await
    }

    /// The provider takes connections for its keys and does not answer: nobody can say whether a key id is its
    /// own.
    async fn while_keys_hang(&mut self, own: &Holder, plain: &Member) -> Result<()> {
        let devices = &self.issuers.devices;
        let unknown = devices.sign(&jwt::part(&own.token, 1), Some("another-nobodys")).await?;
        let fetches = || devices.process.log_text().matches("GET /keys").count();
        let admin = self.issuers.person("alice", &[ADMIN]).await?;
        devices.hang_keys(true).await?;
        let before = fetches();
        // Whether this one is refused at once or late depends on when the keys were fetched last. It makes the
        // callout fetch them as soon as it may, which is when it hangs.
        let mut first = RawClient::open(self.nats).await?;
        let login = Login::key_and_token(&own.member.identity, first.nonce(), &unknown)?;
        let answer = first.login(&login).await?;
        self.table
            .attempt("log in with an unknown key id, keys about to hang", answer.map(|()| "let in".into()));
        until("the callout to ask for the keys", Duration::from_secs(15), async || {
            Ok(if fetches() > before { Look::Done(()) } else { Look::not_yet("it did not") })
        })
        .await?;

        let (kind, reason) = ("oidc-device", "verifier-unavailable");
        let counted = refusals(self.callouts, kind, reason).await?;
        let crowd = try_join_all(
            (0..CROWD).map(async |_| timed(self.nats, &own.member.identity, Some(&unknown)).await),
        );
        let session = KeyPair::new_user();
        let bystanders = async {
            // The crowd is waiting while these come.
            tokio::try_join!(
                timed(self.nats, &own.member.identity, Some(&own.token)),
                timed(self.nats, &plain.identity, None),
                timed(self.nats, &session, Some(admin.access_token.expose())),
            )
        };
        let (crowd, (known, registry, person)) = tokio::try_join!(crowd, bystanders)?;
        let grown = refusals(self.callouts, kind, reason).await? - counted;
        devices.hang_keys(false).await?;

        let slowest = crowd.iter().map(|(_, time)| *time).max().unwrap_or_default();
        let let_in = crowd.iter().filter(|(answer, _)| answer.is_ok()).count();
        let attempt = format!("log in {CROWD} times with an unknown key id while the keys hang");
        let answer = format!("{grown:.0} refused as {reason}, the last after {:.2} s", slowest.as_secs_f32());
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let all = grown >= CROWD as f64;
        match (let_in, all && slowest < LIMIT) {
            (0, true) => self.table.note(attempt, answer, Verdict::Refused),
            (0, false) => self.table.note(attempt, answer, Verdict::Broken),
            (some, _) => self.table.note(attempt, format!("{some} let in"), Verdict::Succeeded),
        }
        for (who, (answer, time)) in [
            ("a device with a token whose key is known", known),
            ("a device with its key alone", registry),
            ("a person", person),
        ] {
            let answer = answer.and_then(|()| match time < LIMIT {
                true => Ok(format!("let in after {:.2} s", time.as_secs_f32())),
                false => Err(format!("let in after {:.2} s", time.as_secs_f32())),
            });
            self.table.control(format!("meanwhile, log in {who}"), answer);
        }
        self.good("when the keys are there again", own).await
    }
}

/// A login, and how long the server took for it.
async fn timed(
    nats: &Nats,
    key: &KeyPair,
    token: Option<&str>,
) -> Result<(std::result::Result<(), String>, Duration)> {
    let mut client = RawClient::open(nats).await?;
    let login = match token {
        Some(token) => Login::key_and_token(key, client.nonce(), token)?,
        None => Login::key(key, client.nonce())?,
    };
    let began = Instant::now();
    let answer = client.login(&login).await?;
    Ok((answer, began.elapsed()))
}
