//! Whether a token of an identity provider is genuine, for us, and good now.
//!
//! One [`Provider`] stands for one issuer. It owns the issuer's keys and never decides what a subject or a
//! role may do. A token is verified without I/O as long as its key is known; otherwise within
//! [`ANSWER_WITHIN`], because NATS gives a whole authorization 2 s.
//!
//! | the provider | known keys | an unknown key |
//! |---|---|---|
//! | answers | good; renewed every 5 min | one fetch, at most every 10 s, shared by all who wait |
//! | is away | good for 24 h after they were fetched | [`OidcError::Unavailable`] |

mod keys;
mod token;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use fleet_daemon::oidc::http::{HttpClient, HttpError, allowed};
use jiff::Timestamp;
use openidconnect::IssuerUrl;
use tokio::time::Instant;

use keys::Keys;
use token::Token;

/// Longest time for [`Provider::verify`].
pub const ANSWER_WITHIN: Duration = Duration::from_millis(900);
/// How long one request to the provider may take. Longer than anybody waits: a slow provider's answer is
/// there for the next try.
const FETCH_WITHIN: Duration = Duration::from_secs(5);

/// One issuer, and what its tokens have to say.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// The issuer's URL, exactly as its tokens have it in `iss`.
    pub issuer: String,
    /// What has to be among a token's audiences.
    pub audience: String,
    /// CA of the provider's certificate (PEM), and the only one trusted; the system's without it.
    pub ca_file: Option<PathBuf>,
    /// The claim that has the roles: an object whose keys are roles, or an array of them.
    pub roles_claim: String,
}

/// What a genuine token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The account at the provider.
    pub subject: String,
    /// Its roles; empty when the token has no such claim.
    pub roles: BTreeSet<String>,
    /// When the token ends. It may be up to a minute past, because clocks differ by that much.
    pub expires: Timestamp,
}

/// Why the settings of a provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The issuer is not a URL that may be asked.
    #[error("the issuer {issuer:?} is not a URL that begins with https://")]
    Issuer {
        /// What was given.
        issuer: String,
    },
    /// Without an audience, a token for anybody would do.
    #[error("the issuer {issuer:?} has no audience: say what its tokens have in `aud`")]
    Audience {
        /// The issuer.
        issuer: String,
    },
    /// The client cannot be set up.
    #[error(transparent)]
    Client(#[from] HttpError),
}

/// Why a token is refused. The text holds nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// The signature is not that of the key it names.
    #[error("the token's signature is wrong")]
    Signature,
    /// It ended.
    #[error("the token ended at {at}; fetch a new one, and check the clock")]
    Expired {
        /// When.
        at: Timestamp,
    },
    /// It begins later, by `nbf` or `iat`.
    #[error("the token is not valid before {from}; check the clocks")]
    NotYetValid {
        /// When it begins.
        from: Timestamp,
    },
    /// It is for somebody else.
    #[error("the token is for another audience; check which audience is asked for")]
    Audience,
    /// It is from somebody else.
    #[error("the token is of another issuer")]
    Issuer,
    /// It is signed in a way that is not accepted.
    #[error("the token's algorithm is none of RS256, ES256 and EdDSA")]
    Algorithm,
    /// The provider has no such key.
    #[error("the token is signed with a key that the identity provider does not have")]
    UnknownKey,
    /// The provider did not answer, and its answer was needed.
    #[error("the identity provider does not answer, and the token's key is not known; try again")]
    Unavailable,
    /// It is not such a token.
    #[error("the token cannot be used: {0}")]
    Malformed(&'static str),
}

impl OidcError {
    /// The reason as a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown-key",
            Self::Unavailable => "unavailable",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// Verifies the tokens of one issuer. What it started in the background ends with it.
#[derive(Debug)]
pub struct Provider {
    settings: ProviderSettings,
    keys: Keys,
}

impl Provider {
    /// Checks the settings; asks nobody.
    pub fn new(settings: ProviderSettings) -> Result<Self, ProviderError> {
        let issuer = || settings.issuer.clone();
        if settings.audience.is_empty() {
            return Err(ProviderError::Audience { issuer: issuer() });
        }
        let url = IssuerUrl::new(issuer()).map_err(|_| ProviderError::Issuer { issuer: issuer() })?;
        if !settings.issuer.parse().is_ok_and(|uri| allowed(&uri)) {
            return Err(ProviderError::Issuer { issuer: issuer() });
        }
        let client = HttpClient::new(settings.ca_file.as_deref(), FETCH_WITHIN)?;
        Ok(Self { keys: Keys::new(url, client), settings })
    }

    /// The issuer, as tokens have it.
    pub fn issuer(&self) -> &str {
        &self.settings.issuer
    }

    /// Whether the token is genuine, for us, and good at `now`. To be called within a runtime.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, OidcError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let settings = &self.settings;
        let token = Token::parse(token)?;
        let claims = token.check(&settings.issuer, &settings.audience, &settings.roles_claim, now)?;
        self.keys.verify(&token, deadline).await?;
        Ok(claims)
    }
}

/// Who says to have issued a token: for choosing its [`Provider`], and nothing else.
pub fn unverified_issuer(token: &str) -> Option<String> {
    token::issuer(token)
}

#[cfg(test)]
mod tests;
