//! fleet-daemon
