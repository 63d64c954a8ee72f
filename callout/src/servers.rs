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

/// The callout's curve keys, and what they agree on with the servers seen so far.
pub struct Servers {
    own: Vec<XKey>,
    kept: Mutex<HashMap<CurveKey, Arc<Agreement>>>,
}

impl Servers {
    /// `own` are the callout's secret curve keys (`SX…`), the present one first. There are others while they are
    /// rotated: some servers have the new configuration already, others have the old one still.
    #[must_use]
    pub fn new(own: impl IntoIterator<Item = XKey>) -> Self {
        Self { own: own.into_iter().collect(), kept: Mutex::default() }
    }

    /// The callout's present public curve key (`X…`), as it stands in the servers' configuration.
    #[must_use]
    pub fn public_key(&self) -> Option<String> {
        self.own.first().map(XKey::public_key)
    }

    /// Opens a box of the server with this key. The answer is sealed with what opened it.
    ///
    /// # Errors
    /// [`EnvelopeError::Seal`] if none of the own keys opens it.
    pub fn open(&self, server: &CurveKey, sealed: &[u8]) -> Result<(Arc<Agreement>, Vec<u8>), EnvelopeError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned();
        if let Some(agreement) = kept
            && let Ok(plain) = agreement.open(sealed)
        {
            return Ok((agreement, plain));
        }
        let server = server.xkey().map_err(|_| EnvelopeError::Seal)?;
        for own in &self.own {
            let agreement = Agreement::new(own, &server)?;
            if let Ok(plain) = agreement.open(sealed) {
                return Ok((Arc::new(agreement), plain));
            }
        }
        Err(EnvelopeError::Seal)
    }

    /// Keeps it. To be called when the server's signature has shown that the key is its own: a key that only a header
    /// names is anybody's.
    pub fn keep(&self, server: CurveKey, agreement: Arc<Agreement>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST && !kept.contains_key(&server) {
            kept.clear();
        }
        match kept.get_mut(&server) {
            Some(kept) => *kept = agreement,
            None => drop(kept.insert(server, agreement)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server, and what it sends sealed to a key of ours.
    fn server(ours: &XKey) -> (CurveKey, Vec<u8>) {
        let key = XKey::new();
        let ours = XKey::from_public_key(&ours.public_key()).unwrap();
        (key.public_key().parse().unwrap(), key.seal(b"request", &ours).unwrap())
    }

    #[test]
    fn what_is_kept_is_used_again() {
        let own = XKey::new();
        let (key, sealed) = server(&own);
        let servers = Servers::new([own]);
        let (first, plain) = servers.open(&key, &sealed).unwrap();
        assert_eq!(plain, b"request");
        assert!(!Arc::ptr_eq(&first, &servers.open(&key, &sealed).unwrap().0), "nobody said that it be kept");
        servers.keep(key.clone(), Arc::clone(&first));
        assert!(Arc::ptr_eq(&first, &servers.open(&key, &sealed).unwrap().0));
    }

    #[test]
    fn a_server_that_was_given_our_new_key_is_understood_at_once() {
        let (new, old) = (XKey::new(), XKey::new());
        let server = XKey::new();
        let key: CurveKey = server.public_key().parse().unwrap();
        let sealed = |ours: &XKey| server.seal(b"request", ours).unwrap();
        let servers = Servers::new([new.clone(), old.clone()]);
        let (agreement, _) = servers.open(&key, &sealed(&old)).unwrap();
        servers.keep(key.clone(), agreement);
        let (agreement, plain) = servers.open(&key, &sealed(&new)).unwrap();
        assert_eq!(plain, b"request");
        servers.keep(key.clone(), Arc::clone(&agreement));
        assert!(Arc::ptr_eq(&agreement, &servers.open(&key, &sealed(&new)).unwrap().0));
        assert!(servers.open(&key, &sealed(&XKey::new())).is_err());
    }

    #[test]
    fn restarting_servers_do_not_fill_the_memory() {
        let own = XKey::new();
        let (key, sealed) = server(&own);
        let servers = Servers::new([own.clone()]);
        let (agreement, _) = servers.open(&key, &sealed).unwrap();
        for _ in 0..3 * MOST {
            servers.keep(server(&own).0, Arc::clone(&agreement));
        }
        assert!(servers.kept.lock().unwrap().len() <= MOST);
    }
}
