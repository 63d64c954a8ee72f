//! A write, step by step, each of which somebody else may come before or a connection break after.
//!
//! ```text
//! 1 read       what is there, and which version a write would replace
//! 2 create     only where nothing is: an entry without values, with its base
//! 3 write      the values, with check-and-set: refused if somebody else wrote since 1
//! 4 describe   the metadata, with the version that it belongs to
//! ```
//!
//! After 3 the write stands. If 4 fails or somebody else writes between them, the metadata does not belong to the
//! newest version, and readers see that.

use jiff::Timestamp;

use super::{OpenBao, OpenBaoError, kv};
use crate::{
    source::Document,
    store::{Metadata, StorePath},
};

/// How often somebody else may come first when the caller does not mind what is replaced.
const TRIES: u32 = 4;

impl OpenBao {
    /// See [`crate::store::Store::put`].
    pub(super) async fn replace(
        &self,
        path: &StorePath,
        values: &Document,
        expected: Option<u64>,
        metadata: &Metadata,
    ) -> Result<u64, OpenBaoError> {
        kv::check_metadata(metadata)?;
        let mut tries = 0;
        loop {
            tries += 1;
            let head = self.head(path).await?;
            let found = head.revision();
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                return Err(OpenBaoError::Conflict { expected, found });
            }
            let call = kv::write(&self.mount, path, values, head.version, self.max_value)?;
            let (base, is_new) = match head.base {
                Some(base) => (base, false),
                None => (now(), true),
            };
            let mut beside = Metadata::new();
            if is_new {
                beside.insert(kv::BASE.to_owned(), base.to_string());
            }
            if head.version == 0 {
                self.describe(path, &beside, true).await?;
            }
            if let Some(version) = self.write_once(path, values, head.version, &call).await? {
                beside.extend(metadata.clone());
                beside.insert(kv::OF_VERSION.to_owned(), version.to_string());
                return Ok(match self.describe(path, &beside, false).await {
                    Ok(()) => base.saturating_add(version),
                    // The values stand; to say that they do not would be wrong.
                    Err(error) => {
                        tracing::warn!(%path, %error, "the values are written, and what describes them is not");
                        if is_new && head.version > 0 { version } else { base.saturating_add(version) }
                    }
                });
            }
            // Somebody else came first. Who expects a state gets what is there; who does not begins anew. Who expects
            // nothing and finds that it was deleted again begins anew, too: both show in the next round.
            if tries == TRIES {
                let found = self.head(path).await?.revision();
                return Err(OpenBaoError::Conflict { expected: expected.unwrap_or(head.version), found });
            }
        }
    }

    /// Writes with check-and-set. The new version, or `None` when somebody else came first.
    ///
    /// When the answer is lost it is written again: either nothing was written, and this is the first write, or it is
    /// refused, and then the values tell whose the newest version is.
    async fn write_once(
        &self,
        path: &StorePath,
        values: &Document,
        replaces: u64,
        call: &kv::Call,
    ) -> Result<Option<u64>, OpenBaoError> {
        let mut lost_an_answer = false;
        loop {
            match self.ask(call).await {
                Ok(answer) => {
                    let version = kv::written(&self.mount, &answer, self.max_value)?;
                    if version.is_some() || !lost_an_answer {
                        return Ok(version);
                    }
                    let head = self.head(path).await?;
                    let ours = head.version == replaces + 1 && head.values.as_ref() == Some(values);
                    return Ok(ours.then_some(head.version));
                }
                // Bounded by the caller's time.
                Err(error) if error.is_transient() => {
                    lost_an_answer = true;
                    tokio::time::sleep(super::PAUSE.mul_f64(rand::random_range(1.0..=2.0))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds to the metadata; creates the entry first where there is none.
    async fn describe(
        &self,
        path: &StorePath,
        metadata: &Metadata,
        create: bool,
    ) -> Result<(), OpenBaoError> {
        if create {
            let answer = self.ask_again(&kv::create(&self.mount, path)).await?;
            match (answer.status, answer.said()) {
                (200..300, _) => {}
                (404, said) => return Err(OpenBaoError::NoMount { mount: self.mount.to_string(), said }),
                _ => return Err(answer.failure()),
            }
        }
        let answer = match self.ask_again(&kv::patch(&self.mount, path, metadata)).await {
            Ok(answer) if answer.status != 405 => answer,
            // Policies from before PATCH, and servers from before it: what is there is read and kept.
            Ok(_) | Err(OpenBaoError::Denied { .. }) => {
                let kept = self.ask_again(&kv::history(&self.mount, path)).await?;
                let mut all = kv::kept_metadata(&self.mount, &kept)?.unwrap_or_default();
                all.extend(metadata.clone());
                self.ask_again(&kv::replace(&self.mount, path, &all)).await?
            }
            Err(error) => return Err(error),
        };
        match answer.status {
            200..300 => Ok(()),
            _ => Err(answer.failure()),
        }
    }
}

/// Seconds since 1970; a clock before that is one that was never set.
fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or_default()
}
