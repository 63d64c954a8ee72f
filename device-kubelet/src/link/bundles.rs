//! Bundles on their way in: what a delta carries and what has to be fetched, verified byte by byte.

use std::time::Duration;

use fleet_wire::{
    digest::Digest,
    envelope::MAX_PAGE,
    message::{BundleEntry, Delta, FetchReply, FetchRequest},
    name::PodUid,
    subject::UpVerb,
};

use super::channel::{Channel, RequestError};
use crate::pods::DesiredChange;

/// Largest bundle that a device takes, in bytes of JSON: a pod with several full ConfigMaps.
const LARGEST: u64 = 16 * 1024 * 1024;
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a bundle was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A page did not come.
    #[error("bundle of pod {uid}")]
    Fetch {
        /// The pod.
        uid: PodUid,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// The bytes are not those that were announced.
    #[error("bundle of pod {uid}: {problem}")]
    Content {
        /// The pod.
        uid: PodUid,
        /// What is wrong.
        problem: String,
    },
}

impl BundleError {
    /// What the cluster side said, if it could be asked.
    pub fn request(&self) -> Option<&RequestError> {
        match self {
            Self::Fetch { source, .. } => Some(source),
            Self::Content { .. } => None,
        }
    }
}

/// Makes a change of a delta. Bundles that could not be had are left out and returned as errors: what did
/// arrive is applied, and the digest of the set betrays what is missing.
pub async fn complete(channel: &Channel, delta: Delta) -> (DesiredChange, Vec<BundleError>) {
    let mut upsert = Vec::with_capacity(delta.upsert.len());
    let mut errors = Vec::new();
    for entry in delta.upsert {
        match bundle(channel, entry).await {
            Ok(bundle) => upsert.push(bundle),
            Err(error) => errors.push(error),
        }
    }
    let change = DesiredChange {
        version: delta.version,
        upsert,
        remove: delta.remove,
        set_digest: delta.set_digest,
        node_settings: delta.node_settings,
    };
    (change, errors)
}

async fn bundle(channel: &Channel, entry: BundleEntry) -> Result<(PodUid, Digest, Box<str>), BundleError> {
    let BundleEntry { uid, digest, size, body } = entry;
    let json: Box<str> = match body {
        Some(body) => Box::<str>::from(body),
        None => fetch(channel, &uid, digest, size).await?,
    };
    if Digest::of(json.as_bytes()) != digest {
        return Err(BundleError::Content {
            uid,
            problem: format!("its bytes do not have the digest {digest}"),
        });
    }
    Ok((uid, digest, json))
}

async fn fetch(channel: &Channel, uid: &PodUid, digest: Digest, size: u64) -> Result<Box<str>, BundleError> {
    let mut pages = Pages::new(size).map_err(|problem| BundleError::Content { uid: uid.clone(), problem })?;
    while let Some(offset) = pages.next_offset() {
        let request = FetchRequest { uid: uid.clone(), digest, offset };
        let reply: FetchReply = channel
            .request(UpVerb::Fetch, &request, FETCH_TIMEOUT)
            .await
            .map_err(|source| BundleError::Fetch { uid: uid.clone(), source })?;
        pages.add(&reply).map_err(|problem| BundleError::Content { uid: uid.clone(), problem })?;
    }
    pages.finish().map_err(|problem| BundleError::Content { uid: uid.clone(), problem })
}

/// Joins pages; takes no more than was announced.
struct Pages {
    size: u64,
    bytes: Vec<u8>,
}

impl Pages {
    fn new(size: u64) -> Result<Self, String> {
        if size > LARGEST {
            return Err(format!("{size} bytes are more than the {LARGEST} that a device takes"));
        }
        Ok(Self { size, bytes: Vec::new() })
    }

    fn next_offset(&self) -> Option<u64> {
        let offset = self.bytes.len() as u64;
        (offset < self.size).then_some(offset)
    }

    fn add(&mut self, page: &FetchReply) -> Result<(), String> {
        let length = page.data.0.len();
        if page.size != self.size {
            return Err(format!("{} bytes were announced, a page says {}", self.size, page.size));
        }
        if length == 0 || length > MAX_PAGE || (self.bytes.len() + length) as u64 > self.size {
            return Err(format!("a page of {length} bytes at {} does not fit", self.bytes.len()));
        }
        self.bytes.extend_from_slice(&page.data.0);
        Ok(())
    }

    fn finish(self) -> Result<Box<str>, String> {
        String::from_utf8(self.bytes)
            .map(String::into_boxed_str)
            .map_err(|_| "its bytes are not UTF-8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::ByteString;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_give_the_whole(text in "[a-zé]{0,400}", page in 1usize..50) {
            let bytes = text.as_bytes();
            let mut pages = Pages::new(bytes.len() as u64).unwrap();
            while let Some(offset) = pages.next_offset() {
                let offset = usize::try_from(offset).unwrap();
                let end = (offset + page).min(bytes.len());
                let data = ByteString(bytes[offset..end].to_vec());
                pages.add(&FetchReply { data, size: bytes.len() as u64 }).unwrap();
            }
            prop_assert_eq!(&*pages.finish().unwrap(), text);
        }
    }

    #[test]
    fn pages_that_never_end_are_refused() {
        let page = |length: usize, size| FetchReply { data: ByteString(vec![b'x'; length]), size };
        assert!(Pages::new(LARGEST + 1).is_err());
        let mut pages = Pages::new(10).unwrap();
        assert!(pages.add(&page(0, 10)).is_err(), "no progress");
        assert!(pages.add(&page(11, 10)).is_err(), "more than announced");
        assert!(pages.add(&page(5, 11)).is_err(), "another size");
        assert!(
            Pages::new(MAX_PAGE as u64 * 2).unwrap().add(&page(MAX_PAGE + 1, MAX_PAGE as u64 * 2)).is_err()
        );
        pages.add(&page(5, 10)).unwrap();
        assert_eq!(pages.next_offset(), Some(5));
    }
}
