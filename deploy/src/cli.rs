//! The arguments of `fleet`, and where they lead.

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    cluster::{Cluster, Namespaces},
    device,
    error::FleetError,
    keys, output, person,
};

/// Enrolls devices into a fleet, shows them, and throws them out. Uses your kubeconfig and your rights.
#[derive(Debug, Parser)]
#[command(
    name = "fleet",
    version,
    after_help = "Examples:
  fleet device enroll pi-7 -l site=hall-3
  fleet device list
  fleet device show pi-7
  fleet device revoke pi-7

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused or in conflict.
As kubectl-fleet on the PATH it is `kubectl fleet`."
)]
pub struct Command {
    /// Kubeconfig [default: KUBECONFIG, ~/.kube/config].
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    context: Option<String>,
    #[command(flatten)]
    namespaces: Namespaces,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Devices: enroll, list, show, approve, deny, rotate, revoke, undelete.
    #[command(subcommand, visible_alias = "devices")]
    Device(device::Verb),
    /// The fleet's own keys: init, rotate, drop, show; nats-init, nats-rotate.
    #[command(subcommand)]
    Keys(keys::verbs::Verb),
    /// Logs you in at the fleet's identity provider, by a code that you confirm in a browser anywhere.
    #[command(
        after_help = "Examples:\n  fleet login --issuer https://id.example --client-id fleet\n  fleet login"
    )]
    Login(person::LoginArgs),
    /// Forgets your login on this machine.
    Logout,
    /// Says as whom you are logged in, and with which roles.
    #[command(after_help = "Examples:\n  fleet whoami\n  fleet whoami -o json")]
    Whoami(person::WhoamiArgs),
    /// Prints a completion script for a shell.
    #[command(after_help = "Examples:\n  source <(fleet completion bash)\n  fleet completion zsh > \
                            ~/.zfunc/_fleet\n  fleet completion fish > ~/.config/fish/completions/fleet.fish")]
    #[command(alias = "completions")]
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Prints the version.
    Version,
}

/// Shells with completion.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    /// Bash.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
}

impl Command {
    /// The arguments of this process; as a plugin it calls itself `kubectl fleet`.
    pub fn from_process() -> Self {
        let plugin = std::env::args_os()
            .next()
            .is_some_and(|path| PathBuf::from(path).file_name().is_some_and(|name| name == "kubectl-fleet"));
        let mut command = Self::command();
        if plugin {
            command = command.bin_name("kubectl fleet").display_name("kubectl fleet");
        }
        <Self as clap::FromArgMatches>::from_arg_matches(&command.get_matches())
            .unwrap_or_else(|error| error.exit())
    }

    /// Does what they say.
    ///
    /// # Errors
    /// [`FleetError`], with an exit code and a next step.
    pub async fn run(self) -> Result<(), FleetError> {
        let Self { kubeconfig, context, namespaces, verb } = self;
        let cluster = Cluster::connect(kubeconfig, context, namespaces);
        match verb {
            Verb::Device(verb) => device::run(&cluster.await?, verb).await,
            Verb::Keys(verb) => keys::verbs::run(&cluster.await?, verb).await,
            Verb::Login(args) => person::login(args, cluster).await,
            Verb::Logout => person::logout(),
            Verb::Whoami(args) => person::whoami(args).await,
            Verb::Version => output::print(&format!("fleet {}\n", env!("CARGO_PKG_VERSION"))),
            Verb::Completion { shell } => completion(shell),
        }
    }
}

fn completion(shell: Shell) -> Result<(), FleetError> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Command::command(), "fleet", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_contradict_nothing() {
        Command::command().debug_assert();
    }

    #[test]
    fn completions_have_one_name_and_the_other_still_works() {
        for name in ["completion", "completions"] {
            let command = Command::try_parse_from(["fleet", name, "bash"]).unwrap();
            assert!(matches!(command.verb, Verb::Completion { shell: Shell::Bash }));
        }
        assert!(!Command::command().render_long_help().to_string().contains("completions"));
    }

    #[test]
    fn every_command_on_objects_has_examples() {
        for group in ["device", "keys"] {
            let command = Command::command();
            let group = command.find_subcommand(group).unwrap();
            for verb in group.get_subcommands() {
                let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("fleet "), "{} {} has no examples", group.get_name(), verb.get_name());
            }
        }
    }
}
