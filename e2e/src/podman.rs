//! One Podman for each device: own storage, own network, own API service.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Signal, getrlimit};

use crate::answer::{self, Answer};
use crate::image::Image;
use crate::ledger;
use crate::netns::{Netns, Network};
use crate::process::{Identity, Process, Spec};
use crate::wait::{Look, until};

/// Where the kernel's control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The Podman of one device.
#[derive(Debug)]
pub struct Podman {
    /// `podman system service`, which the agent talks to.
    pub service: Process,
    folders: Folders,
    netns: Netns,
}

/// Where a Podman keeps its things.
#[derive(Debug, Clone)]
struct Folders {
    /// What survives a power cut: images, containers, networks, configuration.
    durable: PathBuf,
    /// What lies in memory: below `/run`, because Podman refuses a `--runroot` of more
    /// than 50 characters.
    volatile: PathBuf,
}

impl Podman {
    /// Describes the Podman of a device below its folder; starts nothing.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn new(fleet: &Path, device: &str, network: &Network, index: u8) -> Result<Self> {
        let folders = Folders {
            durable: fleet.join("devices").join(device).join("podman"),
            volatile: network.volatile().join(format!("d{index}")),
        };
        let netns = network.device(index);
        let mut args = folders.global_flags();
        let socket = format!("unix://{}", folders.socket().display());
        args.extend(["system", "service", "--time", "0", &socket].map(str::to_owned));
        let spec = Spec {
            name: format!("{device}-podman"),
            program: "podman".into(),
            args,
            env: folders.environment(),
            netns: Some(netns.clone()),
        };
        Ok(Self { service: Process::new(fleet, spec), folders, netns })
    }

    /// Starts the service and waits until it answers.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub async fn start(&self) -> Result<()> {
        self.folders.write_configuration()?;
        let socket = self.folders.socket();
        if !self.service.is_running() {
            let _ = fs::remove_file(&socket);
        }
        self.service.start().await?;
        self.service
            .ready(Duration::from_secs(30), async || {
                let socket = socket.display().to_string();
                let ping = ["--silent", "--show-error", "--max-time", "5", "--unix-socket", &socket];
                let answer =
                    answer::run("curl", ping.into_iter().chain(["http://podman/libpod/_ping"])).await?;
                Ok(if answer == "OK" { Look::Done(()) } else { Look::not_yet(answer) })
            })
            .await
    }

    /// The service's address as the agent's configuration takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("unix://{}", self.folders.socket().display())
    }

    /// Runs the `podman` command on the same storage as the service.
    ///
    /// # Errors
    /// Only when it cannot be started.
    pub async fn ask(&self, line: &str) -> Result<Answer> {
        self.ask_args(&line.split_whitespace().collect::<Vec<_>>()).await
    }

    /// As [`Podman::ask`], with arguments that may hold spaces.
    ///
    /// # Errors
    /// Only when it cannot be started.
    pub async fn ask_args(&self, args: &[&str]) -> Result<Answer> {
        let mut command = self.netns.command("podman");
        command.args(self.folders.global_flags()).args(args).envs(self.folders.environment());
        let mut answer = Answer::of(&mut command).await?;
        answer.command = format!("podman {}", args.join(" "));
        Ok(answer)
    }

    /// Runs `podman` and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with both outputs.
    pub async fn run(&self, line: &str) -> Result<String> {
        self.ask(line).await?.success()
    }

    /// Runs `podman … --format json` and parses what it printed.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub async fn json(&self, line: &str) -> Result<serde_json::Value> {
        let text = self.run(&format!("{line} --format json")).await?;
        serde_json::from_str(&text).with_context(|| format!("`podman {line}` gave no JSON"))
    }

    /// Names of the containers that run, without those that hold a pod's namespaces.
    ///
    /// # Errors
    /// When Podman fails.
    pub async fn running(&self) -> Result<Vec<String>> {
        let text = self.run("ps --filter status=running --format {{.Names}}={{.IsInfra}}").await?;
        let names = text.lines().filter_map(|line| line.strip_suffix("=false"));
        Ok(names.map(str::to_owned).collect())
    }

    /// Imports an image, unless it is there.
    ///
    /// # Errors
    /// When Podman fails.
    pub async fn import(&self, image: &Image) -> Result<()> {
        if self.ask(&format!("image exists {}", image.name)).await?.ok() {
            return Ok(());
        }
        let command = r#"CMD ["httpd", "-f", "-v", "-p", "8080", "-h", "/www"]"#;
        let archive = image.archive.display().to_string();
        let args =
            ["import", "--quiet", "--change", "ENV PATH=/bin", "--change", command, &archive, &image.name];
        self.ask_args(&args).await?.success().map(drop)
    }

    /// Ends the service and every container at once, as a power cut does. What lies
    /// on disk stays; what lies in memory (`/run`) goes.
    ///
    /// # Errors
    /// When something does not end.
    pub async fn power_cut(&self) -> Result<()> {
        self.service.kill().await?;
        power_cut(&self.folders.durable, &self.folders.volatile).await
    }
}

/// Ends all that runs on Podman roots below `durable`, and removes `volatile`.
///
/// Needs no Podman: a broken one must be removable, too. Only processes whose
/// command line names one of the folders, and their containers, are ended.
///
/// # Errors
/// When something does not end or cannot be unmounted.
pub async fn power_cut(durable: &Path, volatile: &Path) -> Result<()> {
    let monitors = processes_of(&[durable, volatile]);
    let pids: BTreeSet<i32> = monitors.iter().map(|identity| identity.pid).collect();
    let containers = children_of(&pids);
    let namespaces = named_namespaces(&containers);
    let cgroups: BTreeSet<PathBuf> = containers.iter().flat_map(|c| cgroups_of(c.pid)).collect();

    // The monitors first: they would start `podman container cleanup`.
    for identity in monitors.iter().chain(&containers) {
        identity.signal(Signal::KILL);
    }
    let mut ended: Vec<Identity> = monitors.into_iter().chain(containers).collect();
    for cgroup in &cgroups {
        let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for identity in procs.lines().filter_map(|pid| Identity::of(pid.parse().ok()?)) {
            identity.signal(Signal::KILL);
            ended.push(identity);
        }
    }
    for identity in ended {
        identity.gone(Duration::from_secs(20)).await?;
    }

    forget_containers(durable)?;
    for name in namespaces {
        answer::run("ip", ["netns", "delete", &name]).await?;
    }
    ledger::unmount_below(durable)?;
    ledger::unmount_below(volatile)?;
    for cgroup in cgroups {
        remove_cgroup(&cgroup).await?;
    }
    if volatile.exists() {
        fs::remove_dir_all(volatile).with_context(|| format!("emptying {}", volatile.display()))?;
    }
    Ok(())
}

impl Folders {
    fn socket(&self) -> PathBuf {
        self.volatile.join("podman.sock")
    }

    fn global_flags(&self) -> Vec<String> {
        let flag = |name: &str, path: PathBuf| [format!("--{name}"), path.display().to_string()];
        [
            flag("root", self.durable.join("root")),
            flag("runroot", self.volatile.join("run")),
            flag("tmpdir", self.volatile.join("tmp")),
            flag("network-config-dir", self.durable.join("network")),
            ["--storage-driver".into(), "overlay".into()],
        ]
        .concat()
    }

    /// Environment, so that no file under `/etc` needs to be written or is read.
    fn environment(&self) -> BTreeMap<String, String> {
        let path = |path: PathBuf| path.display().to_string();
        BTreeMap::from([
            ("CONTAINERS_CONF".into(), path(self.durable.join("containers.conf"))),
            ("CONTAINERS_REGISTRIES_CONF".into(), path(self.durable.join("registries.conf"))),
            ("TMPDIR".into(), path(self.volatile.join("scratch"))),
        ])
    }

    fn write_configuration(&self) -> Result<()> {
        for name in ["root", "network"] {
            fs::create_dir_all(self.durable.join(name))?;
        }
        for name in ["run", "tmp", "scratch"] {
            fs::create_dir_all(self.volatile.join(name))?;
        }
        let durable = |name: &str| self.durable.join(name);
        fs::write(durable("containers.conf"), containers_conf())
            .and_then(|()| fs::write(durable("registries.conf"), "unqualified-search-registries = []\n"))
            .with_context(|| format!("writing the configuration of Podman in {}", self.durable.display()))
    }
}

fn containers_conf() -> String {
    // Limits above one's own cannot be set without CAP_SYS_RESOURCE, and 32768 processes
    // is what Podman leaves itself.
    let limit = |resource, most: u64| getrlimit(resource).maximum.unwrap_or(most).min(most);
    let (files, processes) = (limit(Resource::Nofile, 1 << 20), limit(Resource::Nproc, 1 << 14));
    format!(
        "[containers]\n\
         default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n\
         log_driver = \"k8s-file\"\n\
         [engine]\n\
         # crun refuses a machine with both versions of control groups.\n\
         runtime = \"runc\"\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         # The default keeps all locks of the machine in one shared memory segment,\n\
         # and a device that comes back from a power cut would meet another's.\n\
         lock_type = \"file\"\n\
         [network]\n\
         network_backend = \"netavark\"\n"
    )
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Podman's own programs that were started for one of these folders.
fn processes_of(folders: &[&Path]) -> Vec<Identity> {
    let is_podmans = |pid: i32| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ["conmon", "podman", "netavark", "aardvark-dns"].contains(&name.as_str())
    };
    // With the slash, so that `…/d1` does not mean `…/d10`, too.
    let needles: Vec<Vec<u8>> =
        folders.iter().map(|folder| [folder.as_os_str().as_encoded_bytes(), b"/"].concat()).collect();
    let names_one = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        needles.iter().any(|needle| line.windows(needle.len()).any(|window| window == needle))
    };
    pids().filter(|pid| is_podmans(*pid) && names_one(*pid)).filter_map(Identity::of).collect()
}

fn children_of(parents: &BTreeSet<i32>) -> Vec<Identity> {
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    pids()
        .filter(|pid| parent(*pid).is_some_and(|parent| parents.contains(&parent)))
        .filter_map(Identity::of)
        .collect()
}

/// Removes what runc keeps in memory about containers whose bundle is below a folder.
fn forget_containers(durable: &Path) -> Result<()> {
    for entry in fs::read_dir("/run/runc").into_iter().flatten().flatten() {
        let state = fs::read(entry.path().join("state.json")).unwrap_or_default();
        let needle = [durable.as_os_str().as_encoded_bytes(), b"/"].concat();
        if state.windows(needle.len()).any(|window| window == needle) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The names under `/run/netns` that Podman gave to namespaces of these processes.
fn named_namespaces(processes: &[Identity]) -> Vec<String> {
    let file = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let used: BTreeSet<_> = processes
        .iter()
        .filter_map(|process| file(Path::new(&format!("/proc/{}/ns/net", process.pid))))
        .collect();
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter(|entry| file(&entry.path()).is_some_and(|file| used.contains(&file)))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("netns-"))
        .collect()
}

/// The control groups of a container's process, in every hierarchy.
fn cgroups_of(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let path = path.trim_start_matches('/');
            let hierarchy = match controllers.trim_start_matches("name=") {
                "" if Path::new(CGROUPS).join("unified").exists() => "unified",
                other => other,
            };
            // Never a group that is not a container's.
            path.contains("libpod").then(|| Path::new(CGROUPS).join(hierarchy).join(path))
        })
        .filter(|path| path.exists())
        .collect()
}

/// Removes a container's group, and its pod's when it was the last one.
async fn remove_cgroup(cgroup: &Path) -> Result<()> {
    until(
        format!("{} to be empty", cgroup.display()),
        Duration::from_secs(10),
        async || match fs::remove_dir(cgroup) {
            Ok(()) => Ok(Look::Done(())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Look::Done(())),
            Err(error) => Ok(Look::not_yet(error)),
        },
    )
    .await?;
    if let Some(pod) = cgroup.parent()
        && pod.components().any(|part| part.as_os_str().to_string_lossy().contains("libpod"))
    {
        let _ = fs::remove_dir(pod);
    }
    Ok(())
}
