//! The end-to-end harness: a whole fleet on one machine, made of the real servers.
//!
//! A [`fleet::Fleet`] is a Kubernetes control plane, a nats-server, `vk-nats` and
//! any number of devices, each with its own Podman. Scenarios in `tests/` and the
//! `fleet-demo` program use the same code.
//!
//! ```text
//!  root namespace                 cluster namespace hf-<id>-c
//!  kubectl, curl ──veth── br0 10.213.N.1 ── etcd, kube-apiserver, …
//!                          │  10.213.N.2 ── vk-nats      nats-server
//!                          ├──veth── hf-<id>-d0 10.213.N.128 device-kubelet, Podman
//!                          └──veth── hf-<id>-d1 10.213.N.129 device-kubelet, Podman
//! ```
//!
//! What a fleet makes is written down under its state folder before it is used:
//! processes with their start time, namespaces, Podman roots. [`ledger`] takes it
//! all away again, also when the program that made it was killed.
//!
//! Nothing here touches the machine's own settings: no file under `/etc`, no
//! sysctl, no firewall rule outside namespaces of our own.

pub mod accounts;
pub mod answer;
pub mod bench;
pub mod binaries;
pub mod callout;
pub mod clock;
pub mod control_plane;
pub mod device;
pub mod disk;
pub mod egress_proxy;
pub mod enroller;
pub mod enrollment;
pub mod fleet;
pub mod hostile;
pub mod http_meddler;
pub mod identity_provider;
pub mod image;
pub mod issuers;
pub mod jwt;
pub mod keys;
pub mod kubectl;
pub mod ledger;
pub mod logs;
pub mod nats;
pub mod netns;
pub mod pki;
pub mod podman;
pub mod process;
pub mod scenario;
pub mod secret_store;
pub mod service;
pub mod vk;
pub mod wait;
pub mod workload;
