//! What a device does wrong: counted every time, logged once for each kind.

use std::collections::HashSet;

use fleet_wire::name::DeviceName;

use crate::metrics::Metrics;

/// Kinds that were logged for one device.
#[derive(Debug, Default)]
pub struct Complaints(HashSet<(&'static str, String)>);

impl Complaints {
    /// Counts, and logs the first of its kind. `kind` is a short label, never content of a message.
    pub fn record(
        &mut self,
        metrics: &Metrics,
        device: &DeviceName,
        verb: &'static str,
        kind: &str,
        detail: &dyn std::fmt::Display,
    ) {
        metrics.message(verb, kind);
        if self.0.insert((verb, kind.to_owned())) {
            tracing::warn!(
                %device, verb, kind, %detail,
                "a message of this device was refused; further ones of this kind are only counted"
            );
        }
    }

    /// A new session begins: what was wrong before is worth a line again.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}
