//! Types of values that the settings of several daemons have: serde and schemars agree on what they accept.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Lets settings have a type as text, by its `FromStr` and `Display`: implements serde's traits and schemars' one.
///
/// `text_setting!(PortRange, "FIRST-LAST", "two ports joined by '-', e.g. 10300-20299")`: the value's name in the help
/// text, and what is expected. The calling crate needs `serde` and `schemars`.
#[macro_export]
macro_rules! text_setting {
    ($type:ty, $value_name:literal, $expected:expr) => {
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as ::serde::Deserialize>::deserialize(deserializer)?;
                // The reason may repeat the text, which need not be shown where this type is read.
                text.parse()
                    .map_err(|_| ::serde::de::Error::custom(format_args!("expected {}", $expected)))
            }
        }

        impl ::schemars::JsonSchema for $type {
            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                ::schemars::json_schema!({
                    "type": "string",
                    "x-value-name": $value_name,
                    "x-expected": $expected,
                })
            }
        }
    };
}

/// A duration in whole seconds as settings give it, e.g. `heartbeat-interval = 10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub u64);

impl JsonSchema for Seconds {
    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "uint64", "minimum": 0, "x-value-name": "SECONDS" })
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0)
    }
}

/// Where NATS is: `nats://host:port` or `tls://host:port`; several servers are separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsUrl(String);

/// Why a text is no [`NatsUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected nats://host:port or tls://host:port")]
pub struct NatsUrlError;

impl FromStr for NatsUrl {
    type Err = NatsUrlError;

    fn from_str(text: &str) -> Result<Self, NatsUrlError> {
        let usable = |server: &str| {
            ["nats://", "tls://"]
                .iter()
                .filter_map(|scheme| server.strip_prefix(scheme))
                .any(|host| !host.is_empty() && !host.starts_with(':') && !host.contains(['/', ' ']))
        };
        match text.split(',').all(|server| usable(server.trim())) {
            true => Ok(Self(text.to_owned())),
            false => Err(NatsUrlError),
        }
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<NatsUrl> for String {
    fn from(url: NatsUrl) -> Self {
        url.0
    }
}

text_setting!(NatsUrl, "URL", "nats://host:port or tls://host:port, e.g. tls://nats.example:4222");
