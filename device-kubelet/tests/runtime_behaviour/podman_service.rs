//! A Podman service of the test's own: own storage, own network namespace, own configuration, so that neither the
//! machine's Podman nor a test beside this one is disturbed. Torn down when dropped; what a killed
//! run left behind is torn down by the next.

use std::{
    fs,
    net::TcpListener,
    os::{
        fd::AsFd as _,
        unix::{fs::symlink, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::device::IMAGE;

const PREFIX: &str = "fleet-runtime-test-";
/// The tools of the test image, all of them Debian's static busybox.
const TOOLS: [&str; 13] = [
    "sh", "sleep", "true", "false", "echo", "cat", "env", "id", "hostname", "httpd", "wget", "touch", "grep",
];
const CONFIG: &str = r#"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=10000:10000"]
[engine]
runtime = "runc"
[network]
network_backend = "netavark"
"#;

/// Where Podman takes plain HTTP for an answer, in the service's network namespace: for registries of a test.
pub const REGISTRIES: [&str; 7] = [
    DOCKER_HUB,
    "127.0.0.1:5001",
    "127.0.0.1:5002",
    "127.0.0.1:5003",
    "127.0.0.1:5004",
    "127.0.0.1:5005",
    "127.0.0.1:5006",
];
/// The one of them that is asked for what Docker Hub has, and for `localhost/served`.
pub const DOCKER_HUB: &str = "127.0.0.1:5000";

/// Where one service keeps what is its own.
struct Place {
    folder: PathBuf,
    netns: String,
}

impl Place {
    fn of(pid: u32) -> Self {
        Self { folder: std::env::temp_dir().join(format!("{PREFIX}{pid}")), netns: format!("{PREFIX}{pid}") }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("podman.sock")
    }

    /// `podman` on this place's storage, in its network namespace.
    fn podman(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns))
            .args(["podman", "--root"])
            .arg(self.folder.join("root"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .arg("--tmpdir")
            .arg(self.folder.join("tmp"))
            .arg("--network-config-dir")
            .arg(self.folder.join("networks"))
            .env("CONTAINERS_CONF", self.folder.join("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", self.folder.join("registries.conf"))
            .stdin(Stdio::null());
        command
    }

    /// Ends and removes all of it. Tells of nothing: half of it may never have existed.
    fn tear_down(&self) {
        if self.folder.join("root").exists() {
            let _ = self.podman().args(["pod", "rm", "--all", "--force", "--time", "0"]).output();
            let _ = self.podman().args(["rm", "--all", "--force", "--time", "0"]).output();
        }
        if let Some(pid) = fs::read_to_string(self.folder.join("service.pid")).ok().filter(|p| is_podman(p)) {
            let _ = Command::new("kill").args(["-KILL", &pid]).output();
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let inside = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let mut inside: Vec<&str> = inside.filter(|path| Path::new(path).starts_with(&self.folder)).collect();
        inside.sort_unstable();
        for path in inside.iter().rev() {
            let _ = Command::new("umount").args(["--lazy", path]).output();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.netns]).output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn registries() -> String {
    let registry = |prefix: &str, location: &str| {
        format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{location}\"\ninsecure = true\n")
    };
    let mut text: String = REGISTRIES.map(|address| registry(address, address)).concat();
    text.push_str(&registry("docker.io", DOCKER_HUB));
    text.push_str(&registry("localhost/served", &format!("{DOCKER_HUB}/served")));
    text
}

fn is_podman(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "podman")
}

/// A running service.
pub struct PodmanService {
    place: Place,
    services: Mutex<Vec<Child>>,
}

impl PodmanService {
    /// Starts it, and imports the test image.
    pub fn start() -> Self {
        require_podman();
        prune();
        let place = Place::of(std::process::id());
        place.tear_down();
        fs::create_dir_all(place.folder.join("networks")).unwrap();
        fs::write(place.folder.join("containers.conf"), CONFIG).unwrap();
        fs::write(place.folder.join("registries.conf"), registries()).unwrap();
        run(Command::new("ip").args(["netns", "add", &place.netns]));
        let inside = format!("--net=/run/netns/{}", place.netns);
        run(Command::new("nsenter").args([&inside, "ip", "link", "set", "lo", "up"]));
        let service = Self { services: Mutex::new(vec![place.serve()]), place };
        service.import_image();
        service
    }

    pub fn address(&self) -> String {
        format!("unix://{}", self.place.socket().display())
    }

    /// Where it keeps everything, its socket too.
    pub fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// What the device would run at its own prompt.
    pub fn inside(&self, command: &[&str]) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/run/netns/{}", self.place.netns)).args(command);
        inside
    }

    /// The command line on the same storage.
    pub fn podman(&self, arguments: &[&str]) -> String {
        run(self.place.podman().args(arguments))
    }

    /// Kills the service and starts it anew; containers run on.
    pub fn restart(&self, meanwhile: impl FnOnce()) {
        let pid = fs::read_to_string(self.place.folder.join("service.pid")).unwrap();
        assert!(is_podman(&pid), "{pid}");
        run(Command::new("kill").args(["-KILL", &pid]));
        while UnixStream::connect(self.place.socket()).is_ok() {
            std::thread::yield_now();
        }
        meanwhile();
        self.services.lock().unwrap().push(self.place.serve());
    }

    /// Listens in its network namespace.
    pub fn listen(&self, address: &str) -> TcpListener {
        let netns = fs::File::open(format!("/run/netns/{}", self.place.netns)).unwrap();
        // The namespace is the thread's: this one goes there, and ends.
        let inside = || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            TcpListener::bind(address).unwrap()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// An image with a layer of its own, which holds `/content`, as a folder of the OCI image layout. Podman itself does
    /// not have it.
    pub fn saved_image(&self, name: &str) -> PathBuf {
        let layer = self.place.folder.join(name);
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join("content"), format!("{name}\n")).unwrap();
        let archive = layer.join("image.tar");
        let root = self.place.folder.join("image");
        run(Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(root)
            .arg(".")
            .arg("-C")
            .arg(&layer)
            .arg("content"));
        let saved = layer.join("oci");
        let image = format!("localhost/saved/{name}");
        self.podman(&["import", archive.to_str().unwrap(), &image]);
        self.podman(&["save", "--quiet", "--format", "oci-dir", "--output", saved.to_str().unwrap(), &image]);
        self.podman(&["rmi", &image]);
        saved
    }

    fn import_image(&self) {
        let root = self.place.folder.join("image");
        fs::create_dir_all(root.join("bin")).unwrap();
        for folder in ["tmp", "proc", "sys", "dev", "etc"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for tool in TOOLS {
            symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        let archive = self.place.folder.join("image.tar");
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."));
        let archive = archive.to_str().unwrap();
        self.podman(&["import", "--change", "CMD=[\"sleep\",\"1000\"]", archive, IMAGE]);
    }
}

impl Place {
    fn serve(&self) -> Child {
        let log = fs::File::create(self.folder.join("service.log")).unwrap();
        let address = format!("unix://{}", self.socket().display());
        let child = self
            .podman()
            .args(["system", "service", "--time", "0", &address])
            // conmon leaves a file named `oom` where Podman 4.3 stands.
            .current_dir(&self.folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        // nsenter becomes podman, under the same pid.
        fs::write(self.folder.join("service.pid"), child.id().to_string()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(self.socket()).is_err() {
            let log = || fs::read_to_string(self.folder.join("service.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "Podman's service did not come up: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }
}

impl Drop for PodmanService {
    fn drop(&mut self) {
        self.place.tear_down();
        for mut service in self.services.get_mut().unwrap().drain(..) {
            let _ = service.wait();
        }
    }
}

/// Fails with what is missing; a test that silently does nothing would look like one that passed.
fn require_podman() {
    let needed = [
        ("/usr/bin/podman", "podman"),
        ("/usr/sbin/runc", "runc"),
        ("/usr/bin/conmon", "conmon"),
        ("/usr/lib/podman/netavark", "netavark"),
        ("/usr/sbin/iptables", "iptables"),
        ("/bin/busybox", "busybox-static"),
        ("/usr/bin/catatonit", "catatonit"),
    ];
    let missing: Vec<&str> =
        needed.iter().filter(|(path, _)| !Path::new(path).exists()).map(|(_, package)| *package).collect();
    assert!(
        missing.is_empty(),
        "this test needs a real Podman: apt-get install --no-install-recommends {}",
        missing.join(" ")
    );
    assert!(rustix::process::geteuid().is_root(), "this test runs pods on a real Podman, which needs root");
}

/// Removes what killed runs left.
fn prune() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            println!("removing what run {pid} left");
            Place::of(pid).tear_down();
        }
    }
}

/// Lets other cases run on meanwhile.
pub fn run(command: &mut Command) -> String {
    let output = tokio::task::block_in_place(|| command.output())
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}): {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
