//! Acts on certificate requests: enrolls devices that somebody approved, and approves serving certificates
//! of running `vk-nats` replicas. Every other request is left alone.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use fleet_wire::enrollment::Enrollment;
use k8s_openapi::{
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    metrics::Metrics,
    pkcs10::Applicant,
    registrar::{Failure, Registrar, ask},
    serving::{self, POD_LABEL},
};

/// Requests that wait for a pod's address are looked at so often, and failed enrollments tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Service account of `vk-nats`.
const VK_NATS: &str = "vk-nats";

/// What Nodes of devices that asked by themselves are like.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Block for `spec.podCIDRs`.
    pub pod_cidr: Option<String>,
    /// Whether they carry the taint.
    pub taint: bool,
}

impl Defaults {
    /// What makes an applicant a member.
    pub fn enrollment(&self, applicant: &Applicant) -> Enrollment {
        Enrollment {
            device: applicant.device.clone(),
            identity_key: applicant.identity_key.clone(),
            curve_key: applicant.curve_key.clone(),
            subject: None,
            labels: std::collections::BTreeMap::new(),
            taint: self.taint,
            pod_cidr: self.pod_cidr.clone(),
            report_pod_ip: false,
        }
    }
}

/// Enrolls applicants that somebody approved, also when they do not ask again.
pub async fn enroll_approved(
    registrar: Registrar,
    defaults: Defaults,
    mut changed: mpsc::UnboundedReceiver<()>,
) {
    let mut told = HashSet::new();
    registrar.view.synced().await;
    loop {
        for applicant in registrar.view.approved_applicants() {
            let device = &applicant.device;
            match registrar.admit(&defaults.enrollment(&applicant)).await {
                Ok(()) => {
                    tracing::info!(target: "audit", event = "approved", %device, identity_key = %applicant.identity_key, "the device's request was approved")
                }
                Err(denial) if told.insert((applicant.identity_key.clone(), denial.label())) => {
                    tracing::warn!(target: "audit", event = "refused", %device, identity_key = %applicant.identity_key, reason = denial.label(), "an approved device cannot be enrolled: {denial}");
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            news = changed.recv() => if news.is_none() { return },
            () = tokio::time::sleep(AGAIN) => {}
        }
        while changed.try_recv().is_ok() {}
    }
}

/// Approves serving certificates.
#[derive(Debug)]
pub struct ServingApprover {
    requests: Api<CertificateSigningRequest>,
    pods: Api<Pod>,
    user: String,
    addresses: BTreeSet<IpAddr>,
    metrics: Arc<Metrics>,
}

impl ServingApprover {
    /// For `vk-nats` of a namespace; `addresses` are allowed besides those of its pods.
    pub fn new(
        client: kube::Client,
        namespace: &str,
        addresses: BTreeSet<IpAddr>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            requests: Api::all(client.clone()),
            pods: Api::namespaced(client, namespace),
            user: format!("system:serviceaccount:{namespace}:{VK_NATS}"),
            addresses,
            metrics,
        }
    }

    /// Follows requests.
    pub async fn run(self, mut changed: mpsc::UnboundedReceiver<CertificateSigningRequest>) {
        let mut waiting: HashMap<String, (CertificateSigningRequest, String)> = HashMap::new();
        loop {
            let mut look: Vec<(CertificateSigningRequest, String)> = Vec::new();
            tokio::select! {
                request = changed.recv() => match request {
                    Some(request) => look.push((request, String::new())),
                    None => return,
                },
                () = tokio::time::sleep(AGAIN), if !waiting.is_empty() => {
                    look.extend(waiting.drain().map(|(_, waiting)| waiting));
                }
            }
            for (request, told) in look {
                let name = request.metadata.name.clone().unwrap_or_default();
                waiting.remove(&name);
                if !serving::concerns(&request, &self.user) {
                    continue;
                }
                match self.judge(&name, &request).await {
                    Ok(None) => {}
                    Ok(Some(reason)) => {
                        if reason != told {
                            tracing::warn!(target: "audit", event = "serving certificate not approved", request = name, reason);
                        }
                        waiting.insert(name, (request, reason));
                    }
                    Err(Failure::Conflict) => {}
                    Err(Failure::Api { source: kube::Error::Api(status), .. }) if status.is_not_found() => {}
                    Err(failure) => {
                        tracing::warn!(request = name, %failure, "the serving certificate is not approved yet");
                        waiting.insert(name, (request, told));
                    }
                }
            }
        }
    }

    /// Approves, or says why not (yet).
    async fn judge(
        &self,
        name: &str,
        request: &CertificateSigningRequest,
    ) -> Result<Option<String>, Failure> {
        let replicas = ListParams::default().labels(POD_LABEL);
        let pods = ask("list the pods of vk-nats", self.pods.list(&replicas)).await?;
        let mut addresses = serving::running_addresses(&pods.items, VK_NATS);
        addresses.extend(&self.addresses);
        if let Err(reason) = serving::check(request, &addresses) {
            return Ok(Some(reason.to_string()));
        }
        let now = Some(Time(Timestamp::now()));
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("RunningReplica".to_owned()),
            message: Some("The addresses are those of running vk-nats replicas".to_owned()),
            last_update_time: now.clone(),
            last_transition_time: now,
        };
        // What was judged, and nothing that came after it.
        let patch = json!({
            "metadata": { "uid": request.metadata.uid, "resourceVersion": request.metadata.resource_version },
            "status": { "conditions": [condition] },
        });
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let approve = self.requests.patch_approval(name, &parameters, &patch);
        ask("approve the serving certificate", approve).await?;
        self.metrics.serving_approvals.inc();
        tracing::info!(target: "audit", event = "serving certificate approved", request = name);
        Ok(None)
    }
}
