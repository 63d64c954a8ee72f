//! The contract of both sides of the wire, checked through the public API alone.
//!
//! | module | what it holds to its word |
//! |---|---|
//! | `names` | the grammar of every name |
//! | `subjects` | what a subject means, and what is none; permissions |
//! | `envelopes` | sealing: limits, changed bytes, moved and reflected messages |
//! | `sessions` | replay, order, epochs, key versions, hellos |
//! | `enrollment` | who becomes a member: doors, tokens, records, sealed requests |
//! | `keys` | who may say which curve keys the fleet has |
//! | `streams` | frames |
//! | `digests` | what both sides compare |
//! | `variants` | what an older side makes of a newer one's variants |
//! | `hostile_bytes` | no decoder panics, whatever comes |
//! | `golden` | today's types read and write what is in `tests/golden/` |

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod digests;
mod ends;
mod enrollment;
mod envelopes;
mod golden;
mod hostile_bytes;
mod keys;
mod names;
mod samples;
mod sessions;
mod streams;
mod subjects;
mod variants;
