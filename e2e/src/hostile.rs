//! A device that is up to no good: what it tries, and what becomes of it.
//!
//! It has a valid credential of its own and speaks the protocols itself, byte by byte, because libraries are
//! too well-behaved. Every attempt goes together with a control: the same done on its own subjects, which has
//! to work; otherwise a refusal would show nothing.

pub mod client;
pub mod doors;
pub mod envelopes;
pub mod floods;
pub mod logins;
pub mod member;
pub mod subjects;
pub mod table;
pub mod tokens;
