//! Down to a device: requests that it answers, and streams.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fleet_wire::{
    envelope::EnvelopeError,
    message::{Refusal, Reply},
    name::{DeviceName, RequestId},
    subject::DownVerb,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    actor::{Input, Question},
    stream::{DeviceStream, Streams},
};
use crate::nodes::DeviceNode;

/// Why a device did not answer.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// The device has no session here, or has been silent for too long.
    #[error(
        "device {device} is not connected: no heartbeat has come from it lately; look at the Node's Ready condition and at the device's own `device-kubelet status`"
    )]
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

/// How others reach an actor.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) inbox: mpsc::Sender<Box<Input>>,
    pub(super) node: watch::Sender<(Arc<DeviceNode>, u16)>,
    pub(super) streams: Streams,
    pub(super) connected: Arc<AtomicBool>,
}

impl Handle {
    /// Whether the device has a live session and heartbeats arrive.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// All devices that this process serves. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Devices(Arc<RwLock<HashMap<DeviceName, Handle>>>);

impl Devices {
    /// Asks a device and waits for its answer on `up.re.<id>`.
    ///
    /// # Errors
    /// See [`DownError`]; a typed refusal of the device is [`DownError::Refused`].
    pub async fn request<Q: Serialize, A: DeserializeOwned>(
        &self,
        device: &DeviceName,
        verb: DownVerb,
        id: &RequestId,
        body: &Q,
        timeout: Duration,
    ) -> Result<A, DownError> {
        let lost = || DownError::NotConnected { device: device.clone() };
        let handle = self.connected(device)?;
        let body = serde_json::to_string(body)
            .and_then(RawValue::from_string)
            .map_err(|error| DownError::Envelope(EnvelopeError::Payload(error)))?;
        let (answer, answered) = oneshot::channel();
        let name = verb.to_string();
        let question = Question { verb, id: id.clone(), body, answer };
        handle.inbox.send(Box::new(Input::Ask(question))).await.map_err(|_| lost())?;
        let payload = match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(lost()),
            Err(_) => {
                return Err(DownError::Timeout { device: device.clone(), verb: name, after: timeout });
            }
        };
        let reply: Reply<A> = serde_json::from_slice(&payload)
            .map_err(|error| DownError::Envelope(EnvelopeError::Payload(error)))?;
        Ok(reply.into_result()?)
    }

    /// Registers a stream: frames that the device sends under `id` from now on arrive at the result.
    ///
    /// Called before the request that names the stream, so that no early frame is lost.
    ///
    /// # Errors
    /// [`DownError::NotConnected`].
    pub fn open_stream(&self, device: &DeviceName, id: RequestId) -> Result<DeviceStream, DownError> {
        let handle = self.connected(device)?;
        Ok(DeviceStream::open(device.clone(), id, handle))
    }

    pub(super) fn get(&self, device: &DeviceName) -> Option<Handle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(device).cloned()
    }

    pub(super) fn insert(&self, device: DeviceName, handle: Handle) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(device, handle);
    }

    pub(super) fn remove(&self, device: &DeviceName) -> Option<Handle> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(device)
    }

    fn connected(&self, device: &DeviceName) -> Result<Handle, DownError> {
        self.get(device)
            .filter(Handle::is_connected)
            .ok_or_else(|| DownError::NotConnected { device: device.clone() })
    }
}
