//! The first run asks, the second is silent: what a person answers is kept in the database of this user.
//!
//! ```sh
//! cargo run -p harmony-config --example prompting                      # asks, and keeps the answers
//! cargo run -p harmony-config --example prompting                      # is silent
//! HARMONY_CONFIG_SwitchLogin__HOST=other cargo run -p harmony-config --example prompting    # the environment wins
//! rm -r ~/.local/share/harmony/config                                  # and it asks again
//! ```

#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use harmony_config::{Config, ConfigError, ConfigManager, Secret, Terminal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How to log in to a switch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct SwitchLogin {
    /// Name or address of the switch.
    host: String,
    /// What it asks for.
    password: Secret<String>,
    /// Port of its management interface.
    port: u16,
    /// Whether its certificate is checked.
    #[serde(default = "yes")]
    verify: bool,
}

fn yes() -> bool {
    true
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), ConfigError> {
    let settings = ConfigManager::of_this_user("prompting")?.prompter(Terminal).build();
    let login: SwitchLogin = settings.get_or_prompt().await?;
    // `Debug` of a secret shows none.
    println!("{login:?}");
    Ok(())
}
