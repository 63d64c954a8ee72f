//! The enrollment token, `id.secret`: the id is shown to the broker, the secret never leaves both ends.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::objects::Enrollment;
use crate::{
    keys::{CurveKey, IdentityKey},
    name::DeviceName,
};

/// `type` of the Secret that holds a token on the cluster's side.
pub const TOKEN_TYPE: &str = "fleet.harmony.io/enrollment-token";
/// Namespace of the tokens, unless a setting says otherwise. They have one of their own: RBAC cannot tell Secrets
/// apart by their type, and who reads tokens must not read the fleet's keys.
pub const TOKENS_NAMESPACE: &str = "harmony-fleet-tokens";

const MAC_DOMAIN: &[u8] = b"harmony-fleet enrollment token v1\n";

/// Why a string or an object is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The id is out of its grammar.
    #[error("the id of an enrollment token is 20 characters of 0-9 and a-f")]
    Id,
    /// It is not `id.secret`.
    #[error("an enrollment token is <id>.<secret>: 20 characters of 0-9 and a-f, a dot, 43 of base64")]
    Shape,
    /// The Secret lacks a field, or it cannot be read.
    #[error("field `{field}` of the enrollment token is missing or not valid: {reason}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What is wrong; never the value.
        reason: String,
    },
}

/// The public half of a token: names its Secret and its subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TokenId(String);

impl TokenId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(value: &str) -> Result<Self, TokenError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if value.len() == 20 && value.bytes().all(hex) {
            Ok(Self(value.to_owned()))
        } else {
            Err(TokenError::Id)
        }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A whole token. `Debug` and `Display` show the id only; the memory of the secret is wiped.
#[derive(Clone)]
pub struct EnrollmentToken {
    /// Its public half.
    pub id: TokenId,
    secret: Zeroizing<[u8; 32]>,
}

impl EnrollmentToken {
    /// A fresh one from the system's random numbers.
    pub fn random() -> Self {
        let id: [u8; 10] = rand::random();
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id: TokenId(id), secret: Zeroizing::new(rand::random()) }
    }

    /// HMAC-SHA256 over the statement of a request, with the secret.
    pub fn mac(&self, statement: &str) -> Vec<u8> {
        self.hmac(statement).finalize().into_bytes().to_vec()
    }

    /// Whether `mac` was made with this secret over `statement`, in constant time.
    pub fn accepts(&self, statement: &str, mac: &[u8]) -> bool {
        self.hmac(statement).verify_slice(mac).is_ok()
    }

    /// `id.secret`, for the file that is carried to the device. Not for logs.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}.{}", self.id, URL_SAFE_NO_PAD.encode(*self.secret)))
    }

    fn hmac(&self, statement: &str) -> Hmac<Sha256> {
        #[allow(clippy::expect_used)]
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.secret).expect("HMAC takes keys of every length");
        mac.update(MAC_DOMAIN);
        mac.update(self.id.as_str().as_bytes());
        mac.update(b"\n");
        mac.update(statement.as_bytes());
        mac
    }
}

impl fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrollmentToken({}.…)", self.id)
    }
}

impl FromStr for EnrollmentToken {
    type Err = TokenError;

    fn from_str(value: &str) -> Result<Self, TokenError> {
        let (id, secret) = value.trim().split_once('.').ok_or(TokenError::Shape)?;
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError::Shape)?);
        let secret: [u8; 32] = secret.as_slice().try_into().map_err(|_| TokenError::Shape)?;
        Ok(Self { id: id.parse()?, secret: Zeroizing::new(secret) })
    }
}

impl Serialize for EnrollmentToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> Deserialize<'de> for EnrollmentToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Zeroizing::new(String::deserialize(deserializer)?).parse().map_err(serde::de::Error::custom)
    }
}

/// Name of a token's Secret.
pub fn token_name(id: &TokenId) -> String {
    format!("enrollment-token-{id}")
}

/// A token on the cluster's side: what it lets become a device, until when, and who used it.
#[derive(Debug, Clone)]
pub struct TokenRecord {
    /// The token.
    pub token: EnrollmentToken,
    /// The only name that it enrolls.
    pub device: DeviceName,
    /// After that it enrolls nobody.
    pub expires: jiff::Timestamp,
    /// Labels for the Node.
    pub labels: BTreeMap<String, String>,
    /// Whether the Node gets the taint.
    pub taint: bool,
    /// Whether the Node reports pods' addresses.
    pub report_pod_ip: bool,
    /// Subject at the identity provider that the device's tokens must have, if it shall use one.
    pub subject: Option<String>,
    /// The keys that used it. The same keys get the same answer again, others are refused.
    pub used_by: Option<(IdentityKey, CurveKey)>,
}

impl TokenRecord {
    /// As a Secret of the namespace of tokens.
    pub fn secret(&self, namespace: &str) -> Secret {
        let text = |value: &str| ByteString(value.as_bytes().to_vec());
        let labels = serde_json::to_string(&self.labels).unwrap_or_default();
        let mut data = BTreeMap::from([
            ("token".to_owned(), text(&self.token.reveal())),
            ("device".to_owned(), text(self.device.as_str())),
            ("expires".to_owned(), text(&self.expires.to_string())),
            ("labels".to_owned(), text(&labels)),
            ("taint".to_owned(), text(&self.taint.to_string())),
            ("reportPodIp".to_owned(), text(&self.report_pod_ip.to_string())),
        ]);
        if let Some(subject) = &self.subject {
            data.insert("subject".to_owned(), text(subject));
        }
        if let Some((identity, curve)) = &self.used_by {
            data.insert("usedByIdentityKey".to_owned(), text(identity.as_str()));
            data.insert("usedByCurveKey".to_owned(), text(curve.as_str()));
        }
        Secret {
            metadata: ObjectMeta {
                name: Some(token_name(&self.token.id)),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(TOKEN_TYPE.to_owned()),
            data: Some(data),
            ..Secret::default()
        }
    }

    /// Reads a Secret.
    ///
    /// # Errors
    /// [`TokenError::Field`] for what is missing or malformed.
    pub fn parse(secret: &Secret) -> Result<Self, TokenError> {
        let empty = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&empty);
        let field = |field: &'static str| {
            data.get(field)
                .map(|value| std::str::from_utf8(&value.0))
                .transpose()
                .map_err(|error| TokenError::Field { field, reason: error.to_string() })
        };
        let required = |name: &'static str| {
            field(name)?.ok_or_else(|| TokenError::Field { field: name, reason: "it is missing".to_owned() })
        };
        fn parsed<T: FromStr<Err: fmt::Display>>(field: &'static str, value: &str) -> Result<T, TokenError> {
            value.parse().map_err(|error: T::Err| TokenError::Field { field, reason: error.to_string() })
        }
        let flag =
            |name: &'static str, default: bool| field(name)?.map_or(Ok(default), |value| parsed(name, value));
        let labels = match field("labels")? {
            Some(labels) => serde_json::from_str(labels)
                .map_err(|error| TokenError::Field { field: "labels", reason: error.to_string() })?,
            None => BTreeMap::new(),
        };
        let used_by = match (field("usedByIdentityKey")?, field("usedByCurveKey")?) {
            (Some(identity), Some(curve)) => {
                Some((parsed("usedByIdentityKey", identity)?, parsed("usedByCurveKey", curve)?))
            }
            _ => None,
        };
        Ok(Self {
            token: parsed("token", required("token")?)?,
            device: parsed("device", required("device")?)?,
            expires: parsed("expires", required("expires")?)?,
            labels,
            taint: flag("taint", true)?,
            report_pod_ip: flag("reportPodIp", false)?,
            subject: field("subject")?.map(str::to_owned),
            used_by,
        })
    }

    /// What enrolls the device with these keys.
    pub fn enrollment(
        &self,
        identity_key: IdentityKey,
        curve_key: CurveKey,
        pod_cidr: Option<String>,
    ) -> Enrollment {
        Enrollment {
            device: self.device.clone(),
            identity_key,
            curve_key,
            subject: self.subject.clone(),
            labels: self.labels.clone(),
            taint: self.taint,
            pod_cidr,
            report_pod_ip: self.report_pod_ip,
        }
    }
}
