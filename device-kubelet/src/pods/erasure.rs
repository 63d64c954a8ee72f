//! New keys for what is stored, and the end of all pods with the keys that opened their secrets.

use fleet_wire::digest::Digest;

use super::{DesiredChange, Pods, PodsError};
use crate::store::{Store, StoreError};

/// What is still to be done of an erasure, across attempts that fail on a full disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Owed {
    /// Nothing.
    #[default]
    Nothing,
    /// New keys, and the end of the old ones.
    NewKeys,
    /// The end of the old ones.
    OldKeys,
}

impl Pods {
    /// Seals all that is stored with new keys, and forgets the old ones.
    ///
    /// # Errors
    /// When the disk does not let it: what was begun goes on at the next start.
    pub async fn renew_keys(&self) -> Result<(), PodsError> {
        self.on_store(|store| store.renew_keys().and_then(|()| store.reseal())).await
    }

    /// Ends all pods (their grace is bounded, as for every pod that is gone from the API), and removes their bundles
    /// with the secrets in them, their volumes and logs. The key that opened the bundles is forgotten: on flash,
    /// what was removed may still be there. The version of the desired state stays: nobody brings an older one.
    ///
    /// # Errors
    /// When the disk does not let it: the pods end all the same.
    pub async fn erase(&self) -> Result<(), PodsError> {
        let mut owed = self.inner.erasure.lock().await;
        let held = self.held();
        if !held.bundles.is_empty() && *owed == Owed::Nothing {
            *owed = Owed::NewKeys;
        }
        // Before the bundles go, so that an erasure that a power cut interrupts is ended by the next start. A full
        // disk may have room afterwards.
        let _ = self.settle(&mut owed, Owed::NewKeys).await;
        let change = DesiredChange {
            version: held.version,
            upsert: Vec::new(),
            remove: held.bundles.into_keys().collect(),
            set_digest: Digest::of_set([]),
            node_settings: held.node_settings,
        };
        self.apply(change).await?;
        // What was set aside holds the same secrets.
        self.on_store(Store::forget_broken).await?;
        self.settle(&mut owed, Owed::NewKeys).await?;
        self.settle(&mut owed, Owed::OldKeys).await
    }

    async fn settle(&self, owed: &mut Owed, step: Owed) -> Result<(), PodsError> {
        if *owed != step {
            return Ok(());
        }
        *owed = match step {
            Owed::Nothing => Owed::Nothing,
            Owed::NewKeys => {
                self.on_store(Store::renew_keys).await?;
                Owed::OldKeys
            }
            Owed::OldKeys => {
                self.on_store(Store::reseal).await?;
                Owed::Nothing
            }
        };
        Ok(())
    }

    async fn on_store(
        &self,
        work: impl FnOnce(&Store) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), PodsError> {
        let store = self.inner.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        Ok(done.map_err(|_| PodsError::Stopped)??)
    }
}
