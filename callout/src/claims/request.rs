//! The server's question: may this client connect, and as whom?

use std::fmt;

use fleet_wire::keys::{CurveKey, IdentityKey};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::token::{Issued, TokenError, VERSION, decode_from_server};

/// `aud` of requests.
const AUDIENCE: &str = "nats-authorization-request";
/// `nats.type` of requests.
const TYPE: &str = "authorization_request";

/// Why a request is not one that can be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The token around it is not believed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// These are claims of another kind or version.
    #[error("the claims are not a NATS authorization request of version 2")]
    Kind,
    /// They are meant for somebody else.
    #[error("the request's audience is not {AUDIENCE}")]
    Audience,
    /// It is not signed by the server that it names.
    #[error("the request is not signed by the server that it names")]
    Server,
    /// A key in it is not one.
    #[error("the request's {0} is not a valid public key")]
    Key(&'static str),
}

/// A request whose signature was checked.
#[derive(Debug)]
pub struct AuthorizationRequest {
    /// `sub`: the account key that the server expects as issuer of the answer.
    pub issuer: String,
    /// Key that the answer must be made for: fresh for each request, so no answer fits another, and the name
    /// of the request in audit lines. (`jti` is a hash of the other claims, the same for all in one second.)
    pub user_nkey: IdentityKey,
    /// Who asks.
    pub server: Server,
    /// What the server knows of the client.
    pub client: Client,
    /// What the client sent.
    pub connect: ConnectOptions,
}

/// The server that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its public key (`N…`), which is its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its curve key, to which the answer is sealed. `None`: it would not have sealed the request.
    pub xkey: Option<CurveKey>,
}

/// What the server itself says of the client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Client {
    /// Its address, without the port.
    pub host: String,
    /// Number of the connection at this server.
    pub id: u64,
    /// `nats`, `mqtt` or `websocket`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the client had to sign; the server sends it only when the client signed something.
    pub nonce: String,
}

/// Text that nobody may read in a log: `Debug` shows at most that there is some, and its memory is wiped.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Secret()" } else { "Secret(…)" })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// CONNECT as the client sent it. Nothing of this is true before it was proved. `Debug` shows no secret.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ConnectOptions {
    /// A NATS JWT.
    pub jwt: Secret,
    /// Public key.
    pub nkey: String,
    /// Signature over the nonce, base64.
    pub sig: String,
    /// Bearer token.
    pub auth_token: Secret,
    /// User name.
    pub user: String,
    /// Password.
    pub pass: Secret,
    /// What the client calls itself.
    pub name: String,
    /// The client library's language.
    pub lang: String,
    /// The client library's version.
    pub version: String,
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("nkey", &self.nkey)
            .field("user", &self.user)
            .field("name", &self.name)
            .field("auth_token", &self.auth_token)
            .field("pass", &self.pass)
            .field("jwt", &self.jwt)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: String,
    iss: String,
    sub: String,
    nats: Nats,
}

#[derive(Deserialize)]
struct Nats {
    server_id: ServerId,
    user_nkey: String,
    #[serde(default)]
    client_info: Client,
    #[serde(default)]
    connect_opts: ConnectOptions,
    #[serde(rename = "type")]
    kind: String,
    version: u8,
}

#[derive(Deserialize)]
struct ServerId {
    #[serde(default)]
    name: String,
    id: String,
    #[serde(default)]
    xkey: String,
}

impl Issued for Claims {
    fn issuer(&self) -> &str {
        &self.iss
    }
}

impl AuthorizationRequest {
    /// Reads a token, unsealed, and checks that the server that it names has signed it. Unknown fields are
    /// ignored: servers may be newer.
    ///
    /// # Errors
    /// [`RequestError`]; nobody can be told, since the answer's place is in the request.
    pub fn decode(token: &[u8]) -> Result<Self, RequestError> {
        let claims: Claims = decode_from_server(token)?;
        let nats = claims.nats;
        if nats.kind != TYPE || nats.version != VERSION {
            return Err(RequestError::Kind);
        }
        if claims.aud != AUDIENCE {
            return Err(RequestError::Audience);
        }
        // A server's id is its public key.
        if claims.iss != nats.server_id.id {
            return Err(RequestError::Server);
        }
        let user_nkey = nats.user_nkey.parse().map_err(|_| RequestError::Key("user_nkey"))?;
        let xkey = match nats.server_id.xkey.as_str() {
            "" => None,
            xkey => Some(xkey.parse().map_err(|_| RequestError::Key("server_id.xkey"))?),
        };
        Ok(Self {
            issuer: claims.sub,
            user_nkey,
            server: Server { id: nats.server_id.id, name: nats.server_id.name, xkey },
            client: nats.client_info,
            connect: nats.connect_opts,
        })
    }
}
