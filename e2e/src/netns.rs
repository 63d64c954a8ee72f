//! The fleet's networks: one namespace for the cluster, one for each device.
//!
//! The API server refuses to talk to nodes on loopback addresses, and two devices
//! on one machine must not see each other's ports. So the cluster has a namespace
//! with a bridge, and each device one of its own behind a veth pair. The root
//! namespace hangs on the same bridge, so that `kubectl` and `curl` of an ordinary
//! shell reach the API server and a device's published ports.
//!
//! Devices stand behind a NAT in real life. Two rules inside the cluster's
//! namespace make it so here: a device reaches the NATS port (and its identity
//! provider, where there is one) and nothing else, and
//! nothing of the cluster side can open a connection to a device.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::answer::{self, Answer};
use crate::nats::PORT as NATS_PORT;

/// The folder for what lies in memory, of all fleets.
pub const VOLATILE: &str = "/run/harmony-fleet";
/// The first two bytes of every fleet's /24; the third is the fleet's number.
const PREFIX: [u8; 2] = [10, 213];
/// The last byte of the root namespace's address.
const ROOT: u8 = 126;
/// The last byte of the first device's address: devices fill the upper half.
const FIRST_DEVICE: u8 = 128;
/// How many devices with a namespace of their own one fleet can have.
pub const MAX_DEVICES: u8 = 120;

/// The name of a network namespace under `/run/netns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns(String);

impl Netns {
    /// The file that holds the namespace open.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    /// Whether it is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// A command that runs inside.
    ///
    /// With `nsenter`, because `ip netns exec` mounts another `/sys` and the
    /// program no longer finds its cgroups.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    async fn create(&self) -> Result<()> {
        ip(["netns", "add", &self.0]).await?;
        ip(["-n", &self.0, "link", "set", "lo", "up"]).await
    }

    async fn delete(&self) -> Result<()> {
        if self.exists() {
            ip(["netns", "delete", &self.0]).await?;
        }
        Ok(())
    }

    async fn iptables(&self, rule: &str) -> Result<()> {
        let mut command = self.command("iptables");
        command.arg("-w").args(rule.split(' '));
        Answer::of(&mut command).await?.success().map(drop)
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The addresses and namespaces of one fleet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    /// The fleet's id: part of every name that is visible on the machine.
    id: String,
    /// The third byte of the fleet's addresses.
    number: u8,
}

impl Network {
    /// Takes the first /24 that no address and no route of this machine uses.
    ///
    /// Call it, and [`Network::create`], under the lock of [`crate::ledger`].
    ///
    /// # Errors
    /// When all 256 are taken, or the id is longer than an interface name can be.
    pub async fn choose(id: &str) -> Result<Self> {
        if id.is_empty() || id.len() > 8 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            bail!("a fleet's id has 1 to 8 letters and digits, `{id}` does not");
        }
        let used = answer::run("ip", ["-4", "route", "show", "table", "all"]).await?;
        let [a, b] = PREFIX;
        let number = (0..=u8::MAX)
            .find(|n| !used.contains(&format!("{a}.{b}.{n}.")))
            .with_context(|| format!("every network in {a}.{b}.0.0/16 is in use"))?;
        Ok(Self { id: id.to_owned(), number })
    }

    /// The namespace of control plane, NATS server and `vk-nats`.
    #[must_use]
    pub fn cluster(&self) -> Netns {
        Netns(format!("hf-{}-c", self.id))
    }

    /// The namespace of a device.
    #[must_use]
    pub fn device(&self, index: u8) -> Netns {
        Netns(format!("hf-{}-d{index}", self.id))
    }

    /// The folder for what of the fleet lies in memory.
    #[must_use]
    pub fn volatile(&self) -> PathBuf {
        PathBuf::from(VOLATILE).join(&self.id)
    }

    /// The address of API server and NATS server.
    #[must_use]
    pub fn cluster_address(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address that replica `replica` of `vk-nats` publishes; there are 8.
    #[must_use]
    pub fn vk_address(&self, replica: u8) -> Ipv4Addr {
        self.address(2 + replica % 8)
    }

    /// The address of a device as the root namespace sees it.
    #[must_use]
    pub fn device_address(&self, index: u8) -> Ipv4Addr {
        self.address(FIRST_DEVICE + index)
    }

    /// Makes the cluster's namespace, its bridge, and the way there from the root.
    ///
    /// # Errors
    /// When `ip` or `iptables` refuse, most often because this is not root.
    pub async fn create(&self) -> Result<()> {
        let cluster = self.cluster();
        cluster.create().await.context("cannot make a network namespace (root is needed)")?;
        let (ns, root) = (&cluster.0, &self.root_interface());
        // An address of its own: a bridge without one takes the lowest of its ports' addresses, so that a device
        // that comes or goes may change it, and everybody's neighbour entry for the cluster is stale for seconds.
        ip(["-n", ns, "link", "add", "br0", "address", "02:00:00:00:00:01", "type", "bridge"]).await?;
        ip(["-n", ns, "link", "set", "br0", "up"]).await?;
        self.add_address("br0", self.cluster_address()).await?;
        for replica in 0..8 {
            self.add_address("br0", self.vk_address(replica)).await?;
        }

        ip(["link", "add", root, "type", "veth", "peer", "name", "root", "netns", ns]).await?;
        ip(["-n", ns, "link", "set", "root", "master", "br0", "up"]).await?;
        ip(["addr", "add", &format!("{}/24", self.address(ROOT)), "dev", root]).await?;
        ip(["link", "set", root, "up"]).await?;

        let devices = format!("{}/25", self.address(FIRST_DEVICE));
        for rule in [
            "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT".to_owned(),
            format!("-A INPUT -s {devices} -p tcp --dport {NATS_PORT} -j ACCEPT"),
            format!("-A INPUT -s {devices} -j REJECT"),
            format!("-A OUTPUT -d {devices} -m conntrack --ctstate NEW -j REJECT"),
        ] {
            cluster.iptables(&rule).await?;
        }
        Ok(())
    }

    /// Makes the namespace of a device and plugs it into the bridge.
    ///
    /// # Errors
    /// When `ip` refuses, or there are too many devices.
    pub async fn add_device(&self, index: u8) -> Result<()> {
        if index >= MAX_DEVICES {
            bail!("a fleet has at most {MAX_DEVICES} devices with a namespace of their own");
        }
        let (cluster, device) = (self.cluster(), self.device(index));
        device.create().await?;
        let (ns, port) = (&device.0, &format!("d{index}"));
        // A device keeps its hardware address when it is switched off and on.
        let hardware = format!("02:48:46:00:{:02x}:{index:02x}", self.number);
        let peer = ["type", "veth", "peer", "name", "eth0", "address", &hardware, "netns", ns];
        let link = ["-n", &cluster.0, "link", "add", port];
        ip(link.into_iter().chain(peer)).await?;
        ip(["-n", &cluster.0, "link", "set", port, "master", "br0", "up"]).await?;
        let address = format!("{}/24", self.device_address(index));
        ip(["-n", ns, "addr", "add", &address, "dev", "eth0"]).await?;
        ip(["-n", ns, "link", "set", "eth0", "up"]).await?;
        // Programs find "the" address of a machine by its default route.
        let gateway = self.cluster_address().to_string();
        ip(["-n", ns, "route", "add", "default", "via", &gateway]).await
    }

    /// Lets devices reach one more port of the cluster's namespace, for what stands in the internet in real life.
    ///
    /// # Errors
    /// When `iptables` refuses.
    pub async fn let_devices_reach(&self, port: u16) -> Result<()> {
        let devices = format!("{}/25", self.address(FIRST_DEVICE));
        // Before what refuses them everything else.
        let rule = format!("-I INPUT 1 -s {devices} -p tcp --dport {port} -j ACCEPT");
        self.cluster().iptables(&rule).await
    }

    /// Pulls or plugs the cable of a device; its programs keep running.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub async fn plug(&self, index: u8, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        ip(["-n", &self.cluster().0, "link", "set", &format!("d{index}"), state]).await
    }

    /// Removes a device's namespace; nothing happens when it is not there.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub async fn remove_device(&self, index: u8) -> Result<()> {
        if !self.device(index).exists() {
            return Ok(());
        }
        // The kernel takes a deleted namespace apart later, but a pair at once.
        if self.cluster().exists() {
            let mut link = Command::new("ip");
            link.args(["-n", &self.cluster().0, "link", "delete", &format!("d{index}")]);
            Answer::of(&mut link).await?;
        }
        self.device(index).delete().await
    }

    /// Removes everything that [`Network::create`] and [`Network::add_device`] made.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub async fn remove(&self) -> Result<()> {
        for index in 0..MAX_DEVICES {
            self.remove_device(index).await?;
        }
        // One end of a pair takes the other along, but only once the last process
        // in the namespace has ended: so the end on our side goes first.
        let root = self.root_interface();
        if PathBuf::from("/sys/class/net").join(&root).exists() {
            ip(["link", "delete", &root]).await?;
        }
        self.cluster().delete().await
    }

    async fn add_address(&self, interface: &str, address: Ipv4Addr) -> Result<()> {
        let address = format!("{address}/24");
        ip(["-n", &self.cluster().0, "addr", "add", &address, "dev", interface]).await
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(PREFIX[0], PREFIX[1], self.number, last)
    }

    fn root_interface(&self) -> String {
        format!("hf{}", self.id)
    }
}

async fn ip<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<()> {
    answer::run("ip", args).await.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_and_interface_names_stay_in_their_bounds() {
        let network = Network { id: "abcdefgh".into(), number: 7 };
        assert!(network.root_interface().len() <= 15);
        assert_eq!(network.cluster_address().to_string(), "10.213.7.1");
        assert_eq!(network.vk_address(7).to_string(), "10.213.7.9");
        assert_eq!(network.device_address(MAX_DEVICES - 1).to_string(), "10.213.7.247");
    }

    #[tokio::test]
    async fn an_id_that_is_no_part_of_a_name_is_refused() {
        for id in ["", "too-long-for-it", "a/b"] {
            assert!(Network::choose(id).await.is_err(), "{id}");
        }
    }
}
