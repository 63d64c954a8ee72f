//! An actor against a device's end of the session.

mod desired;
mod incarnation;
mod membership;
mod questions;
mod report;
mod session;
mod upkeep;
