//! The boxes of requests and answers: one key with each nats-server.
//!
//! What the callout's curve key and a server's agree on stays the same until one of them restarts with another key, and
//! costs as much to compute as all else that is done with a box; so it is kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use fleet_wire::{
    envelope::EnvelopeError,
    keys::{Agreement, CurveKey},
};
use nkeys::XKey;

/// Servers whose key is kept. More are forgotten, all at once: a server takes a new key with every start.
const MOST: usize = 128;

/// The callout's curve key, and what it agrees on with the servers seen so far.
pub struct Servers {
    own: XKey,
    kept: Mutex<HashMap<CurveKey, Arc<Agreement>>>,
}

impl Servers {
    /// `own` is the callout's secret curve key (`SX…`).
    #[must_use]
    pub fn new(own: XKey) -> Self {
        Self { own, kept: Mutex::default() }
    }

    /// The callout's public curve key (`X…`), as it stands in the servers' configuration.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.own.public_key()
    }

    /// What opens and seals the boxes of the server with this key.
    ///
    /// # Errors
    /// [`EnvelopeError::Seal`] if the callout's key has no secret half.
    pub fn agreement(&self, server: &CurveKey) -> Result<Arc<Agreement>, EnvelopeError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned();
        match kept {
            Some(agreement) => Ok(agreement),
            // Out of the lock: others go on meanwhile.
            None => {
                let server = server.xkey().map_err(|_| EnvelopeError::Seal)?;
                Agreement::new(&self.own, &server).map(Arc::new)
            }
        }
    }

    /// Keeps it. To be called when the server's signature has shown that the key is its own: a key that only a header
    /// names is anybody's.
    pub fn keep(&self, server: CurveKey, agreement: Arc<Agreement>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST && !kept.contains_key(&server) {
            kept.clear();
        }
        kept.entry(server).or_insert(agreement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> CurveKey {
        XKey::new().public_key().parse().unwrap()
    }

    #[test]
    fn what_is_kept_is_what_is_given_again() {
        let servers = Servers::new(XKey::new());
        let key = server();
        let first = servers.agreement(&key).unwrap();
        assert!(!Arc::ptr_eq(&first, &servers.agreement(&key).unwrap()), "nothing is kept before it is said");
        servers.keep(key.clone(), first.clone());
        assert!(Arc::ptr_eq(&first, &servers.agreement(&key).unwrap()));
    }

    #[test]
    fn restarting_servers_do_not_fill_the_memory() {
        let servers = Servers::new(XKey::new());
        let key = server();
        let agreement = servers.agreement(&key).unwrap();
        for _ in 0..3 * MOST {
            servers.keep(server(), agreement.clone());
        }
        assert!(servers.kept.lock().unwrap().len() <= MOST);
    }
}
