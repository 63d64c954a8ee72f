//! The contract between the cluster side (`vk-nats`) and a device (`device-kubelet`).
//!
//! This crate owns names, subjects, messages, sealing, digests and versions. It never does I/O, spawns
//! nothing and knows no async runtime: everything here is a function of its arguments, so both ends of
//! the wire can be tested in one process, byte by byte.
//!
//! | module | question it answers |
//! |---|---|
//! | [`name`] | is this string a device, a pod, a shard? |
//! | [`subject`] | which NATS subject carries that, and what does this subject mean? |
//! | [`message`] | what do the two sides say to each other? |
//! | [`digest`] | do both sides hold the same desired state? |
//! | [`envelope`] | how is a message sealed, and what must it repeat? |
//! | [`session`] | which messages of a device belong to its live session? |
//! | [`stream`] | how do bytes flow under a credit window? |
//! | [`keys`] | which curve keys does the fleet have, and who says so? |
//! | [`enrollment`] | which objects make a device exist? |
//! | [`permissions`] | which subjects may a device use? |

mod deflate;
pub mod digest;
pub mod enrollment;
pub mod envelope;
pub mod keys;
pub mod message;
pub mod name;
pub mod permissions;
pub mod session;
pub mod stream;
pub mod subject;
