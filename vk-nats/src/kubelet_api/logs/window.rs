//! How much may be under way: windows of all streams together, and streams of one device.
//!
//! All streams share this process' one connection to NATS, so the bytes granted to devices at any time
//! are bounded: the first streams get a full window, later ones what is left, and none at all
//! when nothing is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use fleet_wire::{
    name::DeviceName,
    stream::{LOG_WINDOW, MAX_CHUNK, MAX_LOG_STREAMS},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes granted to all devices together.
pub const BUDGET: u64 = 16 * 1024 * 1024;

const CHUNK: u64 = MAX_CHUNK as u64;

/// Why no stream was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The device has as many streams as it may have.
    #[error("device {0} already serves {MAX_LOG_STREAMS} log streams: end one of them, or try again later")]
    Device(DeviceName),
    /// All bytes that may be granted are.
    #[error("too many streams are open to all devices together: try again later")]
    Budget,
}

/// Hands out windows. Clones share the budget.
#[derive(Debug, Clone)]
pub struct Windows {
    budget: Arc<Semaphore>,
    streams: Arc<Mutex<HashMap<DeviceName, usize>>>,
}

impl Default for Windows {
    fn default() -> Self {
        Self { budget: Arc::new(Semaphore::new((BUDGET / CHUNK) as usize)), streams: Arc::default() }
    }
}

impl Windows {
    /// A window for one stream of `device`; it is given back when the result is dropped.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn open(&self, device: &DeviceName) -> Result<Window, WindowError> {
        let chunks = std::iter::successors(Some((LOG_WINDOW / CHUNK) as u32), |chunks| {
            (*chunks > 1).then_some(chunks / 2)
        });
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let open = streams.get(device).copied().unwrap_or(0);
        if open >= MAX_LOG_STREAMS {
            return Err(WindowError::Device(device.clone()));
        }
        let (bytes, permit) = chunks
            .into_iter()
            .find_map(|chunks| {
                let permit = self.budget.clone().try_acquire_many_owned(chunks).ok()?;
                Some((u64::from(chunks) * CHUNK, permit))
            })
            .ok_or(WindowError::Budget)?;
        streams.insert(device.clone(), open + 1);
        Ok(Window { bytes, device: device.clone(), streams: self.streams.clone(), _permit: permit })
    }
}

/// A window, held for as long as its stream is open.
#[derive(Debug)]
pub struct Window {
    bytes: u64,
    device: DeviceName,
    streams: Arc<Mutex<HashMap<DeviceName, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Window {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = streams.get_mut(&self.device) {
            *open -= 1;
            if *open == 0 {
                streams.remove(&self.device);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn device(number: usize) -> DeviceName {
        format!("pi-{number}").parse().unwrap()
    }

    #[test]
    fn a_device_serves_so_many_streams_and_gets_them_back() {
        let windows = Windows::default();
        let mut open: Vec<_> = (0..MAX_LOG_STREAMS).map(|_| windows.open(&device(1)).unwrap()).collect();
        assert_eq!(windows.open(&device(1)).unwrap_err(), WindowError::Device(device(1)));
        windows.open(&device(2)).unwrap();
        open.pop();
        windows.open(&device(1)).unwrap();
        drop(open);
        assert!(windows.streams.lock().unwrap().is_empty());
    }

    #[test]
    fn full_windows_of_one_device_fit_into_its_queue() {
        // A chunk that finds it full is dropped, and comes again only after the reader has missed it.
        let chunks = MAX_LOG_STREAMS as u64 * LOG_WINDOW / CHUNK;
        assert!(chunks <= crate::devices::QUEUE as u64, "{chunks}");
    }

    #[test]
    fn windows_never_sum_to_more_than_the_budget() {
        let windows = Windows::default();
        let mut open = Vec::new();
        let refused = loop {
            match windows.open(&device(open.len())) {
                Ok(window) => open.push(window),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, WindowError::Budget);
        assert_eq!(open.iter().map(Window::bytes).sum::<u64>(), BUDGET);
        assert_eq!(open[0].bytes(), LOG_WINDOW);
        drop(open);
        assert_eq!(windows.open(&device(0)).unwrap().bytes(), LOG_WINDOW);
    }
}
