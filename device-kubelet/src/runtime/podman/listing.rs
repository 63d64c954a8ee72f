//! Lists of containers, as they are now.
//!
//! Podman 4.3 looks for exit files when it lists. From 4.4 on it does not (`Container.Batch` in libpod; seen with 5.4.2): it
//! lists what its database said before it waited for the container's lock, and the clean-up of a container that ended
//! holds that for some 100 ms. So the one that was just seen to end is listed as running, and nothing would
//! ever tell the agent to look again. An inspect takes the lock first, in all versions: a container that is listed as
//! running and was seen to end is inspected, and the list is asked for again.

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
        let ended = listed.iter().filter(|c| !c.is_running()).map(|c| &c.id);
        for container in ended.chain(&behind) {
            known.ended.remove(container);
        }
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
