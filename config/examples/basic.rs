//! Settings from the environment and a file, and what a person reads when something is missing.
//!
//! ```sh
//! cargo run -p harmony-config --example basic                          # names everything that is missing
//! HARMONY_CONFIG_Greeting__NAME=Ada cargo run -p harmony-config --example basic
//! cargo run -p harmony-config --example basic -- template > /tmp/Greeting.toml     # a file to fill in
//! HARMONY_CONFIG_FOLDER=/tmp cargo run -p harmony-config --example basic
//! ```

#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use harmony_config::{Config, ConfigError, ConfigManager, Environment, File, chain::TemplateFormat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whom to greet, and how.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Greeting {
    /// Who is greeted.
    name: String,
    /// How often.
    #[serde(default = "once")]
    #[schemars(range(min = 1, max = 10))]
    times: u8,
}

fn once() -> u8 {
    1
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
    let folder = std::env::var_os("HARMONY_CONFIG_FOLDER").unwrap_or_else(|| ".".into());
    let settings = ConfigManager::builder().source(Environment::new()).source(File::folder(folder)).build();
    if std::env::args().nth(1).as_deref() == Some("template") {
        print!("{}", settings.template::<Greeting>(TemplateFormat::Toml)?);
        return Ok(());
    }
    let greeting: Greeting = settings.get().await?;
    for _ in 0..greeting.times {
        println!("Hello, {}!", greeting.name);
    }
    println!("\n{}", settings.explain::<Greeting>().await?);
    Ok(())
}
