//! What was learned of sandboxes and containers, and need not be asked again. All of it can be learned again; all of
//! it goes with what it is about, because an agent sees many pods come and go in its life.

use std::collections::{HashMap, HashSet};

use fleet_wire::name::PodUid;

use super::{answer::FailedStart, labels::HostNamespaces, oom::PodCgroups};
use crate::runtime::SandboxId;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Container → its pod, infra containers too.
    pub(super) owners: HashMap<String, PodUid>,
    /// Containers that could not be started: Podman keeps them as if nobody had tried.
    pub(super) failed: HashMap<String, FailedStart>,
    /// Of pods that have a sandbox.
    pub(super) cgroups: HashMap<PodUid, PodCgroups>,
    /// Containers that were seen to end, as long as they are there.
    pub(super) ended: HashSet<String>,
    /// Whether an ended container was killed for memory.
    pub(super) oom_killed: HashMap<String, bool>,
    /// Infra container → addresses, while it runs.
    pub(super) addresses: HashMap<String, Vec<String>>,
    /// What sandboxes share with the device.
    pub(super) host_namespaces: HashMap<SandboxId, HostNamespaces>,
}

impl Known {
    /// A container is gone.
    pub(super) fn forget_container(&mut self, id: &str) {
        self.owners.remove(id);
        self.failed.remove(id);
        self.ended.remove(id);
        self.oom_killed.remove(id);
    }

    /// A sandbox is gone, with these containers in it, its infra container among them.
    pub(super) fn forget(&mut self, sandbox: &SandboxId, containers: &[String]) {
        for id in containers {
            if let Some(pod) = self.owners.get(id) {
                self.cgroups.remove(pod);
            }
            self.addresses.remove(id);
            self.forget_container(id);
        }
        self.host_namespaces.remove(sandbox);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn nothing_is_left_of_a_sandbox_that_is_gone_and_others_stay() {
        let mut known = Known::default();
        for (pod, infra, main) in [("one", "i1", "m1"), ("two", "i2", "m2")] {
            let (uid, sandbox): (PodUid, _) = (pod.parse().unwrap(), SandboxId(pod.to_owned()));
            known.owners.insert(infra.to_owned(), uid.clone());
            known.owners.insert(main.to_owned(), uid.clone());
            let failed = FailedStart { at: Timestamp::UNIX_EPOCH, exit_code: 128, message: String::new() };
            known.failed.insert(main.to_owned(), failed);
            known.oom_killed.insert(main.to_owned(), true);
            known.addresses.insert(infra.to_owned(), Vec::new());
            known.host_namespaces.insert(sandbox, HostNamespaces { pid: false, ipc: false });
        }
        known.forget(&SandboxId("one".to_owned()), &["i1".to_owned(), "m1".to_owned()]);
        let mut left: Vec<&str> = known.owners.keys().map(String::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["i2", "m2"]);
        assert_eq!((known.failed.len(), known.oom_killed.len()), (1, 1));
        assert_eq!((known.addresses.len(), known.host_namespaces.len()), (1, 1));
        known.forget(&SandboxId("two".to_owned()), &["i2".to_owned(), "m2".to_owned()]);
        assert!(known.owners.is_empty() && known.failed.is_empty() && known.oom_killed.is_empty());
        assert!(known.addresses.is_empty() && known.host_namespaces.is_empty());
    }
}
