//! `fleet device approve` and `deny`: the decision on a device's request.

use clap::Args;
use fleet_wire::name::DeviceName;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::ListParams;
use serde_json::json;

use super::request::{Decision, DeviceRequest, RequestError, is_of_a_device};
use crate::{
    ask::confirm,
    cluster::Cluster,
    error::FleetError,
    output::{note, print},
};

/// `fleet device approve`
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// Name of the device, or of its CertificateSigningRequest.
    name: String,
    /// The fingerprint that the device shows; approves without a question if it is the same.
    #[arg(long, value_name = "SHA256:…")]
    fingerprint: Option<String>,
    /// Approve without a question and without comparing.
    #[arg(short, long, conflicts_with = "fingerprint")]
    yes: bool,
}

/// `fleet device deny`
#[derive(Debug, Args)]
pub struct DenyArgs {
    /// Name of the device, or of its CertificateSigningRequest.
    name: String,
    /// Deny without a question.
    #[arg(short, long)]
    yes: bool,
}

/// Lets a device in.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn approve(cluster: &Cluster, args: ApproveArgs) -> Result<(), FleetError> {
    let requests = requests(cluster, &args.name).await?;
    let request = chosen(&requests, &args.name)?;
    let read = DeviceRequest::parse(request).map_err(|error| suspicious(request, &error))?;
    match read.decision {
        Decision::Pending => {}
        Decision::Approved => {
            return print(&format!("{} was approved before\n", read.request));
        }
        Decision::Denied => {
            return Err(FleetError::refused(
                format!("{} was denied, and that stays", read.request),
                format!(
                    "`kubectl delete csr {}`, and let the device ask again; or `fleet device enroll {}`",
                    read.request, read.device
                ),
            ));
        }
    }
    compare(&read, args.fingerprint.as_deref())?;
    if args.fingerprint.is_none() && !args.yes {
        note(&format!(
            "device       {}\nrequest      {}\nfingerprint  {}",
            read.device, read.request, read.fingerprint
        ));
        confirm(
            "Does the device show the same fingerprint, and shall it become a member?",
            "--fingerprint SHA256:… or --yes",
        )?;
    }
    decide(cluster, request, "Approved").await?;
    print(&format!("{} approved: {} becomes a member when it asks again\n", read.request, read.device))
}

/// Refuses a device.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn deny(cluster: &Cluster, args: DenyArgs) -> Result<(), FleetError> {
    let requests = requests(cluster, &args.name).await?;
    let request = chosen(&requests, &args.name)?;
    let name = request.metadata.name.as_deref().unwrap_or_default();
    match super::request::decision(request) {
        Decision::Pending => {}
        Decision::Denied => return print(&format!("{name} was denied before\n")),
        Decision::Approved => {
            return Err(FleetError::refused(
                format!("{name} was approved, and that stays"),
                format!("`fleet device revoke {}` throws it out", args.name),
            ));
        }
    }
    if !args.yes {
        let question = format!(
            "Deny {name}? The device can ask again with new keys, or with the same keys after Kubernetes has removed \
             the request (one to two hours)."
        );
        confirm(&question, "--yes")?;
    }
    decide(cluster, request, "Denied").await?;
    print(&format!("{name} denied\n"))
}

async fn requests(cluster: &Cluster, name: &str) -> Result<Vec<CertificateSigningRequest>, FleetError> {
    // A name of a device is one of a request, too: what begins with `device-` may be either.
    if let Some(request) = cluster.requests().find(name).await? {
        if is_of_a_device(&request) {
            return Ok(vec![request]);
        }
        return Err(suspicious(&request, &RequestError::Signer(request.spec.signer_name.clone())));
    }
    let mut requests = cluster.requests().list(&ListParams::default()).await?;
    requests.retain(is_of_a_device);
    Ok(requests)
}

/// The one that is meant: by its own name, else the only undecided one of the device, else its last.
fn chosen<'a>(
    requests: &'a [CertificateSigningRequest],
    name: &str,
) -> Result<&'a CertificateSigningRequest, FleetError> {
    if let Some(request) = requests.iter().find(|request| request.metadata.name.as_deref() == Some(name)) {
        return Ok(request);
    }
    let device: DeviceName = name.parse()?;
    let mut of_device: Vec<(DeviceRequest, &CertificateSigningRequest)> = requests
        .iter()
        .filter_map(|request| Some((DeviceRequest::parse(request).ok()?, request)))
        .filter(|(read, _)| read.device == device)
        .collect();
    of_device.sort_by_key(|(read, _)| read.created);
    let open: Vec<_> = of_device.iter().filter(|(read, _)| read.decision == Decision::Pending).collect();
    match (open.as_slice(), of_device.last()) {
        ([(_, request)], _) | ([], Some((_, request))) => Ok(request),
        ([], None) => Err(FleetError::not_found(
            format!("no device asks for the name {device}"),
            "`fleet device list` shows who asks; on the device: `device-kubelet enroll --request`",
        )),
        (several, _) => {
            let lines: Vec<String> =
                several.iter().map(|(read, _)| format!("{} {}", read.request, read.fingerprint)).collect();
            Err(FleetError::refused(
                format!("{} devices ask for the name {device}: {}", lines.len(), lines.join(", ")),
                "compare the fingerprints, then name the request instead of the device",
            ))
        }
    }
}

fn suspicious(request: &CertificateSigningRequest, error: &RequestError) -> FleetError {
    let name = request.metadata.name.as_deref().unwrap_or_default();
    FleetError::refused(
        format!("{name} is not approved: {error}"),
        format!("it was not made by the enroller; `kubectl get csr {name} -o yaml` shows by whom"),
    )
}

fn compare(request: &DeviceRequest, shown: Option<&str>) -> Result<(), FleetError> {
    match shown {
        Some(shown) if shown.trim() != request.fingerprint => Err(FleetError::refused(
            format!(
                "the request has fingerprint {}, not {}: another device asks for that name",
                request.fingerprint,
                shown.trim()
            ),
            format!(
                "compare again with the device; `fleet device deny {}` refuses this one",
                request.request
            ),
        )),
        _ => Ok(()),
    }
}

async fn decide(
    cluster: &Cluster,
    request: &CertificateSigningRequest,
    decision: &str,
) -> Result<(), FleetError> {
    let name = request.metadata.name.as_deref().unwrap_or_default();
    cluster.requests().decide(name, &approval(request, decision, Timestamp::now())).await
}

/// The change of `status.conditions`, for exactly the version of the request that was looked at.
fn approval(request: &CertificateSigningRequest, decision: &str, now: Timestamp) -> serde_json::Value {
    let now = format!("{now:.0}");
    let mut conditions: Vec<serde_json::Value> = request
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .map(|condition| json!(condition))
        .collect();
    conditions.push(json!({
        "type": decision,
        "status": "True",
        "reason": format!("Fleet{decision}"),
        "message": format!("{decision} with `fleet device`"),
        "lastUpdateTime": now,
        "lastTransitionTime": now,
    }));
    json!({
        "metadata": { "resourceVersion": request.metadata.resource_version },
        "status": { "conditions": conditions },
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::request::tests::{decided, request_of},
        *,
    };

    fn named(request: CertificateSigningRequest, name: &str) -> CertificateSigningRequest {
        let mut request = request;
        request.metadata.name = Some(name.to_owned());
        request
    }

    #[test]
    fn a_device_is_found_by_its_name_or_its_requests() {
        let requests = [request_of("pi-7"), request_of("pi-8")];
        assert_eq!(chosen(&requests, "pi-8").unwrap(), &requests[1]);
        assert_eq!(chosen(&requests, "device-pi-7-0123abcd").unwrap(), &requests[0]);
        assert_eq!(chosen(&requests, "pi-9").unwrap_err().exit_code(), 3);
        assert_eq!(chosen(&requests, "PI").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn two_who_ask_for_one_name_are_told_apart_by_the_operator() {
        let mut requests = vec![
            named(request_of("pi-7"), "device-pi-7-aaaaaaaa"),
            named(request_of("pi-7"), "device-pi-7-bbbbbbbb"),
        ];
        let error = chosen(&requests, "pi-7").unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("bbbbbbbb SHA256:"), "{error}");
        assert_eq!(chosen(&requests, "device-pi-7-bbbbbbbb").unwrap(), &requests[1]);
        requests[0] = decided(requests[0].clone(), "Denied");
        assert_eq!(chosen(&requests, "pi-7").unwrap(), &requests[1], "the undecided one");
    }

    #[test]
    fn another_fingerprint_is_refused() {
        let read = DeviceRequest::parse(&request_of("pi-7")).unwrap();
        assert!(compare(&read, None).is_ok());
        assert!(compare(&read, Some(&format!(" {}\n", read.fingerprint))).is_ok());
        assert_eq!(compare(&read, Some("SHA256:other")).unwrap_err().exit_code(), 4);
    }

    #[test]
    fn a_decision_holds_for_the_version_that_was_looked_at() {
        let mut request = request_of("pi-7");
        request.metadata.resource_version = Some("42".to_owned());
        let patch = approval(&request, "Approved", Timestamp::UNIX_EPOCH);
        assert_eq!(patch["metadata"]["resourceVersion"], "42");
        let condition = &patch["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Approved"), &json!("True")));
        assert_eq!(condition["lastUpdateTime"], "1970-01-01T00:00:00Z");
    }
}
