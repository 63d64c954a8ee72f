//! A write, step by step, each of which somebody else may come before or a connection break after.
//!
//! ```text
//! 1 read       what is there, and which version a write would replace
//! 2 write      the values, with check-and-set: refused if somebody else wrote since 1
//! 3 describe   the metadata, with the version that it belongs to
//! ```
//!
//! After 2 the write stands. If 3 fails or somebody else writes between them, the metadata does not belong to the
//! newest version, and readers see that.

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
            if let Some(version) = self.write_once(path, values, head.version, &call).await? {
                let base = match head.base {
                    Some(base) => Some(base),
                    // The entry is new.
                    None => self.base(path).await?,
                };
                let mut beside = metadata.clone();
                beside.insert(kv::OF_VERSION.to_owned(), version.to_string());
                if let Some(base) = base.filter(|_| !head.base_is_noted) {
                    beside.insert(kv::BASE.to_owned(), base.to_string());
                }
                if let Err(error) = self.describe(path, &beside).await {
                    // The values stand; to say that they do not would be wrong.
                    tracing::warn!(%path, %error, "the values are written, and what describes them is not");
                }
                return Ok(base.unwrap_or_default().saturating_add(version));
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
                    let same = head.values.as_ref().is_some_and(|found| kv::same_values(found, values));
                    let ours = same && head.version == replaces + 1;
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

    /// Adds to the metadata.
    async fn describe(&self, path: &StorePath, metadata: &Metadata) -> Result<(), OpenBaoError> {
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
