//! Runs the scenarios of one test binary, one after the other, on one fleet.
//!
//! The fleet comes up for the first scenario that is not filtered out, and goes
//! when the last one has ended. A scenario that fails leaves its logs behind.
//!
//! `HARMONY_KEEP=1` leaves the fleet up at the end, until the next run prunes it.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

use crate::fleet::{Fleet, FleetOptions};
use crate::logs;

/// One scenario: a name, and what is done with the fleet.
pub type Scenario = (&'static str, for<'a> fn(&'a Fleet) -> LocalBoxFuture<'a, Result<()>>);

/// No scenario may hang the test run.
const DEADLINE: Duration = Duration::from_secs(300);

/// The `main` of a test binary: `scenarios!(options; first, second)`, where each is
/// an `async fn(&Fleet) -> anyhow::Result<()>`.
#[macro_export]
macro_rules! scenarios {
    ($options:expr; $($scenario:ident),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            let scenarios: Vec<$crate::scenario::Scenario> =
                vec![$((stringify!($scenario), |fleet| Box::pin($scenario(fleet)))),+];
            $crate::scenario::run(|| $options, scenarios)
        }
    };
}

struct Stage {
    runtime: Runtime,
    options: fn() -> FleetOptions,
    fleet: OnceLock<Result<Fleet, String>>,
}

/// Runs scenarios with the arguments of `cargo test`.
#[must_use]
pub fn run(options: fn() -> FleetOptions, scenarios: Vec<Scenario>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "e2e=info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let stage = Arc::new(Stage { runtime, options, fleet: OnceLock::new() });

    let mut arguments = Arguments::from_args();
    // Scenarios share the fleet: one pulls the cable that another one needs.
    arguments.test_threads = Some(1);
    let trials = scenarios
        .into_iter()
        .map(|scenario| {
            let stage = Arc::clone(&stage);
            Trial::test(scenario.0, move || stage.play(scenario).map_err(|e| Failed::from(format!("{e:#}"))))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);

    if let Err(error) = Arc::into_inner(stage).map_or(Ok(()), Stage::end) {
        return fail(&error);
    }
    conclusion.exit_code()
}

impl Stage {
    fn play(&self, (name, scenario): Scenario) -> Result<()> {
        let fleet = self.fleet.get_or_init(|| {
            let up = Fleet::up((self.options)());
            self.runtime.block_on(up).map_err(|error| format!("{error:#}"))
        });
        let fleet = fleet.as_ref().map_err(|error| anyhow!("{error}"))?;
        let result = self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, scenario(fleet))
                .await
                .with_context(|| format!("{name} did not end within {} s", DEADLINE.as_secs()))?
        });
        if let Err(error) = result {
            let error = with_logs(error, fleet, name);
            // The next scenario is to fail for its own reasons only.
            if let Err(left) = self.runtime.block_on(fleet.clear()) {
                tracing::warn!("what {name} left could not be removed: {left:#}");
            }
            return Err(error);
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        let Some(Ok(fleet)) = self.fleet.into_inner() else { return Ok(()) };
        if std::env::var_os("HARMONY_KEEP").is_some() {
            fleet.keep();
            tracing::info!("the fleet stays up: export KUBECONFIG={}", fleet.kubectl.kubeconfig().display());
            return Ok(());
        }
        self.runtime.block_on(fleet.down())
    }
}

fn with_logs(error: anyhow::Error, fleet: &Fleet, scenario: &str) -> anyhow::Error {
    let binary = std::env::args_os().next().unwrap_or_default();
    let binary = Path::new(&binary).file_stem().unwrap_or_default().to_owned();
    let kept =
        logs::folder().and_then(|base| logs::collect(fleet.folder(), &base.join(binary).join(scenario)));
    let place = match kept {
        Ok(folder) => format!("all logs are in {}", folder.display()),
        Err(error) => format!("the logs could not be kept: {error:#}"),
    };
    anyhow!("{error:#}\n\n{}\n{place}", logs::tails(fleet.folder(), 30))
}

#[expect(clippy::print_stderr, reason = "the closing words of a test program")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
