//! `fleet-info`: the ConfigMap with what everybody may know of a fleet. No secrets in it.

use std::collections::BTreeMap;

use fleet_wire::{
    enrollment::DeviceIssuer,
    keys::{KeyError, KeyStatement, SignedKeyStatement},
};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{cluster::Cluster, error::FleetError};

/// Name of the ConfigMap.
pub const FLEET_INFO: &str = "fleet-info";
/// Where devices get tokens: its URL.
const ISSUER: &str = "deviceIssuer";
/// What they ask it for, separated by spaces.
const ISSUER_SCOPES: &str = "deviceIssuerScopes";
/// Audience, for providers that want it as a parameter.
const ISSUER_AUDIENCE: &str = "deviceIssuerAudience";
/// CA of its certificate (PEM).
const ISSUER_CA: &str = "deviceIssuerCa";

/// What the ConfigMap says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetInfo {
    /// `tls://host:4222`, where devices reach NATS.
    pub nats_url: Option<String>,
    /// CA of the NATS server's certificate (PEM).
    pub nats_ca: Option<String>,
    /// The public root key (`O…`).
    pub root_key: String,
    /// The fleet's keys, signed by the root key.
    pub keys: SignedKeyStatement,
    /// The identity provider of devices, if they have accounts. An operator writes it there.
    pub device_issuer: Option<DeviceIssuer>,
}

impl FleetInfo {
    /// What the root key signed.
    ///
    /// # Errors
    /// When it did not.
    pub fn statement(&self) -> Result<KeyStatement, KeyError> {
        self.keys.verify(&self.root_key)
    }

    /// As a ConfigMap.
    ///
    /// # Errors
    /// None in practice.
    pub fn config_map(&self, namespace: &str) -> Result<ConfigMap, FleetError> {
        let keys =
            serde_json::to_string(&self.keys).map_err(|error| FleetError::Render(error.to_string()))?;
        let mut data =
            BTreeMap::from([("rootKey".to_owned(), self.root_key.clone()), ("keys".to_owned(), keys)]);
        if let Some(url) = &self.nats_url {
            data.insert("natsUrl".to_owned(), url.clone());
        }
        if let Some(ca) = &self.nats_ca {
            data.insert("natsCa".to_owned(), ca.clone());
        }
        if let Some(DeviceIssuer { issuer, scopes, audience, ca }) = &self.device_issuer {
            data.insert(ISSUER.to_owned(), issuer.clone());
            data.insert(ISSUER_SCOPES.to_owned(), scopes.join(" "));
            data.extend(audience.iter().map(|audience| (ISSUER_AUDIENCE.to_owned(), audience.clone())));
            data.extend(ca.iter().map(|ca| (ISSUER_CA.to_owned(), ca.clone())));
        }
        Ok(ConfigMap {
            metadata: ObjectMeta {
                name: Some(FLEET_INFO.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        })
    }

    /// Reads a ConfigMap.
    ///
    /// # Errors
    /// [`FleetError::Damaged`] when a field is missing or unreadable.
    pub fn parse(map: &ConfigMap) -> Result<Self, FleetError> {
        let field = |name: &str| map.data.as_ref().and_then(|data| data.get(name)).cloned();
        let damaged = |reason: String| FleetError::Damaged {
            object: format!(
                "ConfigMap {}/{FLEET_INFO}",
                map.metadata.namespace.as_deref().unwrap_or_default()
            ),
            reason,
        };
        let required = |name: &str| field(name).ok_or_else(|| damaged(format!("`{name}` is missing")));
        let keys = serde_json::from_str(&required("keys")?)
            .map_err(|error| damaged(format!("`keys` cannot be read: {error}")))?;
        let scopes = field(ISSUER_SCOPES).unwrap_or_else(|| "openid".to_owned());
        let device_issuer = field(ISSUER).map(|issuer| DeviceIssuer {
            issuer,
            scopes: scopes.split_whitespace().map(str::to_owned).collect(),
            audience: field(ISSUER_AUDIENCE),
            ca: field(ISSUER_CA),
        });
        Ok(Self {
            nats_url: field("natsUrl"),
            nats_ca: field("natsCa"),
            root_key: required("rootKey")?,
            keys,
            device_issuer,
        })
    }

    /// The cluster's.
    ///
    /// # Errors
    /// [`FleetError::NotFound`] when the fleet has no keys yet.
    pub async fn of(cluster: &Cluster) -> Result<Self, FleetError> {
        let map = cluster.config_maps().find(FLEET_INFO).await?.ok_or_else(|| {
            FleetError::not_found(
                format!("there is no ConfigMap {FLEET_INFO} in namespace {}", cluster.namespace()),
                "make the fleet's keys with `fleet keys init`, or name its namespace with --namespace",
            )
        })?;
        Self::parse(&map)
    }
}
