//! Records and Nodes by what they are looked up by. Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use fleet_wire::{
    enrollment::{Record, RecordState, record_name},
    keys::IdentityKey,
    name::DeviceName,
    permissions::Identity,
};

use crate::claims::Grant;

/// A device, as far as a login needs it.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub device: DeviceName,
    /// Subject that its tokens must have; `None`: it logs in with its key alone.
    pub subject: Option<String>,
    /// What it may do.
    pub grant: Grant,
    identity_key: IdentityKey,
    node_uid: String,
    state: RecordState,
    retired: Vec<IdentityKey>,
}

/// What an identity key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The key of a device that exists.
    Member(Arc<Member>),
    /// Its device was revoked.
    Revoked,
    /// There is a record, but not the Node that it names: being deleted, or just being made.
    WithoutNode,
    /// A key that a device had before: dead for ever.
    Retired,
    /// Several records have it: somebody wrote one by hand.
    Ambiguous,
    /// Never heard of.
    Unknown,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Index {
    members: HashMap<String, Arc<Member>>,
    by_key: HashMap<IdentityKey, HashSet<String>>,
    retired: HashMap<IdentityKey, HashSet<String>>,
    node_uids: HashMap<String, String>,
}

impl Index {
    /// What `key` stands for.
    pub fn standing(&self, key: &IdentityKey) -> Standing {
        if self.retired.contains_key(key) {
            return Standing::Retired;
        }
        let mut names = self.by_key.get(key).into_iter().flatten();
        let (Some(name), None) = (names.next(), names.next()) else {
            return if self.by_key.contains_key(key) { Standing::Ambiguous } else { Standing::Unknown };
        };
        let Some(member) = self.members.get(name) else { return Standing::Unknown };
        if member.state != RecordState::Enrolled {
            return Standing::Revoked;
        }
        match self.node_uids.get(member.device.as_str()) {
            Some(uid) if *uid == member.node_uid => Standing::Member(Arc::clone(member)),
            _ => Standing::WithoutNode,
        }
    }

    /// How many records there are.
    pub fn records(&self) -> usize {
        self.members.len()
    }

    /// How many Nodes there are.
    pub fn nodes(&self) -> usize {
        self.node_uids.len()
    }

    /// Takes a record; it replaces an earlier one of the same device.
    pub fn put_record(&mut self, record: Record) {
        let name = record_name(&record.enrollment.device);
        self.remove_record(&name);
        let Record { enrollment, node_uid, state, retired } = record;
        let key = enrollment.identity_key.clone();
        let holders = self.by_key.entry(key.clone()).or_default();
        holders.insert(name.clone());
        if holders.len() > 1 {
            let mut records: Vec<&String> = holders.iter().collect();
            records.sort();
            tracing::error!(%key, ?records, "several records have one identity key: none of them is admitted");
        }
        for key in &retired {
            self.retired.entry(key.clone()).or_default().insert(name.clone());
        }
        let member = Member {
            grant: Grant::of(&Identity::Device(enrollment.device.clone())),
            device: enrollment.device,
            subject: enrollment.subject,
            identity_key: key,
            node_uid,
            state,
            retired,
        };
        self.members.insert(name, Arc::new(member));
    }

    /// Forgets a record, by the name of its Secret.
    pub fn remove_record(&mut self, name: &str) {
        let Some(member) = self.members.remove(name) else { return };
        forget(&mut self.by_key, &member.identity_key, name);
        for key in &member.retired {
            forget(&mut self.retired, key, name);
        }
    }

    /// Takes a Node.
    pub fn put_node(&mut self, name: impl Into<String>, uid: impl Into<String>) {
        self.node_uids.insert(name.into(), uid.into());
    }

    /// Forgets a Node, unless another one has its name by now.
    pub fn remove_node(&mut self, name: &str, uid: &str) {
        if self.node_uids.get(name).is_some_and(|known| known == uid) {
            self.node_uids.remove(name);
        }
    }

    /// Forgets all records that are not in a complete list.
    pub fn retain_records(&mut self, present: &HashSet<String>) {
        let gone: Vec<String> =
            self.members.keys().filter(|name| !present.contains(*name)).cloned().collect();
        for name in gone {
            self.remove_record(&name);
        }
    }

    /// Forgets all Nodes that are not in a complete list.
    pub fn retain_nodes(&mut self, present: &HashSet<String>) {
        self.node_uids.retain(|name, _| present.contains(name));
    }
}

fn forget(map: &mut HashMap<IdentityKey, HashSet<String>>, key: &IdentityKey, name: &str) {
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "../tests/index.rs"]
mod tests;
