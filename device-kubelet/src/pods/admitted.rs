//! Which pods were let in on this device, and what they take of it.
//!
//! Letting in is one step: of two pods that ask at once for the last port, one gets it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fleet_wire::name::PodUid;
use k8s_openapi::api::core::v1::PodSpec;

use super::{
    admission::capacity::{Allocatable, Demand, rejection},
    status::Verdict,
};

/// The pods that are on the device, or on their way there or off it.
#[derive(Debug)]
pub struct Admitted {
    allocatable: Allocatable,
    pods: Mutex<BTreeMap<PodUid, Demand>>,
}

impl Admitted {
    /// None yet.
    pub fn new(allocatable: Allocatable) -> Self {
        Self { allocatable, pods: Mutex::default() }
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<PodUid, Demand>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was let in before: whatever room there is.
    pub fn readmit(&self, uid: &PodUid, spec: &PodSpec) {
        self.pods().insert(uid.clone(), Demand::of(spec));
    }

    /// Lets it in if there is room, or says why there is none. Who is in stays in.
    pub fn admit(&self, uid: &PodUid, spec: &PodSpec) -> Result<(), Verdict> {
        let mut pods = self.pods();
        if pods.contains_key(uid) {
            return Ok(());
        }
        let demand = Demand::of(spec);
        let others: Vec<&Demand> = pods.values().collect();
        match rejection(&demand, &others, self.allocatable) {
            Some(verdict) => Err(verdict),
            None => {
                pods.insert(uid.clone(), demand);
                Ok(())
            }
        }
    }

    /// Nothing of it runs any more.
    pub fn release(&self, uid: &PodUid) {
        self.pods().remove(uid);
    }
}
