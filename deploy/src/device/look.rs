//! Reads what devices are made of. Where a right is missing that is not essential, it says what is not shown.

use fleet_wire::{
    enrollment::{DEVICE_LABEL, TOKEN_TYPE, record_name},
    name::DeviceName,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node, Secret},
};
use kube::api::ListParams;

use super::{
    request::{Decision, DeviceRequest, decision, is_of_a_device},
    rows::{Device, Sources, devices},
};
use crate::{
    cluster::{Cluster, of_devices},
    error::FleetError,
};

/// Devices, and what could not be looked at.
pub struct View {
    /// Sorted by name.
    pub devices: Vec<Device>,
    /// For people.
    pub hidden: Vec<String>,
}

/// All devices.
///
/// # Errors
/// When Nodes or records cannot be read.
pub async fn all(cluster: &Cluster) -> Result<View, FleetError> {
    let (nodes, records, leases, rest) =
        (cluster.nodes(), cluster.records(), cluster.leases(), wishes(cluster));
    let devices_only = of_devices();
    let everything = ListParams::default();
    let (nodes, records, leases, (tokens, requests, mut hidden)) = futures::try_join!(
        nodes.list(&devices_only),
        records.list(&devices_only),
        async { readable(leases.list(&everything).await) },
        rest,
    )?;
    let leases = leases.unwrap_or_else(|lack| {
        hidden.push(format!("signs of life: {lack}"));
        Vec::new()
    });
    let sources = Sources { nodes, records, tokens, requests, leases };
    Ok(View { devices: devices(&sources, Timestamp::now()), hidden })
}

/// One device.
///
/// # Errors
/// As [`all`]; [`FleetError::NotFound`] when nothing has that name.
pub async fn one(cluster: &Cluster, device: &DeviceName) -> Result<(Device, View), FleetError> {
    let (nodes, records, leases) = (cluster.nodes(), cluster.records(), cluster.leases());
    let record = record_name(device);
    let (node, record, lease, (tokens, requests, mut hidden)) = futures::try_join!(
        nodes.find(device.as_str()),
        records.find(&record),
        async { readable(leases.find(device.as_str()).await) },
        wishes(cluster),
    )?;
    let lease = lease.unwrap_or_else(|lack| {
        hidden.push(format!("signs of life: {lack}"));
        None
    });
    if let Some(node) = node.as_ref().filter(|node| !is_device(node)) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        return Err(FleetError::refused(
            format!("Node {name} is no device: it lacks the label {DEVICE_LABEL}"),
            "devices are listed by `fleet device list`",
        ));
    }
    let sources = Sources {
        nodes: node.into_iter().collect(),
        records: record.into_iter().collect(),
        tokens,
        requests,
        leases: lease.into_iter().collect(),
    };
    let found = devices(&sources, Timestamp::now()).into_iter().find(|found| found.name == device.as_str());
    let found = found.ok_or_else(|| unknown(device))?;
    Ok((found, View { devices: Vec::new(), hidden }))
}

/// The error for a name that nothing has.
pub fn unknown(device: &DeviceName) -> FleetError {
    FleetError::not_found(
        format!("there is no device {device}, no invitation and no request of that name"),
        format!("`fleet device list` shows all; `fleet device enroll {device}` invites it"),
    )
}

/// Whether a Node is a device's.
pub fn is_device(node: &Node) -> bool {
    node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(DEVICE_LABEL))
}

type Wishes = (Vec<Secret>, Vec<CertificateSigningRequest>, Vec<String>);

async fn wishes(cluster: &Cluster) -> Result<Wishes, FleetError> {
    let (secrets, requests) = (cluster.tokens(), cluster.requests());
    let type_of_tokens = ListParams::default().fields(&format!("type={TOKEN_TYPE}"));
    let everything = ListParams::default();
    let (tokens, requests) =
        futures::try_join!(async { readable(secrets.list(&type_of_tokens).await) }, async {
            readable(requests.list(&everything).await)
        },)?;
    let mut hidden = Vec::new();
    let tokens = tokens.unwrap_or_else(|lack| {
        hidden.push(format!("invitations: {lack}"));
        Vec::new()
    });
    let mut requests = requests.unwrap_or_else(|lack| {
        hidden.push(format!("requests for approval: {lack}"));
        Vec::new()
    });
    requests.retain(is_of_a_device);
    for request in requests.iter().filter(|request| decision(request) == Decision::Pending) {
        if let Err(error) = DeviceRequest::parse(request) {
            let name = request.metadata.name.as_deref().unwrap_or_default();
            hidden.push(format!("request {name}, which nobody should approve: {error}"));
        }
    }
    Ok((tokens, requests, hidden))
}

/// What was read, or the right that is missing.
fn readable<T>(result: Result<T, FleetError>) -> Result<Result<T, String>, FleetError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(FleetError::Forbidden { verb, resource, place, .. }) => {
            Ok(Err(format!("no right to {verb} {resource}{place}")))
        }
        Err(error) => Err(error),
    }
}
