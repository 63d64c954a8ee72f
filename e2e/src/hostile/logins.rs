//! Getting in as somebody else, or at all.

use anyhow::Result;
use fleet_wire::enrollment::EnrollmentToken;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::client::{Login, RawClient, sign};
use super::member::Member;
use super::table::Table;
use crate::nats::Nats;

/// Tries one login that must be refused.
///
/// # Errors
/// When there is no server.
pub async fn refused(
    table: &mut Table,
    nats: &Nats,
    attempt: &str,
    login: impl FnOnce(&str) -> Result<Login>,
) -> Result<()> {
    let mut client = RawClient::open(nats).await?;
    let login = login(client.nonce())?;
    let answer = client.login(&login).await?;
    table.attempt(format!("log in {attempt}"), answer.map(|()| "let in".to_owned()));
    Ok(())
}

/// Tries one login that must work, so that the others mean something.
///
/// # Errors
/// When there is no server.
pub async fn works(
    table: &mut Table,
    nats: &Nats,
    attempt: &str,
    login: impl FnOnce(&str) -> Result<Login>,
) -> Result<()> {
    let mut client = RawClient::open(nats).await?;
    let login = login(client.nonce())?;
    let answer = client.login(&login).await?;
    table.control(format!("log in {attempt}"), answer.map(|()| "let in".to_owned()));
    Ok(())
}

/// Every way to log in that is not this device's own.
///
/// # Errors
/// When there is no server.
pub async fn try_all(
    table: &mut Table,
    nats: &Nats,
    own: &Member,
    victim: &str,
    token: &EnrollmentToken,
) -> Result<()> {
    works(table, nats, "with the own key", |nonce| Login::key(&own.identity, nonce)).await?;
    works(table, nats, "with the id of an enrollment token", |_| Ok(Login::enrollment(token.id.as_str())))
        .await?;

    let elsewhere = RawClient::open(nats).await?;
    let old_nonce = elsewhere.nonce().to_owned();
    let key = |nkey: &str, sig: String| Login(json!({ "nkey": nkey, "sig": sig }));
    let (own_key, stranger) = (own.identity.public_key(), KeyPair::new_user());
    refused(table, nats, "without anything", |_| Ok(Login(json!({})))).await?;
    refused(table, nats, "with a key that nobody enrolled", |nonce| Login::key(&stranger, nonce)).await?;
    refused(table, nats, "with the own key and no signature", |_| Ok(Login(json!({ "nkey": own_key }))))
        .await?;
    refused(table, nats, "with the own key and an empty signature", |_| Ok(key(&own_key, String::new())))
        .await?;
    refused(table, nats, "with a signature over another connection's nonce", |_| {
        Ok(key(&own_key, sign(&own.identity, &old_nonce)?))
    })
    .await?;
    refused(table, nats, "as another device, signed with the own key", |nonce| {
        Ok(key(victim, sign(&own.identity, nonce)?))
    })
    .await?;
    refused(table, nats, "as another device, without a signature", |_| Ok(Login(json!({ "nkey": victim }))))
        .await?;
    for (attempt, seed) in [("as the callout", "callout"), ("as the kicker", "kicker")] {
        let public = public_of(nats, seed)?;
        refused(table, nats, &format!("{attempt}, signed with the own key"), |nonce| {
            Ok(key(&public, sign(&own.identity, nonce)?))
        })
        .await?;
    }
    refused(table, nats, "with the own key, asking anew with it", |nonce| {
        Login::applicant(&own.identity, nonce)
    })
    .await?;
    refused(table, nats, "with a self-made user JWT", |nonce| {
        Ok(Login(json!({ "jwt": self_made_jwt(&own_key), "sig": sign(&own.identity, nonce)? })))
    })
    .await?;

    for name in names() {
        refused(table, nats, &format!("as enrollment:{}", shown(&name)), |_| Ok(Login::enrollment(&name)))
            .await?;
    }
    for user in ["", "device:alpha", "component:vk-nats", "request", "$SYS", "FLEET", "admin"] {
        refused(table, nats, &format!("as user {user:?} with an empty password"), |_| {
            Ok(Login(json!({ "user": user, "pass": "" })))
        })
        .await?;
    }
    refused(table, nats, "with 100 KiB of user name", |_| {
        Ok(Login(json!({ "user": "x".repeat(100 * 1024), "pass": "" })))
    })
    .await
}

/// Names and ids out of their grammar.
#[must_use]
pub fn names() -> Vec<String> {
    [
        "",
        ".",
        "..",
        "*",
        ">",
        "a.b",
        "a b",
        "a\tb",
        "alpha*",
        "fleet.v1.>",
        "ALPHA",
        "älpha",
        "αλφα",
        "a\u{202e}b",
        "-a",
        "a-",
        "a_b",
        "a/b",
        "../alpha",
        "a\0b",
        "a\r\nSUB > 1",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain(["a".repeat(64), "a".repeat(254), "0".repeat(19), "0".repeat(21), format!("{}.x", "0".repeat(18))])
    .collect()
}

/// A name as it can stand in a table.
#[must_use]
pub fn shown(name: &str) -> String {
    let start: String = name.chars().take(24).collect();
    let more = if name.chars().count() > 24 {
        format!("… ({} characters)", name.chars().count())
    } else {
        String::new()
    };
    format!("{start:?}{more}")
}

fn public_of(nats: &Nats, whose: &str) -> Result<String> {
    let seed = std::fs::read_to_string(nats.seed_file(whose))?;
    Ok(KeyPair::from_seed(seed.trim())?.public_key())
}

/// A user JWT by an account key of the device's own making, as in operator mode.
fn self_made_jwt(user: &str) -> Value {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let account = KeyPair::new_account();
    let header = URL_SAFE_NO_PAD.encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" }).to_string());
    let claims = json!({
        "jti": "x", "iat": 1_700_000_000, "iss": account.public_key(), "sub": user, "name": "device:alpha",
        "aud": "FLEET", "nats": { "pub": {}, "sub": {}, "type": "user", "version": 2 },
    });
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = account.sign(signed.as_bytes()).unwrap_or_default();
    json!(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
