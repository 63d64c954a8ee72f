//! The in-memory runtime.
