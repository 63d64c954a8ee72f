//! The runtime without containers: the same verbs and histories as Podman's, in memory.
//!
//! For tests, and for a thousand simulated devices in one process. A container is an entry in a map; what
//! it does is read from its command line ([`program`]). A task exists only while a
//! program runs that will end by itself. Time is tokio's, so tests can pause it; ids are counted, so
//! histories are the same each time.
//!
//! A clone is another handle on the same device: an agent that restarts gets a clone and finds its
//! containers.

mod program;
mod state;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_wire::name::PodUid;
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::broadcast;

use self::{program::Step, state::State};
use super::{
    Container, ContainerId, ContainerSpec, Image, ListedImage, RegistryAuth, Result, Runtime, RuntimeError,
    RuntimeEvent, Sandbox, SandboxId, SandboxSpec,
};

/// Events that a slow reader may be behind before it is told to look at everything.
const BACKLOG: usize = 64;
/// 128 + SIGKILL.
const EXIT_KILLED: i32 = 137;

/// Which images can be pulled.
#[derive(Debug, Clone, Default)]
pub enum Registry {
    /// Every name that is asked for.
    #[default]
    Any,
    /// Only these; others are answered as by a registry that does not have them.
    Only(BTreeSet<String>),
}

/// How the simulated device behaves.
#[derive(Debug, Clone, Default)]
pub struct MemoryOptions {
    /// What can be pulled.
    pub registry: Registry,
    /// Images that are on the device from the beginning.
    pub present: BTreeSet<String>,
    /// How long a pull takes.
    pub pull_time: Duration,
    /// Write what programs say to their log files, in the CRI format.
    pub write_logs: bool,
}

/// A runtime in memory.
#[derive(Debug, Clone)]
pub struct MemoryRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: MemoryOptions,
    state: Mutex<State>,
    news: broadcast::Sender<RuntimeEvent>,
}

impl Default for MemoryRuntime {
    fn default() -> Self {
        Self::new(MemoryOptions::default())
    }
}

impl MemoryRuntime {
    /// A device on which nothing runs.
    pub fn new(options: MemoryOptions) -> Self {
        let state = State::new(&options.present);
        let (news, _) = broadcast::channel(BACKLOG);
        Self { shared: Arc::new(Shared { options, state: Mutex::new(state), news }) }
    }

    /// From now on every call fails as if the runtime were down; or, with `false`, works again, which is
    /// told as [`RuntimeEvent::Resync`]. Containers run on meanwhile.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.shared.state().unavailable = unavailable;
        if !unavailable {
            self.shared.tell(RuntimeEvent::Resync);
        }
    }

    /// The next so many lists of containers are refused.
    pub fn refuse_lists(&self, count: u32) {
        self.shared.state().lists_refused = count;
    }

    /// Ends a running container as if its program had, or the kernel for it.
    pub fn end_container(&self, id: &ContainerId, exit_code: i32, oom_killed: bool) {
        self.shared.end(id, exit_code, oom_killed);
    }

    /// As when somebody pauses a container, or has it go on: while it is paused, stopping it does nothing, and says so
    /// to nobody.
    pub fn pause_container(&self, id: &ContainerId, paused: bool) {
        self.shared.state().pause(id, paused);
    }

    /// As when the infra container of a pod dies alone: the network is down, the containers run on.
    pub fn end_sandbox(&self, id: &SandboxId) {
        let pod = self.shared.state().end_network(id);
        if let Some(pod) = pod {
            self.shared.tell(RuntimeEvent::PodChanged(pod));
        }
    }

    /// As a device that lost its power: everything that ran has ended, unseen, and the networks are down.
    pub fn power_cycle(&self) {
        self.shared.state().power_cycle();
        self.shared.tell(RuntimeEvent::Resync);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if the device can be asked.
    fn ask(&self, operation: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.unavailable {
            return Err(RuntimeError::Unavailable {
                operation: operation.to_owned(),
                message: "connection refused".to_owned(),
            });
        }
        Ok(state)
    }

    fn tell(&self, event: RuntimeEvent) {
        // Nobody listens: nobody to tell.
        let _ = self.news.send(event);
    }

    fn end(&self, id: &ContainerId, exit_code: i32, oom_killed: bool) {
        let ended = self.state().end(id, exit_code, oom_killed);
        if let Some(pod) = ended {
            self.tell(RuntimeEvent::PodChanged(pod));
        }
    }

    /// Runs a program that does something, until it or its container ends.
    async fn run(
        self: Arc<Self>,
        id: ContainerId,
        steps: Vec<Step>,
        mut ended: tokio::sync::watch::Receiver<bool>,
    ) {
        for (position, step) in steps.into_iter().enumerate() {
            self.state().at_step(&id, position);
            match step {
                Step::Echo { stderr, text } => {
                    if self.options.write_logs {
                        self.state().log(&id, stderr, &text);
                    }
                }
                Step::Sleep(duration) => {
                    tokio::select! {
                        () = tokio::time::sleep(duration) => {}
                        _ = ended.wait_for(|ended| *ended) => return,
                    }
                    if let Some(code) = self.state().asked_to_exit(&id) {
                        return self.end(&id, code, false);
                    }
                }
                // Ends by a signal only, which needs no task.
                Step::Wait => return,
                Step::Exit(code) => return self.end(&id, code, false),
            }
        }
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let (answer, mut ended) = {
            let mut state = self.ask("stop container")?;
            let running = state.running(id).filter(|_| !state.is_paused(id));
            let Some(ended) = running else { return Ok(()) };
            (state.term(id), ended)
        };
        if let Some(code) = answer {
            self.end(id, code, false);
            return Ok(());
        }
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            () = tokio::time::sleep(grace) => self.end(id, EXIT_KILLED, false),
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, id: &ContainerId) -> Result<()> {
        let Some((steps, ended)) = self.ask("start container")?.start(id)? else {
            return Ok(());
        };
        if self.options.write_logs {
            self.state().open_log(id);
        }
        if steps.first() != Some(&Step::Wait) {
            tokio::spawn(self.clone().run(id.clone(), steps, ended));
        }
        Ok(())
    }

    async fn pull(&self, image: &str) -> Result<String> {
        drop(self.ask("pull image")?);
        tokio::time::sleep(self.options.pull_time).await;
        let known = match &self.options.registry {
            Registry::Any => true,
            Registry::Only(names) => {
                names.iter().any(|name| state::image_name(name) == state::image_name(image))
            }
        };
        if known {
            return Ok(self.ask("pull image")?.pulled(image));
        }
        let name = state::image_name(image);
        let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
        Err(RuntimeError::Refused {
            operation: format!("pull image {image:?}"),
            message: format!(
                "initializing source docker://{name}: reading manifest {tag} in {repository}: manifest unknown"
            ),
        })
    }
}

fn ready<'a, T: Send + 'a>(answer: Result<T>) -> BoxFuture<'a, Result<T>> {
    futures::future::ready(answer).boxed()
}

impl Runtime for MemoryRuntime {
    fn version(&self) -> BoxFuture<'_, Result<String>> {
        ready(
            self.shared
                .ask("ask for the version")
                .map(|_| concat!("memory://", env!("CARGO_PKG_VERSION")).to_owned()),
        )
    }

    fn run_sandbox(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox>> {
        ready(self.shared.ask("create sandbox").and_then(|mut s| s.run_sandbox(spec)))
    }

    fn stop_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        ready(self.shared.ask("stop sandbox").map(|mut state| {
            for (container, pod) in state.stop_sandbox(id) {
                if state.end(&container, EXIT_KILLED, false).is_some() {
                    self.shared.tell(RuntimeEvent::PodChanged(pod));
                }
            }
        }))
    }

    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        async {
            self.stop_sandbox(id).await?;
            self.shared.ask("remove sandbox")?.remove_sandbox(id);
            Ok(())
        }
        .boxed()
    }

    fn list_sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>>> {
        ready(self.shared.ask("list sandboxes").map(|state| state.sandboxes()))
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        spec: ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId>> {
        ready(self.shared.ask("create container").and_then(|mut state| state.create(sandbox, spec)))
    }

    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        async { self.shared.start(id) }.boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<()>> {
        self.shared.stop(id, grace).boxed()
    }

    fn reopen_log<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        ready(self.shared.ask("reopen a log").and_then(|state| state.reopen_log(id)))
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        ready(self.shared.ask("remove container").map(|mut state| {
            if let Some(pod) = state.end(id, EXIT_KILLED, false) {
                self.shared.tell(RuntimeEvent::PodChanged(pod));
            }
            state.remove(id);
        }))
    }

    fn list_containers<'a>(&'a self, pod: Option<&'a PodUid>) -> BoxFuture<'a, Result<Vec<Container>>> {
        ready(self.shared.ask("list containers").and_then(|mut state| state.list(pod)))
    }

    fn image_status<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        ready(self.shared.ask("look at an image").map(|state| state.image(image)))
    }

    fn pull_image<'a>(
        &'a self,
        image: &'a str,
        _auth: Option<RegistryAuth>,
    ) -> BoxFuture<'a, Result<String>> {
        self.shared.pull(image).boxed()
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>>> {
        ready(self.shared.ask("list images").map(|state| state.images()))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let shared = self.shared.clone();
        stream::unfold((self.shared.news.subscribe(), shared), async |(mut news, shared)| {
            let event = match news.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(_)) => RuntimeEvent::Resync,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, (news, shared)))
        })
        .boxed()
    }
}
