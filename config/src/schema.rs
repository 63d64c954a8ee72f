//! What a JSON Schema says about a model: its version, its places, its secrets, and whether values fit.
//!
//! Works on schemas as `schemars` writes them for serde's types. Pure: no I/O, and no message shows a value.

mod bounds;
mod faults;
mod place;
mod secrets;
mod shape;
mod text;
mod version;

pub use bounds::Bounds;
pub use faults::{Extent, Fault, FaultKind, faults};
pub use place::{Place, Step, json_type};
pub(crate) use secrets::{mark_secret, secrets};
pub(crate) use shape::{Leads, Shape};
pub(crate) use text::Text;
pub use version::version;
