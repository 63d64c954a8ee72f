//! Pods as people see them: the columns of `kubectl get pods`, and where logs lie. Pure.

use fleet_wire::{
    message::{LogsRequest, Refusal, RefusalCode},
    name::PodKey,
};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodStatus};
use tokio::sync::watch;

use super::{LogSource, PodSummary, context::PodView, desired::Desired};
use crate::volumes::PodDirs;

/// One line of `device-kubelet pods`.
pub fn summary(key: &PodKey, view: &PodView) -> PodSummary {
    let status = &*view.status;
    let main = status.container_statuses.as_deref().unwrap_or_default();
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    PodSummary {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        uid: key.uid.clone(),
        ready: count(main.iter().filter(|status| status.ready).count()),
        containers: count(main.len()),
        status: status_column(status, init, main, view.phase.is_ending() && !view.phase.is_ended()),
        restarts: main
            .iter()
            .chain(init)
            .map(|status| u32::try_from(status.restart_count).unwrap_or(0))
            .fold(0, u32::saturating_add),
        started: status.start_time.as_ref().map(|time| time.0),
        ip: view.ips.first().cloned(),
        phase: view.phase.as_str().to_owned(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn status_column(
    status: &PodStatus,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    ending: bool,
) -> String {
    if ending {
        return "Terminating".to_owned();
    }
    let reason = |status: &ContainerStatus| match &status.state {
        Some(ContainerState { waiting: Some(waiting), .. }) => waiting.reason.clone(),
        Some(ContainerState { terminated: Some(ended), .. }) => ended.reason.clone(),
        _ => None,
    };
    for (position, container) in init.iter().enumerate() {
        // A completed init container is ready, and so is a sidecar that runs.
        if container.ready {
            continue;
        }
        return match reason(container) {
            Some(reason) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{position}/{}", init.len()),
        };
    }
    let shown = main.iter().rev().find_map(reason);
    let running = main.iter().any(|status| status.ready);
    let phase = status.reason.clone().or_else(|| status.phase.clone()).unwrap_or_default();
    match shown {
        Some(reason) if reason == "Completed" && running => "Running".to_owned(),
        Some(reason) => reason,
        None => phase,
    }
}

/// The log of a container, or why there is none, in a kubelet's words.
pub fn log_source(
    desired: &Desired,
    view: &PodView,
    dirs: &PodDirs,
    request: &LogsRequest,
) -> Result<LogSource, Refusal> {
    let (container, pod) = (request.container.as_str(), request.pod.as_str());
    let refuse = |message: String| Err(Refusal::new(RefusalCode::BadRequest, message));
    if desired.container(container).is_none() {
        return refuse(format!("container {container} is not valid for pod {pod}"));
    }
    let statuses =
        view.status.container_statuses.iter().chain(&view.status.init_container_statuses).flatten();
    let Some(status) = statuses.into_iter().find(|status| status.name == container) else {
        return refuse(format!("container \"{container}\" in pod \"{pod}\" is not available"));
    };
    let empty = ContainerState::default();
    let state = status.state.as_ref().unwrap_or(&empty);
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last_id = last.and_then(|ended| ended.container_id.clone());
    let attempt = u32::try_from(status.restart_count).unwrap_or(0);
    let (id, attempt) = if request.previous {
        // While it waits to be started again, the count is still that of the dead one.
        let attempt = if state.waiting.is_some() { attempt } else { attempt.saturating_sub(1) };
        match last_id {
            Some(id) => (id, attempt),
            None => {
                return refuse(format!(
                    "previous terminated container \"{container}\" in pod \"{pod}\" not found"
                ));
            }
        }
    } else if state.running.is_some() {
        (status.container_id.clone().unwrap_or_default(), attempt)
    } else if let Some(ended) = &state.terminated {
        match ended.container_id.clone().or(last_id) {
            Some(id) => (id, attempt),
            None => {
                return refuse(format!("container \"{container}\" in pod \"{pod}\" is terminated"));
            }
        }
    } else if let Some(id) = last_id {
        (id, attempt)
    } else {
        let reason = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        return refuse(match reason.as_deref() {
            Some("ErrImagePull") => format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: image can't be pulled"
            ),
            Some("ImagePullBackOff") => format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: trying and failing to pull image"
            ),
            Some(reason) => {
                format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")
            }
            None => format!("container \"{container}\" in pod \"{pod}\" is waiting to start - no logs yet"),
        });
    };
    let id = id.strip_prefix("podman://").unwrap_or(&id);
    let instance = view.instances.iter().map(|(_, instance)| instance).find(|instance| instance.id.0 == id);
    Ok(match instance {
        Some(instance) => LogSource { path: instance.log_path.clone(), ended: instance.ended.clone() },
        // The runtime has forgotten it; its log is still there.
        None => LogSource { path: dirs.log(container, attempt), ended: watch::channel(true).1 },
    })
}
