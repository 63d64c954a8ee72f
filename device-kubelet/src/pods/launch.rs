//! Starting one container: image, configuration, creation, start; each with its Events and waiting reasons.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::{
    clock::{Mono, go_duration},
    container_spec::{ConfigError, Ingredients},
    context::PodContext,
    desired::Desired,
    observed::{RETRY, StartFailure},
    plan::back_off_key,
    status::Waiting,
};
use crate::{
    images::{ImageName, PullPolicy, keyring},
    runtime::{ContainerId, ContainerState, Image, RegistryAuth, RuntimeError, SandboxId},
};

/// After a failed pull it is called `ErrImagePull` for at most so long, then `ImagePullBackOff`.
const FRESH_FAILURE: Duration = Duration::from_secs(5);

/// Why a container did not start, and when it is tried again.
struct Trouble {
    waiting: Waiting,
    retry: Mono,
}

/// Starts a container; what hinders it is remembered in the context.
pub async fn start(pod: &mut PodContext, name: &str) {
    let desired = pod.desired.clone();
    let Some((_, container)) = desired.container(name) else { return };
    match try_start(pod, &desired, container).await {
        Ok(()) => {
            pod.memory.waiting.remove(name);
            pod.memory.retries.remove(name);
        }
        Err(trouble) => {
            pod.memory.waiting.insert(name.to_owned(), trouble.waiting);
            pod.memory.retries.insert(name.to_owned(), trouble.retry);
        }
    }
}

async fn try_start(pod: &mut PodContext, desired: &Desired, container: &Container) -> Result<(), Trouble> {
    let name = container.name.as_str();
    let Some(sandbox) = pod.observed.sandbox.as_ref().map(|sandbox| sandbox.id.clone()) else {
        return Ok(());
    };
    let image = ensure_image(pod, desired, container).await?;
    let now = pod.shared.clock.mono();
    let newest = pod.observed.newest(name).map(|seen| (seen.id.clone(), seen.state.clone()));
    let mut attempt = pod.record.attempts.get(name).copied().unwrap_or(0);
    if let Some((id, state)) = &newest {
        match state {
            // Made, and the agent stopped before it was started.
            ContainerState::Created => {
                attempt = pod.observed.newest(name).map_or(attempt, |seen| seen.attempt);
                pod.shared
                    .runtime
                    .remove_container(id)
                    .await
                    .map_err(|error| create_failed(pod, name, &error))?;
            }
            ContainerState::Exited { .. } | ContainerState::Unknown => {
                let ended = pod.memory.endings.of(id).unwrap_or(now);
                pod.memory.crashes.lengthen(&back_off_key(container), ended, now);
            }
            ContainerState::Running { .. } => return Ok(()),
        }
    }
    let id = create(pod, desired, container, &image, sandbox, attempt).await?;
    pod.record.attempts.insert(name.to_owned(), attempt.saturating_add(1));
    prune(pod, name, attempt).await;
    match pod.shared.runtime.start_container(&id).await {
        Ok(()) => {
            pod.event(Some(name), false, "Started", "Container started");
            Ok(())
        }
        Err(error) => {
            let message = error.to_string();
            pod.event(Some(name), true, "Failed", format!("Error: {message}"));
            let failure = StartFailure { at: pod.shared.clock.wall(), message: message.clone() };
            pod.memory.start_failures.insert(id, failure);
            let waiting = Waiting { reason: "RunContainerError", message };
            // The container is dead; its crash back-off decides when the next one is started.
            Err(Trouble { waiting, retry: pod.shared.clock.mono() })
        }
    }
}

async fn create(
    pod: &PodContext,
    desired: &Desired,
    container: &Container,
    image: &Image,
    sandbox: SandboxId,
    attempt: u32,
) -> Result<ContainerId, Trouble> {
    let name = container.name.as_str();
    let ips = pod.observed.sandbox.as_ref().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
    let mut surroundings = pod.shared.surroundings(&ips);
    if desired.spec.host_network == Some(true) {
        surroundings.pod_ips = vec![surroundings.host_ip.clone()];
    }
    let ingredients = Ingredients {
        desired,
        volumes: &pod.volumes,
        dirs: &pod.dirs,
        surroundings: &surroundings,
        image,
        log_limits: pod.shared.settings.log_limits,
    };
    let spec = ingredients.container(container, attempt).map_err(|error: ConfigError| {
        pod.event(Some(name), true, "Failed", format!("Error: {error}"));
        let waiting = Waiting { reason: "CreateContainerConfigError", message: error.to_string() };
        Trouble { waiting, retry: pod.shared.clock.mono().after(RETRY) }
    })?;
    let id = pod
        .shared
        .runtime
        .create_container(&sandbox, spec)
        .await
        .map_err(|error| create_failed(pod, name, &error))?;
    pod.event(Some(name), false, "Created", "Container created");
    Ok(id)
}

fn create_failed(pod: &PodContext, name: &str, error: &RuntimeError) -> Trouble {
    pod.event(Some(name), true, "Failed", format!("Error: {error}"));
    let waiting = Waiting { reason: "CreateContainerError", message: error.to_string() };
    Trouble { waiting, retry: pod.shared.clock.mono().after(RETRY) }
}

/// Keeps the newest dead container of a name, removes the older ones, with their logs.
async fn prune(pod: &mut PodContext, name: &str, attempt: u32) {
    let superfluous: Vec<ContainerId> = pod
        .observed
        .all()
        .filter(|seen| seen.name.as_str() == name)
        .skip(1)
        .map(|seen| seen.id.clone())
        .collect();
    for id in superfluous {
        if let Err(error) = pod.shared.runtime.remove_container(&id).await {
            tracing::warn!(pod = %pod.desired.key, container = name, %error, "cannot remove an old container");
        }
    }
    // By their numbers: containers that went with an old sandbox left theirs, too.
    let (dirs, container) = (pod.dirs.clone(), name.to_owned());
    let oldest = attempt.saturating_sub(1);
    let removed = tokio::task::spawn_blocking(move || dirs.remove_instances_before(&container, oldest)).await;
    if let Err(error) = removed.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        tracing::warn!(pod = %pod.desired.key, container = name, %error, "cannot remove an old container's log");
    }
}

async fn ensure_image(
    pod: &mut PodContext,
    desired: &Desired,
    container: &Container,
) -> Result<Image, Trouble> {
    let name = container.name.as_str();
    let asked = container.image.as_deref().unwrap_or_default();
    let clock = pod.shared.clock;
    let refuse = |pod: &PodContext, reason: &'static str, message: String, retry: Mono| {
        pod.event(Some(name), true, "Failed", format!("Error: {reason}"));
        Trouble { waiting: Waiting { reason, message }, retry }
    };
    let image = ImageName::parse(asked).map_err(|error| {
        let message = format!("Failed to apply default image tag \"{asked}\": {error}");
        pod.event(Some(name), true, "InspectFailed", message.clone());
        refuse(pod, "InvalidImageName", message, clock.mono().after(super::backoff::MAXIMUM))
    })?;
    let policy = PullPolicy::of(container, &image);
    let reference = image.to_string();
    let runtime = pod.shared.runtime.clone();
    let present = runtime.image_status(&reference).await.map_err(|error| {
        let message = format!("Failed to inspect image \"{reference}\": {error}");
        pod.event(Some(name), true, "InspectFailed", message.clone());
        refuse(pod, "ImageInspectError", message, clock.mono().after(RETRY))
    })?;
    match (policy, present) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, Some(present)) => {
            let message = format!(
                "Container image \"{asked}\" already present on machine and can be accessed by the pod"
            );
            pod.event(Some(name), false, "Pulled", message);
            return Ok(present);
        }
        (PullPolicy::Never, None) => {
            let message = format!("Container image \"{asked}\" is not present with pull policy of Never");
            pod.event(Some(name), true, "ErrImageNeverPull", message.clone());
            return Err(refuse(pod, "ErrImageNeverPull", message, clock.mono().after(RETRY * 6)));
        }
        _ => {}
    }
    if let Some(held) = pod.memory.pulls.held(&reference, clock.mono()) {
        let message = format!("Back-off pulling image \"{asked}\"");
        pod.event(Some(name), false, "BackOff", message.clone());
        // Why it failed stays to be read: `kubectl get pod` shows no Events.
        let message = match pod.memory.pull_errors.get(&reference) {
            Some(error) => format!("{message}: ErrImagePull: {error}"),
            None => message,
        };
        return Err(refuse(pod, "ImagePullBackOff", message, held.until));
    }
    let pulled = pull(pod, desired, name, asked, &image).await;
    let now = clock.mono();
    match pulled {
        Ok(image) => {
            pod.memory.pulls.forget(&reference);
            pod.memory.pull_errors.remove(&reference);
            Ok(image)
        }
        Err(error) => {
            pod.memory.pulls.lengthen(&reference, now, now);
            let error = error.to_string();
            pod.event(Some(name), true, "Failed", format!("Failed to pull image \"{asked}\": {error}"));
            pod.memory.pull_errors.insert(reference, error.clone());
            Err(refuse(pod, "ErrImagePull", error, now.after(FRESH_FAILURE)))
        }
    }
}

async fn pull(
    pod: &PodContext,
    desired: &Desired,
    name: &str,
    asked: &str,
    image: &ImageName,
) -> Result<Image, RuntimeError> {
    pod.event(Some(name), false, "Pulling", format!("Pulling image \"{asked}\""));
    let began = Instant::now();
    let reference = image.to_string();
    let id = pod.shared.puller.pull(&reference, credentials(pod, desired, image)).await?;
    let took = go_duration(Duration::from_millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(0)));
    let found = match pod.shared.runtime.image_status(&reference).await? {
        Some(image) => image,
        None => {
            pod.shared.runtime.image_status(&id).await?.ok_or(RuntimeError::NotFound { what: "image", id })?
        }
    };
    let message = format!(
        "Successfully pulled image \"{asked}\" in {took} ({took} including waiting). Image size: {} bytes.",
        found.size
    );
    pod.event(Some(name), false, "Pulled", message);
    Ok(found)
}

fn credentials(pod: &PodContext, desired: &Desired, image: &ImageName) -> Vec<RegistryAuth> {
    let wanted = desired.spec.image_pull_secrets.iter().flatten();
    let mut lost = Vec::new();
    let mut found = Vec::new();
    for wanted in wanted {
        match desired.secrets.get(&wanted.name) {
            Some(secret) => found.push((wanted.name.as_str(), secret)),
            None => lost.push(wanted.name.as_str()),
        }
    }
    let (keyring, errors) = keyring(found);
    if !lost.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            lost.join(", ")
        );
        pod.event(None, true, "FailedToRetrieveImagePullSecret", message);
    }
    for error in errors {
        pod.event(None, true, "FailedToRetrieveImagePullSecret", error.to_string());
    }
    keyring.matching(image)
}

/// Sets up the pod's volumes, or brings them up to date, on a thread that may block.
pub async fn prepare_volumes(pod: &mut PodContext) -> Result<(), String> {
    let desired: Arc<Desired> = pod.desired.clone();
    if desired.spec.volumes.as_ref().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let dirs = pod.dirs.clone();
    let prepared = tokio::task::spawn_blocking(move || crate::volumes::prepare(&desired, &dirs)).await;
    match prepared {
        Ok(Ok(volumes)) => {
            pod.volumes = volumes;
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
