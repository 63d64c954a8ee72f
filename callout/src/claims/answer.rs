//! The answer to a server: a user's claims, or a refusal; signed, for this one request.

use fleet_wire::keys::IdentityKey;
use jiff::Timestamp;
use nkeys::{KeyPair, KeyPairType};

use super::{grant::Grant, token};

/// Why answers cannot be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The seed is not that of an account.
    #[error("not the seed of an account's nkey: expected 58 characters that begin with SA")]
    Seed,
    /// The account's name cannot stand in claims.
    #[error("the account's name is empty")]
    Account,
    /// The key did not sign.
    #[error("the issuer's key cannot sign: {0}")]
    Sign(String),
}

/// Who issues users: the key that nats-server's configuration names as `issuer`.
pub struct Issuer {
    key: KeyPair,
    public: String,
    account: String,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("public", &self.public).field("account", &self.account).finish()
    }
}

impl Issuer {
    /// From the issuer's seed (`SA…`) and the name of the account that its users are put into.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn new(seed: &str, account: impl Into<String>) -> Result<Self, IssuerError> {
        let key = match KeyPair::from_seed(seed.trim()) {
            Ok(key) if key.key_pair_type() == KeyPairType::Account => key,
            _ => return Err(IssuerError::Seed),
        };
        let account = account.into();
        if account.trim().is_empty() {
            return Err(IssuerError::Account);
        }
        Ok(Self { public: key.public_key(), key, account })
    }

    /// Its public key (`A…`).
    pub fn public_key(&self) -> &str {
        &self.public
    }

    /// Admits the client of a request: `server` and `user_nkey` are the request's.
    ///
    /// # Errors
    /// [`IssuerError::Sign`].
    pub fn admit(
        &self,
        server: &str,
        user_nkey: &IdentityKey,
        grant: &Grant,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<String, IssuerError> {
        let claims = format!(
            r#"{{"aud":{account},"exp":{exp},"iat":{iat},"iss":"{issuer}","sub":"{user_nkey}",{grant}}}"#,
            account = serde_json::Value::from(self.account.as_str()),
            exp = expires.as_second(),
            iat = now.as_second(),
            issuer = self.public,
            grant = grant.as_json_members(),
        );
        let user = self.sign(&claims)?;
        // A token needs no escaping.
        self.respond(server, user_nkey, now, &format!(r#""jwt":"{user}""#))
    }

    /// Refuses. The text goes to the server's log; the client never sees it.
    ///
    /// # Errors
    /// [`IssuerError::Sign`].
    pub fn refuse(
        &self,
        server: &str,
        user_nkey: &IdentityKey,
        now: Timestamp,
        reason: &str,
    ) -> Result<String, IssuerError> {
        let error = format!(r#""error":{}"#, serde_json::Value::from(reason));
        self.respond(server, user_nkey, now, &error)
    }

    fn respond(
        &self,
        server: &str,
        user_nkey: &IdentityKey,
        now: Timestamp,
        verdict: &str,
    ) -> Result<String, IssuerError> {
        self.sign(&format!(
            r#"{{"aud":{server},"iat":{iat},"iss":"{issuer}","sub":"{user_nkey}","nats":{{{verdict},"type":"authorization_response","version":{version}}}}}"#,
            server = serde_json::Value::from(server),
            iat = now.as_second(),
            issuer = self.public,
            version = token::VERSION,
        ))
    }

    fn sign(&self, claims: &str) -> Result<String, IssuerError> {
        token::encode(claims, &self.key).map_err(|error| IssuerError::Sign(error.to_string()))
    }
}
