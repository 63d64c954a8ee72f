//! Which devices there are: enrollment records and Nodes, kept in memory.
//!
//! | file | answers |
//! |---|---|
//! | `index` | what does this identity key stand for? |
//! | `watch` | what does the API server say? |
//!
//! Only the watch writes. Whatever was seen last stays valid while the API server is away: a device that was
//! admitted yesterday is admitted today.

mod index;
mod watch;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch::{Receiver, Sender};

pub use self::{
    index::{Index, Member, Standing},
    watch::{watch_nodes, watch_records},
};

/// The index, shared. Clones share it.
#[derive(Debug, Clone)]
pub struct Registry {
    index: Arc<RwLock<Index>>,
    listed: Arc<Sender<Listed>>,
}

/// Which lists were complete at least once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Listed {
    records: bool,
    nodes: bool,
}

impl Default for Registry {
    fn default() -> Self {
        Self { index: Arc::default(), listed: Arc::new(Sender::new(Listed::default())) }
    }
}

impl Registry {
    /// For reading, briefly.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For writing. The watch does; tests do.
    pub fn update(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that all records are known.
    pub fn records_listed(&self) {
        self.listed.send_modify(|listed| listed.records = true);
    }

    /// Says that all Nodes are known.
    pub fn nodes_listed(&self) {
        self.listed.send_modify(|listed| listed.nodes = true);
    }

    /// Ends once both lists were complete. Before that nobody could be told from a stranger.
    pub async fn complete(&self) {
        let mut listed: Receiver<Listed> = self.listed.subscribe();
        // The sender lives as long as `self`.
        let _ = listed.wait_for(|listed| listed.records && listed.nodes).await;
    }
}
