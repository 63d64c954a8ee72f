//! The fleet's keys in the cluster: read as they are, written as planned.

use std::collections::BTreeMap;

use fleet_wire::{enrollment::KEY_VERSION, keys::KeyError, name::KeyVersion};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Node, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    material::Versions,
    nats::{NATS_AUTH, NatsAuth, entries},
    plan::{Desired, InUse, Stored},
};
use crate::{
    cluster::{Cluster, of_devices},
    error::FleetError,
    info::{FLEET_INFO, FleetInfo},
};

/// Secret with the versions of the curve key.
pub const CURVE_KEYS: &str = "fleet-curve-keys";
/// Secret with the versions of the enroller's key.
pub const ENROLLER_KEYS: &str = "fleet-enroller-keys";
/// Annotation of [`CURVE_KEYS`] with the highest sequence of a statement.
const SEQUENCE: &str = "fleet.harmony.io/statement-sequence";

/// What was read, with the versions that guard the writes.
pub struct Snapshot {
    /// What it means.
    pub stored: Stored,
    curve: Option<Secret>,
    enroller: Option<Secret>,
    info: Option<ConfigMap>,
}

/// Which is written first: private keys appear before a statement names them, and go after none does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Something is added.
    SecretsFirst,
    /// Something is taken away.
    StatementFirst,
}

/// Reads the fleet's keys.
///
/// # Errors
/// When the API server refuses, or an object is damaged.
pub async fn read(cluster: &Cluster) -> Result<Snapshot, FleetError> {
    let curve = cluster.secrets().find(CURVE_KEYS).await?;
    let enroller = cluster.secrets().find(ENROLLER_KEYS).await?;
    let info = cluster.config_maps().find(FLEET_INFO).await?;
    let versions = |name: &str, secret: &Option<Secret>| {
        Versions::parse(secret.as_ref().and_then(|secret| secret.data.as_ref()))
            .map_err(|error| damaged(cluster, name, &error))
    };
    let sequence = curve
        .as_ref()
        .and_then(|secret| secret.metadata.annotations.as_ref()?.get(SEQUENCE)?.parse().ok())
        .unwrap_or_default();
    let stored = Stored {
        curve: versions(CURVE_KEYS, &curve)?,
        enroller: versions(ENROLLER_KEYS, &enroller)?,
        sequence,
        info: info.as_ref().map(FleetInfo::parse).transpose()?,
    };
    Ok(Snapshot { stored, curve, enroller, info })
}

fn damaged(cluster: &Cluster, name: &str, error: &KeyError) -> FleetError {
    FleetError::Damaged {
        object: format!("Secret {}/{name}", cluster.namespace()),
        reason: error.to_string(),
    }
}

/// Writes what differs; says what.
///
/// # Errors
/// When the API server refuses; [`FleetError::Refused`] when somebody else wrote meanwhile.
pub async fn write(
    cluster: &Cluster,
    snapshot: Snapshot,
    desired: &Desired,
    order: Order,
) -> Result<Vec<String>, FleetError> {
    let mut changes = Vec::new();
    if order == Order::StatementFirst {
        changes.extend(write_info(cluster, snapshot.info.as_ref(), &desired.info).await?);
    }
    let sequence = BTreeMap::from([(SEQUENCE.to_owned(), desired.sequence.to_string())]);
    changes.extend(write_secret(cluster, CURVE_KEYS, snapshot.curve, desired.curve.data(), sequence).await?);
    let none = BTreeMap::new();
    changes.extend(
        write_secret(cluster, ENROLLER_KEYS, snapshot.enroller, desired.enroller.data(), none).await?,
    );
    if order == Order::SecretsFirst {
        changes.extend(write_info(cluster, snapshot.info.as_ref(), &desired.info).await?);
    }
    Ok(changes)
}

async fn write_info(
    cluster: &Cluster,
    current: Option<&ConfigMap>,
    desired: &FleetInfo,
) -> Result<Option<String>, FleetError> {
    let mut map = desired.config_map(cluster.namespace())?;
    match current {
        None => cluster.config_maps().create(&map).await?,
        Some(current) if current.data == map.data => return Ok(None),
        Some(current) => {
            map.metadata = current.metadata.clone();
            cluster.config_maps().replace(FLEET_INFO, &map).await?
        }
    };
    Ok(Some(format!("configmap/{FLEET_INFO} {}", if current.is_none() { "created" } else { "updated" })))
}

async fn write_secret(
    cluster: &Cluster,
    name: &str,
    current: Option<Secret>,
    data: BTreeMap<String, ByteString>,
    annotations: BTreeMap<String, String>,
) -> Result<Option<String>, FleetError> {
    let Some(mut secret) = current else {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(cluster.namespace().to_owned()),
                annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        cluster.secrets().create(&secret).await?;
        return Ok(Some(format!("secret/{name} created")));
    };
    let before = secret.clone();
    secret.data = Some(data);
    secret.metadata.annotations.get_or_insert_default().extend(annotations);
    if secret.metadata.annotations.as_ref().is_some_and(BTreeMap::is_empty) {
        secret.metadata.annotations = None;
    }
    if secret == before {
        return Ok(None);
    }
    cluster.secrets().replace(name, &secret).await?;
    Ok(Some(format!("secret/{name} updated")))
}

/// Which version each device used last.
///
/// # Errors
/// When the API server refuses.
pub async fn in_use(cluster: &Cluster) -> Result<Vec<InUse>, FleetError> {
    let nodes = cluster.nodes().list(&of_devices()).await?;
    Ok(nodes.iter().filter_map(used).collect())
}

fn used(node: &Node) -> Option<InUse> {
    let device = node.metadata.name.as_deref()?.parse().ok()?;
    let version =
        node.metadata.annotations.as_ref().and_then(|all| all.get(KEY_VERSION)?.parse().ok()).map(KeyVersion);
    Some(InUse { device, version })
}

/// The static NATS keys, and the Secret that guards the write.
///
/// # Errors
/// When the API server refuses, or the Secret is damaged.
pub async fn read_nats(cluster: &Cluster) -> Result<(NatsAuth, Option<Secret>), FleetError> {
    let secret = cluster.secrets().find(NATS_AUTH).await?;
    let keys = NatsAuth::parse(secret.as_ref()).map_err(|error| damaged(cluster, NATS_AUTH, &error))?;
    Ok((keys, secret))
}

/// Writes the static NATS keys, if they differ.
///
/// # Errors
/// As [`write()`].
pub async fn write_nats(
    cluster: &Cluster,
    keys: &NatsAuth,
    current: Option<Secret>,
) -> Result<Option<String>, FleetError> {
    let mut data = current.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
    // Entries of others stay; ours that a rotation ended go.
    let ours: Vec<String> = entries().collect();
    data.retain(|entry, _| !ours.contains(entry));
    data.extend(keys.secret(cluster.namespace()).data.unwrap_or_default());
    write_secret(cluster, NATS_AUTH, current, data, BTreeMap::new()).await
}
