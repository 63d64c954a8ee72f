//! The identity provider is Zitadel's own engine: what it issues is accepted, what nobody should accept is
//! not, and what happens while it rotates its keys or is away is seen.

#![allow(clippy::unwrap_used)]

use std::ops::Deref;
use std::time::{Duration, Instant};

use anyhow::Result;
use callout::oidc::{OidcError, Provider, ProviderSettings, unverified_issuer};
use e2e::binaries::Tools;
use e2e::identity_provider::{Account, IdentityProvider, Place, ROLES_CLAIM};
use e2e::jwt::{encode, hmac, part, unsigned};
use e2e::wait::{Look, until};
use fleet::login::{self, LoginError, PersonError, Store};
use fleet_daemon::oidc::{MachineLogin, MachineLoginSettings, OidcError as FetchError};
use jiff::Timestamp;
use serde_json::json;

const PROJECT: &str = "4711";
const AUDIENCE_SCOPE: &str = "urn:zitadel:iam:org:project:id:4711:aud";

/// A provider of its own for one test; its process ends with it.
struct Running {
    provider: IdentityProvider,
    _folder: tempfile::TempDir,
}

impl Deref for Running {
    type Target = IdentityProvider;

    fn deref(&self) -> &IdentityProvider {
        &self.provider
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.provider.kill();
    }
}

impl Running {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let place = Place::on_loopback().await?;
        let provider = IdentityProvider::new(folder.path(), "oidc", place, &Tools::locate().await?)?;
        let running = Self { provider, _folder: folder };
        running.provider.start().await?;
        Ok(running)
    }

    fn verifier(&self) -> Provider {
        let settings = ProviderSettings {
            issuer: self.issuer(),
            audience: PROJECT.into(),
            ca_file: Some(self.ca_file()),
            roles_claim: ROLES_CLAIM.into(),
        };
        Provider::new(settings).unwrap()
    }

    fn login(&self) -> MachineLoginSettings {
        let scopes = vec!["openid".into(), AUDIENCE_SCOPE.into()];
        MachineLoginSettings { scopes, ..self.machine_login() }
    }

    /// A machine with a registered key.
    async fn machine(&self, name: &str) -> Result<MachineLogin> {
        self.put(&Account { id: name.into(), roles: vec!["device".into()], ..Account::default() }).await?;
        let key_file = Some(self.register_key(name).await?);
        Ok(MachineLogin::new(MachineLoginSettings { key_file, ..self.login() })?)
    }
}

async fn verify(verifier: &Provider, token: &str) -> Result<callout::oidc::Verified, OidcError> {
    verifier.verify(token, Timestamp::now()).await
}

/// Waits until a token is answered so; the verifier asks the provider every 10 s at most.
async fn becomes(verifier: &Provider, token: &str, expected: Result<(), &str>) -> Result<()> {
    until(format!("{expected:?}"), Duration::from_secs(25), async || {
        let seen = verify(verifier, token).await;
        let label = seen.as_ref().map(drop).map_err(OidcError::label);
        Ok(if label == expected { Look::Done(()) } else { Look::not_yet(format!("{seen:?}")) })
    })
    .await
}

#[tokio::test]
async fn a_machine_with_a_registered_key_is_known_whatever_the_algorithm() -> Result<()> {
    let provider = Running::start().await?;
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        provider.rotate(algorithm, true).await?;
        let login = provider.machine("pi-7").await?;
        let token = login.token().await?;
        assert_eq!(part(token.secret(), 0)["alg"], algorithm);
        assert_eq!(unverified_issuer(token.secret()), Some(provider.issuer()));
        let verified = verify(&provider.verifier(), token.secret()).await?;
        assert_eq!(verified.subject, "pi-7");
        assert_eq!(verified.roles, ["device".to_owned()].into());
        let left = verified.expires.duration_since(Timestamp::now()).as_secs();
        assert!((240..=300).contains(&left), "{left} s");
        assert_eq!(login.token().await?.secret(), token.secret(), "it is remembered");
    }
    Ok(())
}

#[tokio::test]
async fn a_machine_with_a_secret_is_known_and_a_wrong_key_is_named() -> Result<()> {
    let provider = Running::start().await?;
    let account = Account { id: "pi-8".into(), ..Account::default() };
    let token = provider.token_of(account, &["openid", AUDIENCE_SCOPE]).await?;
    assert_eq!(verify(&provider.verifier(), &token).await?.subject, "pi-8");

    let login = provider.machine("pi-9").await?;
    // The account is made anew, without the key.
    provider.put(&Account { id: "pi-9".into(), ..Account::default() }).await?;
    let error = login.token().await.unwrap_err();
    assert!(matches!(error, FetchError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("/oauth/token"), "{error}");
    Ok(())
}

/// The provider signs all of these, or its own key and token are the material.
#[tokio::test]
async fn tokens_that_are_not_good_are_refused() -> Result<()> {
    let provider = Running::start().await?;
    let verifier = provider.verifier();
    let scopes = ["openid", AUDIENCE_SCOPE];
    let odd = |id: &str, lifetime_seconds, ahead_seconds| Account {
        id: id.into(),
        lifetime_seconds,
        ahead_seconds,
        ..Account::default()
    };
    let good = provider.token_of(odd("good", 0, 0), &scopes).await?;
    verify(&verifier, &good).await?;

    let other = Running::start().await?;
    let elsewhere = other.token_of(odd("good", 0, 0), &scopes).await?;
    let public = provider.public_key().await?;
    let kid = part(&good, 0)["kid"].clone();
    let claims = part(&good, 1);
    let signature = good.rsplit_once('.').unwrap().1;
    let none = unsigned(&kid, &claims);
    let hmac = hmac(&kid, &claims, &public.modulus);
    let invented =
        format!("{}.{}.{signature}", encode(&json!({ "alg": "RS256", "kid": "invented" })), encode(&claims));
    let mut raised = part(&good, 1);
    raised["sub"] = json!("admin");
    let raised = format!("{}.{}.{signature}", good.split('.').next().unwrap(), encode(&raised));
    let moved = {
        let mut claims = part(&elsewhere, 1);
        claims["iss"] = json!(provider.issuer());
        let (header, signature) =
            (elsewhere.split('.').next().unwrap(), elsewhere.rsplit_once('.').unwrap().1);
        format!("{header}.{}.{signature}", encode(&claims))
    };

    for (what, label, token) in [
        ("expired", "expired", provider.token_of(odd("late", -300, 0), &scopes).await?),
        ("not yet valid", "not-yet-valid", provider.token_of(odd("early", 0, 300), &scopes).await?),
        ("no such audience", "audience", provider.token_of(odd("plain", 0, 0), &["openid"]).await?),
        (
            "another project",
            "audience",
            provider
                .token_of(odd("apart", 0, 0), &["openid", "urn:zitadel:iam:org:project:id:4712:aud"])
                .await?,
        ),
        ("another issuer", "issuer", elsewhere.clone()),
        ("another issuer's signature", "unknown-key", moved),
        ("alg none", "algorithm", none),
        ("HMAC with the public key", "algorithm", hmac),
        ("an invented key id", "unknown-key", invented),
        ("a raised subject", "signature", raised),
        ("too large", "malformed", format!("{good}{}", "A".repeat(16 * 1024))),
        ("garbage", "malformed", "e30.e30.e30".into()),
    ] {
        let refused = verify(&verifier, &token).await.expect_err(what);
        assert_eq!(refused.label(), label, "{what}: {refused}");
    }
    verify(&verifier, &good).await?;
    Ok(())
}

#[tokio::test]
async fn keys_are_rotated_without_an_outage() -> Result<()> {
    let provider = Running::start().await?;
    let verifier = provider.verifier();
    let old = provider.machine("pi-7").await?.token().await?;
    verify(&verifier, old.secret()).await?;
    provider.rotate("ES256", false).await?;
    let new = provider.machine("pi-7").await?.token().await?;
    becomes(&verifier, new.secret(), Ok(())).await?;
    verify(&verifier, old.secret()).await?;
    // A key that was taken out is refused once another unknown one made the verifier ask.
    provider.rotate("RS256", true).await?;
    let newest = provider.machine("pi-7").await?.token().await?;
    becomes(&verifier, newest.secret(), Ok(())).await?;
    assert_eq!(verify(&verifier, old.secret()).await.unwrap_err().label(), "unknown-key");
    Ok(())
}

#[tokio::test]
async fn known_keys_survive_a_provider_that_is_away_or_hangs() -> Result<()> {
    let provider = Running::start().await?;
    let verifier = provider.verifier();
    let login = provider.machine("pi-7").await?;
    let token = login.token().await?;
    verify(&verifier, token.secret()).await?;

    for hang in [true, false] {
        if hang {
            provider.hang_keys(true).await?;
        } else {
            provider.hang_keys(false).await?;
            provider.away(true).await?;
        }
        verify(&verifier, token.secret()).await?;
        let begun = Instant::now();
        let stranger = provider.verifier();
        assert_eq!(verify(&stranger, token.secret()).await, Err(OidcError::Unavailable), "hang: {hang}");
        assert!(begun.elapsed() < Duration::from_secs(1), "hang: {hang}: {:?}", begun.elapsed());
    }
    assert_eq!(login.token().await?.secret(), token.secret(), "a token that is good needs no provider");
    let key_file = login.settings().key_file.clone();
    let fresh = MachineLogin::new(MachineLoginSettings { key_file, ..provider.login() })?;
    assert!(matches!(fresh.token().await, Err(FetchError::Http(_))));

    provider.away(false).await?;
    fresh.token().await?;
    Ok(())
}

#[tokio::test]
async fn a_person_logs_in_with_a_code_and_stays_logged_in() -> Result<()> {
    let provider = Running::start().await?;
    let roles = vec!["fleet-admin".to_owned(), "viewer".to_owned()];
    provider.put(&Account { id: "alice".into(), roles: roles.clone(), ..Account::default() }).await?;
    let session = provider.log_in(("alice", true), &[AUDIENCE_SCOPE]).await??;
    assert_eq!(session.subject.as_deref(), Some("alice"), "from the signed ID token");
    let verified = verify(&provider.verifier(), session.access_token.expose()).await?;
    assert_eq!(verified.subject, "alice");
    assert_eq!(verified.roles, roles.iter().cloned().collect());
    assert_eq!(session.who(ROLES_CLAIM).roles, roles);

    let folder = tempfile::tempdir()?;
    let store = Store::at(&folder.path().join("config"));
    let mut old = session.clone();
    old.expires = Timestamp::now();
    store.save(&old)?;
    let renewed = login::load(&store).await?;
    assert_ne!(renewed.access_token, session.access_token);
    assert_ne!(renewed.refresh_token, session.refresh_token, "each is good once");
    verify(&provider.verifier(), renewed.access_token.expose()).await?;
    assert_eq!(login::load(&store).await?, renewed, "it was kept, and is fresh");

    let used_up = login::refresh(&old).await.unwrap_err();
    assert!(matches!(used_up, LoginError::Person(PersonError::Ended(_))), "{used_up:?}");
    assert!(!used_up.to_string().contains(old.refresh_token.unwrap().expose()));
    Ok(())
}

#[tokio::test]
async fn a_login_that_is_denied_says_so() -> Result<()> {
    let provider = Running::start().await?;
    provider.put(&Account { id: "alice".into(), ..Account::default() }).await?;
    let refused = provider.log_in(("alice", false), &[AUDIENCE_SCOPE]).await?.unwrap_err();
    assert!(matches!(refused, LoginError::Person(PersonError::Denied)), "{refused:?}");
    Ok(())
}
