//! What operators do with a fleet, from the command line.
//!
//! The command talks to the API server, with the user's own kubeconfig and rights, and for a login to the
//! identity provider: never to NATS, and with no rights of its own. Its decisions are pure functions beside
//! the reads and writes, so that a harness
//! can invite devices and make keys through the same code.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | arguments, and which module they belong to |
//! | [`device`] | invite, list, show, approve, rotate, revoke |
//! | [`keys`] | the fleet's own keys, and the static ones of NATS |
//! | [`person`], [`login`] | the session of the person at the identity provider |
//! | [`info`] | the ConfigMap `fleet-info` |
//! | [`cluster`] | reads and writes at the API server |
//! | [`error`] | errors with a next step and an exit code |
//! | [`output`], [`ask`], [`private_file`] | terminal and files |

pub mod ask;
pub mod cli;
pub mod cluster;
pub mod device;
pub mod error;
pub mod info;
pub mod keys;
pub mod login;
pub mod output;
pub mod person;
pub mod private_file;
