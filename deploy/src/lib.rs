//! What operators do with a fleet, from the command line.

pub mod login;
