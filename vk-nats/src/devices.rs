//! One actor for each device: its session, its desired set, its answers.
//!
//! [`Devices`] is the handle for everyone else: requests to a device and byte streams with it.

mod down;
mod stream;

pub use down::{Devices, DownError};
pub use stream::DeviceStream;
