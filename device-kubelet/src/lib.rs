//! The device side of Harmony Fleet: runs the pods that the cluster wants on this device, offline first.
//!
//! | module | question it answers |
//! |---|---|
//! | [`settings`] | how is this agent set up? |
//! | [`enroll`], [`keys`] | how does the device become a member; which keys does it have and trust? |
//! | [`link`] | is the cluster side there, and what is new? |
//! | [`pods`] | what has to happen next for each pod? |
//! | [`runtime`] | how is that done with Podman, or only in memory? |
//! | [`images`], [`volumes`], [`logs`] | is the image there; where are files; what did a container print? |
//! | [`store`], [`sealing`] | what survives a reboot, and which keys seal it? |
//! | [`node`] | what is this machine, and how is it? |
//! | [`local`] | what do people on the device see? |
//! | [`agent`] | how do these start, and how do they end? |

pub mod agent;
pub mod enroll;
pub mod images;
pub mod keys;
pub mod link;
pub mod local;
pub mod logs;
pub mod node;
pub mod pods;
pub mod runtime;
pub mod sealing;
pub mod settings;
pub mod store;
pub mod volumes;
