//! Quality-of-service class of a pod, and what the kernel is told of it. Pure.

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};

use super::quantity;

/// `status.qosClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits for cpu and memory, equal to its requests.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// As in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Class of a pod.
pub fn class(spec: &PodSpec) -> QosClass {
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let value = |container: &Container, limits: bool, resource: &str| {
        let resources = container.resources.as_ref()?;
        let map = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
        map?.get(resource).and_then(|Quantity(text)| quantity::nanos(text)).filter(|value| *value > 0)
    };
    let resources = ["cpu", "memory"];
    let nothing = containers().all(|container| {
        resources.iter().all(|resource| {
            value(container, true, resource).is_none() && value(container, false, resource).is_none()
        })
    });
    if nothing {
        return QosClass::BestEffort;
    }
    let guaranteed = containers().all(|container| {
        resources.iter().all(|resource| {
            let limit = value(container, true, resource);
            // The API server copies a limit into a request that is missing.
            limit.is_some() && value(container, false, resource).is_none_or(|request| Some(request) == limit)
        })
    });
    if guaranteed { QosClass::Guaranteed } else { QosClass::Burstable }
}

/// `oom_score_adj` of a container, by a kubelet's formula: the more memory it requested, the later it is killed.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, device_memory: u64) -> i32 {
    const NODE_CRITICAL_PRIORITY: i32 = 2_000_001_000;
    const GUARANTEED: i32 = -997;
    if spec.priority.is_some_and(|priority| priority >= NODE_CRITICAL_PRIORITY) {
        return GUARANTEED;
    }
    match class(spec) {
        QosClass::Guaranteed => GUARANTEED,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let requested = container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref().or(resources.limits.as_ref()))
                .and_then(|requests| requests.get("memory"))
                .and_then(|Quantity(text)| quantity::ceil(text))
                .unwrap_or(0);
            let share = 1000 * i128::from(requested) / i128::from(device_memory.max(1));
            i32::try_from(1000 - share).unwrap_or(3).clamp(3, 999)
        }
    }
}
