//! What measuring needs beside a fleet: clocks on watches, figures of processes, and simulated devices.
//!
//! Used by the programs `fleet-bench`, which measures, and `fleet-sim`, which is a thousand devices.

pub mod machine;
pub mod process_figures;
pub mod quantiles;
pub mod sightings;
pub mod simulated;
