//! The cluster side's end of one stream with a device.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use fleet_wire::{
    name::{DeviceName, RequestId},
    stream::Frame,
};
use tokio::sync::mpsc;

use super::{
    actor::Input,
    down::{DownError, Handle},
};

/// Frames that may wait for a reader. The credit window bounds the bytes; this bounds frames without any.
const FRAMES: usize = 4096;

/// Streams of one device by id. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<RequestId, mpsc::Sender<Frame>>>>);

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The reader has it.
    Taken,
    /// Nobody reads this stream (any more).
    NoReader,
    /// The device sent far more than was granted; the stream was ended.
    Overrun,
}

impl Streams {
    fn open(&self, id: RequestId) -> mpsc::Receiver<Frame> {
        let (sender, receiver) = mpsc::channel(FRAMES);
        self.lock().insert(id, sender);
        receiver
    }

    fn close(&self, id: &RequestId) {
        self.lock().remove(id);
    }

    /// Gives a frame to its reader.
    pub fn deliver(&self, id: &RequestId, frame: Frame) -> Delivery {
        let mut streams = self.lock();
        let Some(sender) = streams.get(id) else { return Delivery::NoReader };
        match sender.try_send(frame) {
            Ok(()) => Delivery::Taken,
            Err(mpsc::error::TrySendError::Closed(_)) => {
                streams.remove(id);
                Delivery::NoReader
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                streams.remove(id);
                Delivery::Overrun
            }
        }
    }

    /// Whether somebody reads a stream.
    pub fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Ends all streams: their readers get `None`.
    pub fn end_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RequestId, mpsc::Sender<Frame>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frames of one stream, both ways. Dropping it ends the registration; send [`Frame::Cancel`] first if
/// the device is to stop writing.
#[derive(Debug)]
pub struct DeviceStream {
    device: DeviceName,
    id: RequestId,
    frames: mpsc::Receiver<Frame>,
    handle: Handle,
    sent: AtomicU64,
}

impl DeviceStream {
    pub(super) fn open(device: DeviceName, id: RequestId, handle: Handle) -> Self {
        let frames = handle.streams.open(id.clone());
        Self { device, id, frames, handle, sent: AtomicU64::new(0) }
    }

    /// The stream's id.
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// The next frame; `None` once the device has gone away for good (its Node was deleted), or when the
    /// device sent more than the reader granted.
    pub async fn recv(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    /// Seals and publishes a frame.
    ///
    /// # Errors
    /// [`DownError::NotConnected`] without a session: send again later, the stream itself lives on.
    pub async fn send(&self, frame: Frame) -> Result<(), DownError> {
        let lost = || DownError::NotConnected { device: self.device.clone() };
        if !self.handle.is_connected() {
            return Err(lost());
        }
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let input = Input::Frame { stream: self.id.clone(), number, frame };
        self.handle.inbox.send(Box::new(input)).await.map_err(|_| lost())
    }
}

impl Drop for DeviceStream {
    fn drop(&mut self) {
        self.handle.streams.close(&self.id);
    }
}
