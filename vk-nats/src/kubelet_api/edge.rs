//! What this API needs of the rest of `vk-nats`: the pods of devices, and the way to a device.
//!
//! A trait, so that the routes are tested against a device that lives in the test.

use std::time::Duration;

use fleet_wire::{
    message::{LogsReply, LogsRequest},
    name::{DeviceName, RequestId},
    stream::Frame,
    subject::DownVerb,
};
use futures::future::{BoxFuture, FutureExt as _};
use k8s_openapi::api::core::v1::Pod;

use crate::{
    devices::{DeviceStream, Devices, DownError},
    pods::Pods,
};

/// How long a device may take to open a stream.
const OPEN: Duration = Duration::from_secs(10);

/// The fleet, as this API sees it.
pub trait Fleet: Send + Sync + 'static {
    /// A pod by its name.
    fn pod(&self, namespace: &str, name: &str) -> Option<Pod>;
    /// The pods bound to a device.
    fn pods_on(&self, device: &DeviceName) -> Vec<Pod>;
    /// Whether requests would reach the device now.
    ///
    /// # Errors
    /// [`DownError::NotConnected`].
    fn reach(&self, device: &DeviceName) -> Result<(), DownError>;
    /// Registers a stream; to be called before the request that names it.
    ///
    /// # Errors
    /// [`DownError::NotConnected`].
    fn open_stream(&self, device: &DeviceName, id: RequestId) -> Result<Box<dyn FrameStream>, DownError>;
    /// Asks the device to write a log to the stream that the request names.
    fn open_logs<'a>(
        &'a self,
        device: &'a DeviceName,
        request: &'a LogsRequest,
    ) -> BoxFuture<'a, Result<(), DownError>>;
}

/// Frames of one stream, both ways.
pub trait FrameStream: Send + Sync {
    /// The next frame of the device; `None` once there will be none. Cancel-safe.
    fn recv(&mut self) -> BoxFuture<'_, Option<Frame>>;
    /// Sends a frame to the device.
    fn send(&self, frame: Frame) -> BoxFuture<'_, Result<(), DownError>>;
}

/// The fleet that this process serves.
#[derive(Clone)]
pub struct Served {
    /// The way to devices.
    pub devices: Devices,
    /// Their pods.
    pub pods: Pods,
}

impl Fleet for Served {
    fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.pods.get(namespace, name)
    }

    fn pods_on(&self, device: &DeviceName) -> Vec<Pod> {
        self.pods.on(device)
    }

    fn reach(&self, device: &DeviceName) -> Result<(), DownError> {
        // A stream can be opened exactly when there is a session; this one ends here again.
        self.devices.open_stream(device, RequestId::random()).map(drop)
    }

    fn open_stream(&self, device: &DeviceName, id: RequestId) -> Result<Box<dyn FrameStream>, DownError> {
        Ok(Box::new(self.devices.open_stream(device, id)?))
    }

    fn open_logs<'a>(
        &'a self,
        device: &'a DeviceName,
        request: &'a LogsRequest,
    ) -> BoxFuture<'a, Result<(), DownError>> {
        async move {
            let LogsReply {} =
                self.devices.request(device, DownVerb::Logs, &request.stream, request, OPEN).await?;
            Ok(())
        }
        .boxed()
    }
}

impl FrameStream for DeviceStream {
    fn recv(&mut self) -> BoxFuture<'_, Option<Frame>> {
        DeviceStream::recv(self).boxed()
    }

    fn send(&self, frame: Frame) -> BoxFuture<'_, Result<(), DownError>> {
        DeviceStream::send(self, frame).boxed()
    }
}
