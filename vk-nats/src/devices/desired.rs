//! What a device is told of its desired set. Pure.
//!
//! The ledger counts versions and remembers which set the device is believed to hold. A delta that got
//! lost is noticed by the digest in the next heartbeat, and answered with a hint that makes the device
//! sync; nothing depends on this side's belief being right.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleet_wire::{
    digest::Digest,
    envelope::MAX_PAGE,
    message::{
        BundleEntry, Delta, DesiredVersion, FetchReply, FetchRequest, NodeSettings, Refusal, RefusalCode,
    },
    name::{OwnerEpoch, PodUid},
};
use k8s_openapi::ByteString;
use tokio::time::Instant;

use crate::bundle::{Built, DesiredSet};

/// Most bytes of bundles in one message, before compression; more is fetched. Leaves room for the
/// entries themselves and the envelope below the limit of a message.
const INLINE_BUDGET: usize = 160 * 1024;
/// How long after something was sent a differing heartbeat is put down to it still being worked on.
const SETTLE: Duration = Duration::from_secs(3);

/// Versions, and what the device is believed to hold.
#[derive(Debug)]
pub struct Ledger {
    version: DesiredVersion,
    /// The set that the version belongs to.
    numbered: Option<(Digest, NodeSettings)>,
    /// The set that was sent last, if all before it arrived.
    told: Option<Arc<DesiredSet>>,
    /// What the device said last that it holds, while nothing was sent since.
    held: Option<Digest>,
    sent_at: Option<Instant>,
    /// The device knows that it has to sync, and its sync will bring everything.
    sync_expected: bool,
}

impl Ledger {
    /// Nothing told yet.
    pub fn new(epoch: OwnerEpoch) -> Self {
        Self {
            version: DesiredVersion { epoch, sequence: 0 },
            numbered: None,
            told: None,
            held: None,
            sent_at: None,
            sync_expected: false,
        }
    }

    /// The newest version that the device has kept. Within an epoch there may have been another ledger for it: its
    /// Node was made anew, or it has new keys. Going back would be refused.
    pub fn resume(&mut self, kept: DesiredVersion) {
        if kept.epoch == self.version.epoch && kept.sequence > self.version.sequence {
            self.version.sequence = kept.sequence;
            self.numbered = None;
        }
    }

    /// A new session: whatever was in flight is void. The device holds `digest`, and hello answered
    /// `answered`; if these differ it syncs by itself. The set may be another one by now.
    pub fn begin(&mut self, set: Option<&Arc<DesiredSet>>, digest: Digest, answered: Digest, now: Instant) {
        self.told = set.filter(|set| set.digest() == digest).cloned();
        self.held = Some(digest);
        self.sync_expected = digest != answered;
        self.sent_at = self.sync_expected.then_some(now);
    }

    /// Version of a set; a set or settings not seen before get the next one.
    fn number(&mut self, digest: Digest, settings: &NodeSettings) -> DesiredVersion {
        if self.numbered.as_ref() != Some(&(digest, settings.clone())) {
            self.version.sequence = self.version.sequence.saturating_add(1);
            self.numbered = Some((digest, settings.clone()));
        }
        self.version
    }

    /// The set changed: what the device is to be told, if anything.
    pub fn changed(&mut self, set: &Arc<DesiredSet>, settings: &NodeSettings, now: Instant) -> Option<Delta> {
        let digest = set.digest();
        if self.numbered.is_none() && self.held == Some(digest) {
            // It holds this set since an earlier incarnation, and its settings came with hello.
            self.number(digest, settings);
            self.told = Some(Arc::clone(set));
            return None;
        }
        let known = self.told.is_some() && self.numbered.as_ref() == Some(&(digest, settings.clone()));
        if known || self.sync_expected {
            return None;
        }
        let Some(told) = self.told.replace(Arc::clone(set)) else {
            self.told = None;
            return Some(self.hint(digest, settings, now));
        };
        let have: BTreeMap<&PodUid, &Digest> =
            told.bundles.iter().map(|(uid, built)| (uid, &built.digest)).collect();
        Some(self.delta(set, digest, &have, settings, now))
    }

    /// The answer to a sync: what the device lacks.
    pub fn sync(
        &mut self,
        set: &Arc<DesiredSet>,
        have: &BTreeMap<PodUid, Digest>,
        settings: &NodeSettings,
        now: Instant,
    ) -> Delta {
        let delta = self.delta(set, set.digest(), &have.iter().collect(), settings, now);
        self.told = Some(Arc::clone(set));
        self.sync_expected = false;
        delta
    }

    /// A heartbeat tells what the device holds: a hint, if it should long have held something else.
    pub fn heartbeat(
        &mut self,
        set: &Arc<DesiredSet>,
        held: Digest,
        settings: &NodeSettings,
        now: Instant,
    ) -> Option<Delta> {
        let digest = set.digest();
        if held == digest {
            self.told = Some(Arc::clone(set));
            self.sync_expected = false;
            return None;
        }
        if self.sent_at.is_some_and(|sent| now.saturating_duration_since(sent) < SETTLE) {
            return None;
        }
        self.told = None;
        Some(self.hint(digest, settings, now))
    }

    /// A delta without content: its digest does not fit, which makes the device sync.
    fn hint(&mut self, digest: Digest, settings: &NodeSettings, now: Instant) -> Delta {
        self.sync_expected = true;
        self.empty(digest, settings, now)
    }

    fn empty(&mut self, digest: Digest, settings: &NodeSettings, now: Instant) -> Delta {
        self.sent_at = Some(now);
        self.held = None;
        Delta {
            version: self.number(digest, settings),
            upsert: Vec::new(),
            remove: Vec::new(),
            set_digest: digest,
            node_settings: settings.clone(),
        }
    }

    fn delta(
        &mut self,
        set: &DesiredSet,
        digest: Digest,
        have: &BTreeMap<&PodUid, &Digest>,
        settings: &NodeSettings,
        now: Instant,
    ) -> Delta {
        let mut delta = self.empty(digest, settings, now);
        let mut left = INLINE_BUDGET;
        for (uid, built) in &set.bundles {
            if have.get(uid) == Some(&&built.digest) {
                continue;
            }
            delta.upsert.push(entry(uid, built, &mut left));
        }
        delta.remove =
            have.keys().filter(|uid| !set.bundles.contains_key(**uid)).map(|uid| (*uid).clone()).collect();
        delta
    }
}

fn entry(uid: &PodUid, built: &Built, left: &mut usize) -> BundleEntry {
    let size = built.json.get().len();
    let body = (size <= *left).then(|| {
        *left -= size;
        // The message owns its content; a bundle is copied only when it is sent.
        built.json.as_ref().to_owned()
    });
    BundleEntry { uid: uid.clone(), digest: built.digest, size: size as u64, body }
}

/// One page of a bundle.
///
/// # Errors
/// `NotFound` when the device asks for a bundle that is no longer the desired one.
pub fn fetch(set: Option<&DesiredSet>, request: &FetchRequest) -> Result<FetchReply, Refusal> {
    let built = set
        .and_then(|set| set.bundles.get(&request.uid))
        .filter(|built| built.digest == request.digest)
        .ok_or_else(|| {
            Refusal::new(RefusalCode::NotFound, "this bundle is no longer the desired one: sync again")
        })?;
    let bytes = built.json.get().as_bytes();
    let start = usize::try_from(request.offset).unwrap_or(usize::MAX);
    if start > bytes.len() {
        return Err(Refusal::new(RefusalCode::BadRequest, "the offset lies behind the end of the bundle"));
    }
    let end = bytes.len().min(start + MAX_PAGE);
    Ok(FetchReply { data: ByteString(bytes[start..end].to_vec()), size: bytes.len() as u64 })
}

#[cfg(test)]
#[path = "tests/desired.rs"]
mod tests;
