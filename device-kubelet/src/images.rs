//! Images: may it be pulled, with whose credentials, one at a time.

mod credentials;
mod reference;

use std::sync::Arc;

use fleet_wire::message::BundleSecret;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::Mutex;

pub use self::{
    credentials::{Keyring, PullSecretError},
    reference::{ImageName, InvalidImageName},
};
use crate::runtime::{RegistryAuth, Result, Runtime};

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each start.
    Always,
    /// When it is not on the device.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// Of a container: what it says, else `Always` for `:latest` and `IfNotPresent` for all others.
    pub fn of(container: &Container, image: &ImageName) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ if image.is_latest() => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

/// Pulls images, one at a time: a device's link and card are slow enough for one.
#[derive(Clone)]
pub struct Puller {
    runtime: Arc<dyn Runtime>,
    turn: Arc<Mutex<()>>,
}

impl Puller {
    /// A puller on this runtime.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, turn: Arc::default() }
    }

    /// Waits for its turn, then pulls; tries one credential after the other. Dropping the future gives up.
    pub async fn pull(&self, image: &str, credentials: Vec<RegistryAuth>) -> Result<String> {
        let _turn = self.turn.lock().await;
        let mut candidates = credentials.into_iter();
        let mut result = self.runtime.pull_image(image, candidates.next()).await;
        for credential in candidates {
            if result.is_ok() {
                break;
            }
            result = self.runtime.pull_image(image, Some(credential)).await;
        }
        result
    }
}

/// All credentials of a pod's pull secrets; those that cannot be read are told.
pub fn keyring<'a>(
    secrets: impl IntoIterator<Item = (&'a str, &'a BundleSecret)>,
) -> (Keyring, Vec<PullSecretError>) {
    let mut keyring = Keyring::default();
    let mut errors = Vec::new();
    for (name, secret) in secrets {
        if let Err(error) = keyring.add(name, secret) {
            errors.push(error);
        }
    }
    (keyring, errors)
}
