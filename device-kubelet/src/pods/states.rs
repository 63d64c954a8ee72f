//! The states, one file each, and the edges between them.

mod admitting;
mod cleaning;
mod finished;
mod preparing;
mod refused;
mod running;
mod sandboxing;
mod terminating;

pub use self::{
    admitting::Admitting,
    cleaning::Cleaning,
    finished::Finished,
    preparing::Preparing,
    refused::{Refused, UNSUPPORTED},
    running::Running,
    sandboxing::Sandboxing,
    terminating::Terminating,
};
