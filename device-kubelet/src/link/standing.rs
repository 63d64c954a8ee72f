//! What the device is in its fleet: whom it trusts, and whether it is a member. Clones share it; what changes is
//! on disk before anyone sees it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fleet_wire::{
    keys::{CurveKey, FleetKeys, SignedKeyStatement},
    name::KeyVersion,
};
use tokio::sync::watch;

use crate::{
    enroll::membership::{Membership, MembershipError},
    keys::{KeysError, Trust},
};

/// The shared state.
#[derive(Debug, Clone)]
pub struct Standing {
    data_dir: PathBuf,
    trust: Arc<Mutex<Trust>>,
    membership: Arc<watch::Sender<Membership>>,
}

impl Standing {
    /// As it was read at the start.
    pub fn new(data_dir: &Path, trust: Trust, membership: Membership) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            trust: Arc::new(Mutex::new(trust)),
            membership: Arc::new(watch::Sender::new(membership)),
        }
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Number of the newest accepted statement of the fleet's keys.
    pub fn statement(&self) -> Option<u64> {
        self.trust().sequence()
    }

    /// The key to which requests for new keys are sealed.
    pub fn enroller(&self) -> Option<CurveKey> {
        self.trust().enroller().cloned()
    }

    /// The fleet's public keys.
    ///
    /// # Errors
    /// When no statement was accepted yet.
    pub fn fleet_keys(&self) -> Result<FleetKeys, KeysError> {
        self.trust().fleet_keys()
    }

    /// A statement that came over the wire; the fleet's keys if it brought other ones.
    ///
    /// # Errors
    /// [`KeysError`] when it is not believed, or cannot be kept.
    pub fn offer(&self, statement: &SignedKeyStatement) -> Result<Option<FleetKeys>, KeysError> {
        let mut trust = self.trust();
        if trust.offer(statement)? { trust.fleet_keys().map(Some) } else { Ok(None) }
    }

    /// The newest version of the fleet's key.
    pub fn newest_key(&self) -> Option<KeyVersion> {
        self.trust().fleet_keys().ok().map(|keys| keys.newest().0)
    }

    /// What is known of the membership.
    pub fn membership(&self) -> Membership {
        self.membership.borrow().clone()
    }

    /// Follows the membership.
    pub fn follow(&self) -> watch::Receiver<Membership> {
        self.membership.subscribe()
    }

    /// Changes what is written down of the membership.
    ///
    /// # Errors
    /// When it cannot be written: nothing has changed then.
    pub fn update(&self, change: impl FnOnce(&mut Membership)) -> Result<(), MembershipError> {
        let updated = Membership::update(&self.data_dir, change)?;
        self.membership.send_replace(updated);
        Ok(())
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
