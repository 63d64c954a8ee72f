//! Lists of containers, as they are now.
//!
//! Podman 4.3 looks for exit files when it lists. From 4.4 on it does not (`Container.Batch` in libpod; seen with 5.4.2): it
//! lists what its database said before it waited for the container's lock, and the clean-up of a container that ended
//! holds that for some 100 ms. So the one that was just seen to end is listed as running, and nothing would
//! ever tell the agent to look again. An inspect takes the lock first, in all versions: a container that is listed as
//! running and was seen to end is inspected, and the list is asked for again.

use std::collections::HashSet;

use fleet_wire::name::PodUid;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{INSPECTS, Inner, READ_LIMIT, answer::ListedContainer, labels, libpod::Fault};
use crate::runtime::{Container, Result};

impl Inner {
    /// All of ours, or those of one pod; infra containers too.
    pub(super) async fn listed_containers(
        &self,
        pod: Option<&PodUid>,
    ) -> Result<Vec<ListedContainer>, Fault> {
        // What of it is listed nowhere is gone; what ended since may have come too late for the list.
        let ended = if pod.is_none() { self.known().ended.clone() } else { HashSet::new() };
        let mut listed = self.ask_for_containers(pod).await?;
        let behind: Vec<String> = {
            let known = self.known();
            let behind = listed.iter().filter(|c| c.is_running() && known.ended.contains(&c.id));
            behind.map(|c| c.id.clone()).collect()
        };
        if !behind.is_empty() {
            for container in &behind {
                match self.inspect(container).await {
                    Err(fault) if !fault.is_not_found() => return Err(fault),
                    _ => {}
                }
            }
            listed = self.ask_for_containers(pod).await?;
        }
        let mut known = self.known();
        for container in &listed {
            if let Some(owner) = container.owner() {
                known.owners.insert(container.id.clone(), owner);
            }
        }
        known.ended.retain(|id| !ended.contains(id) || listed.iter().any(|c| c.id == *id));
        drop(known);
        Ok(listed)
    }

    async fn ask_for_containers(&self, pod: Option<&PodUid>) -> Result<Vec<ListedContainer>, Fault> {
        let filters = labels::filter(pod.map(PodUid::as_str));
        let path = format!("/containers/json?all=true&filters={filters}");
        self.libpod.get(&path, READ_LIMIT).await?.json()
    }

    pub(super) async fn list_containers(&self, pod: Option<&PodUid>) -> Result<Vec<Container>> {
        let operation = "list containers";
        let listed = self.listed_containers(pod).await.map_err(|fault| self.error(operation, fault))?;
        let containers = stream::iter(listed.into_iter().filter(|c| !c.is_infra))
            .map(async |container| {
                let oom_killed = container.may_be_oom_killed() && self.was_oom_killed(&container.id).await?;
                let failed = self.known().failed.get(&container.id).cloned();
                Ok(container.into_container(failed.as_ref(), oom_killed))
            })
            .buffered(INSPECTS)
            .try_filter_map(async |container| Ok(container))
            .try_collect()
            .await;
        containers.map_err(|fault| self.error(operation, fault))
    }

    async fn was_oom_killed(&self, container: &str) -> Result<bool, Fault> {
        if let Some(known) = self.known().oom_killed.get(container) {
            return Ok(*known);
        }
        let killed = match self.inspect(container).await {
            Ok(inspected) => inspected.state.oom_killed,
            Err(fault) if fault.is_not_found() => false,
            Err(fault) => return Err(fault),
        };
        // The kernel's own word, if it came meanwhile, is better than Podman's.
        Ok(*self.known().oom_killed.entry(container.to_owned()).or_insert(killed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use crate::runtime::{ContainerState, podman::PodmanRuntime};

    const ID: &str = "c0ffee";

    /// A libpod that lists the container as running until somebody inspects it; tells what it was asked.
    fn serve(socket: &Path, asked: tokio::sync::mpsc::UnboundedSender<&'static str>) {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let mut state = "running";
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let path = String::from_utf8(request).unwrap();
                let body = if path.contains("/libpod/containers/json?") {
                    asked.send("list").unwrap();
                    serde_json::json!([listed(state)])
                } else {
                    assert!(path.contains(&format!("/libpod/containers/{ID}/json")), "{path}");
                    asked.send("inspect").unwrap();
                    state = "exited";
                    serde_json::json!({ "Id": ID })
                };
                let body = body.to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
    }

    fn listed(state: &str) -> serde_json::Value {
        serde_json::json!({
            "Id": ID, "State": state, "StartedAt": 1_795_252_404, "ExitedAt": 1_795_252_405, "ExitCode": 3,
            "Labels": {
                "fleet.harmony.io/managed-by": "device-kubelet",
                "io.kubernetes.pod.namespace": "default",
                "io.kubernetes.pod.name": "web",
                "io.kubernetes.pod.uid": "u1",
                "io.kubernetes.container.name": "main",
                "io.kubernetes.container.restartCount": "0",
                "io.kubernetes.container.logpath": "/log",
                "fleet.harmony.io/image": "hello",
                "fleet.harmony.io/labels": "{}",
            },
        })
    }

    #[tokio::test]
    async fn a_container_that_was_seen_to_end_is_not_listed_as_running() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("podman.sock");
        let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
        serve(&socket, asked);
        let runtime = PodmanRuntime::new(socket.to_str().unwrap());
        let mut list = async || {
            let listed = runtime.inner.list_containers(None).await.unwrap();
            let mut said = Vec::new();
            while let Ok(ask) = asks.try_recv() {
                said.push(ask);
            }
            (matches!(listed[0].state, ContainerState::Exited { exit_code: 3, .. }), said)
        };
        assert_eq!(list().await, (false, vec!["list"]));
        runtime.inner.known().ended.insert(ID.to_owned());
        assert_eq!(list().await, (true, vec!["list", "inspect", "list"]));
        assert_eq!(list().await, (true, vec!["list"]));
    }

    #[tokio::test]
    async fn what_is_listed_no_more_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("podman.sock");
        let (asked, _asks) = tokio::sync::mpsc::unbounded_channel();
        serve(&socket, asked);
        let runtime = PodmanRuntime::new(socket.to_str().unwrap());
        runtime.inner.known().ended.extend([ID.to_owned(), "gone".to_owned()]);
        runtime.inner.list_containers(None).await.unwrap();
        assert_eq!(runtime.inner.known().ended.iter().collect::<Vec<_>>(), [ID]);
    }
}
