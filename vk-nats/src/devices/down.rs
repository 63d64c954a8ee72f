//! Down to a device: requests that it answers, and streams.

use std::{sync::Arc, time::Duration};

use fleet_wire::{
    envelope::EnvelopeError,
    message::Refusal,
    name::{DeviceName, RequestId},
    subject::DownVerb,
};
use serde::{Serialize, de::DeserializeOwned};

use super::stream::DeviceStream;

/// Why a device did not answer.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// The device has no session here, or has been silent for too long.
    #[error("device {device} is not connected: no heartbeat has come from it lately; look at the Node's Ready condition and at the device's own `device-kubelet status`")]
    NotConnected {
        /// The device.
        device: DeviceName,
    },
    /// The device did not answer in time.
    #[error("device {device} did not answer {verb} within {after:?}")]
    Timeout {
        /// The device.
        device: DeviceName,
        /// What it was asked.
        verb: String,
        /// How long was waited.
        after: Duration,
    },
    /// The device answered with a refusal.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request could not be sealed, or the answer not be read.
    #[error("the message cannot be sealed or read")]
    Envelope(#[from] EnvelopeError),
    /// NATS did not take the message.
    #[error("the message to device {device} cannot be published: {reason}")]
    Publish {
        /// The device.
        device: DeviceName,
        /// What NATS said.
        reason: String,
    },
}

/// All devices that this process serves. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    _inner: Arc<()>,
}

impl Devices {
    /// Asks a device and waits for its answer on `up.re.<id>`.
    ///
    /// # Errors
    /// See [`DownError`]; a typed refusal of the device is [`DownError::Refused`].
    pub async fn request<Q: Serialize, A: DeserializeOwned>(
        &self,
        device: &DeviceName,
        _verb: DownVerb,
        _id: &RequestId,
        _body: &Q,
        _timeout: Duration,
    ) -> Result<A, DownError> {
        Err(DownError::NotConnected { device: device.clone() })
    }

    /// Registers a stream: frames that the device sends under `id` from now on arrive at the result.
    ///
    /// Called before the request that names the stream, so that no early frame is lost.
    ///
    /// # Errors
    /// [`DownError::NotConnected`].
    pub fn open_stream(&self, device: &DeviceName, _id: RequestId) -> Result<DeviceStream, DownError> {
        Err(DownError::NotConnected { device: device.clone() })
    }
}
