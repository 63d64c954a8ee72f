//! The typed state machine: states, edges that the compiler checks, and the loop that drives it.
//!
//! ```text
//!              ┌──────────┐  cannot be done here  ┌─────────┐
//!   new pod ──►│ Admitting├──────────────────────►│ Refused │
//!              └────┬─────┘◄──────────────────────┴────┬────┘
//!                   ▼          the bundle changed      │
//!              ┌──────────┐                            │
//!              │ Preparing│ volumes                    │
//!              └────┬─────┘                            │
//!                   ▼                                  │
//!              ┌──────────┐  sandbox gone  ┌─────────┐ │
//!              │Sandboxing│◄───────────────┤ Running │ │ containers converge
//!              └────┬─────┘───────────────►└────┬────┘ │
//!                   │                           │      │
//!                   ▼    deleted, removed,      ▼      ▼
//!   (from all) ─► ┌───────────┐  deadline or done
//!                 │Terminating│ signal, grace, kill
//!                 └─────┬─────┘
//!                       ▼
//!                 ┌──────────┐   deleted after it was done
//!                 │ Cleaning │◄────────────────┐
//!                 └─────┬────┘                 │
//!                       ▼                      │
//!                 ┌──────────┐─────────────────┘
//!                 │ Finished ├──► forgotten, when the pod is no longer in the desired set
//!                 └──────────┘
//! ```
//!
//! A state is a type; [`Transition::next`] accepts only a successor that the state declares with
//! [`TransitionTo`]:
//!
//! ```compile_fail
//! use device_kubelet::pods::{machine::Transition, states::{Finished, Running}};
//! // A finished pod never runs again.
//! let _ = Transition::next(Finished, Running);
//! ```
//!
//! [`State::next`] does the work until the state is left; [`State::status`] is a pure function. A future of `next`
//! may be dropped at any await (the agent stops, the pod is deleted): whatever it had begun is found at the
//! runtime. The phase is written down, and decides where a restarted agent takes up the thread.

use std::future::Future;

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::PodStatus;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    context::PodContext,
    states::{Admitting, Cleaning, Finished, Terminating},
    status::{View, pod_status},
};

/// Where a pod is, as it is written down and shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// May it run here?
    #[default]
    Admitting,
    /// It may not.
    Refused,
    /// Volumes are set up.
    Preparing,
    /// The sandbox is made.
    Sandboxing,
    /// Containers are started, watched, started again.
    Running,
    /// Containers are stopped.
    Terminating,
    /// What it leaves behind is removed.
    Cleaning,
    /// It is over.
    Finished,
}

impl Phase {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admitting => "admitting",
            Self::Refused => "refused",
            Self::Preparing => "preparing",
            Self::Sandboxing => "sandboxing",
            Self::Running => "running",
            Self::Terminating => "terminating",
            Self::Cleaning => "cleaning",
            Self::Finished => "finished",
        }
    }

    /// Nothing is started any more.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::Terminating | Self::Cleaning | Self::Finished)
    }

    /// Nothing runs any more.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Cleaning | Self::Finished)
    }
}

/// A state of a pod.
pub trait State: Sized + Send + 'static {
    /// Its name.
    const PHASE: Phase;

    /// Works until the state is left. When `stop` is cancelled the agent ends: return [`Transition::stop`].
    fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> impl Future<Output = Transition> + Send;

    /// What is told of a pod in this state. Pure.
    fn status(view: &View<'_>) -> PodStatus {
        pod_status(view)
    }
}

/// Declares that `S` may follow.
pub trait TransitionTo<S: State>: State {}

/// How a state was left.
pub struct Transition(Outcome);

enum Outcome {
    Next(Box<dyn AnyState>),
    Forgotten,
    Stopped,
}

impl Transition {
    /// Into another state.
    pub fn next<F: TransitionTo<T>, T: State>(_from: F, to: T) -> Self {
        Self(Outcome::Next(Box::new(to)))
    }

    /// The agent stops; the pod stays as it is.
    pub fn stop() -> Self {
        Self(Outcome::Stopped)
    }

    /// Nothing is left of the pod, and nobody wants to know.
    pub fn forget(_from: Finished) -> Self {
        Self(Outcome::Forgotten)
    }
}

/// A state without its type.
trait AnyState: Send {
    fn enter(&self, pod: &mut PodContext);
    fn next<'a>(
        self: Box<Self>,
        pod: &'a mut PodContext,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Transition>;
}

impl<S: State> AnyState for S {
    fn enter(&self, pod: &mut PodContext) {
        pod.enter::<S>();
    }

    fn next<'a>(
        self: Box<Self>,
        pod: &'a mut PodContext,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Transition> {
        State::next(*self, pod, stop).boxed()
    }
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing is left of the pod.
    Forgotten,
    /// The agent stops.
    Stopped,
}

/// Runs a pod's machine to its end, from where its record says.
pub async fn drive(pod: &mut PodContext, stop: &CancellationToken) -> End {
    let mut state: Box<dyn AnyState> = match (pod.record.ending.is_some(), pod.record.phase) {
        (true, Phase::Finished) => Box::new(Finished),
        (true, Phase::Cleaning) => Box::new(Cleaning),
        (true, _) => Box::new(Terminating),
        // All others find out by themselves what is done already.
        (false, _) => Box::new(Admitting),
    };
    loop {
        state.enter(pod);
        match state.next(pod, stop).await.0 {
            Outcome::Next(next) => state = next,
            Outcome::Forgotten => return End::Forgotten,
            Outcome::Stopped => return End::Stopped,
        }
    }
}
