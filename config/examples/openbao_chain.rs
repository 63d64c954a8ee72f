//! Settings from the environment, then a file, then OpenBao: the first that has a field wins it.
//!
//! ```sh
//! export OPENBAO_URL=https://bao.example.com:8200                # or in a file, see below
//! export OPENBAO_ROLE_ID=… OPENBAO_SECRET_ID=…                   # or another login
//! alias chain='cargo run -p harmony-config --features openbao --example openbao_chain --'
//! chain set https://switch.example.com ann < password-file
//! chain
//! HARMONY_CONFIG_SwitchAccess__USER=bob chain                    # the environment wins
//! ```
//!
//! `$OPENBAO_SETTINGS` names a file with the store's own settings, `$HARMONY_CONFIG_FOLDER` the folder in which
//! `SwitchAccess.toml` may be. With a person's login (`OPENBAO_AUTH=oidc`) begin with `login`. `set` reads the password
//! from standard input, so that it is in no list of processes.
//!
//! While the store is away, the program goes on with what environment and file have, and names what is missing. With
//! `$HARMONY_CONFIG_STATE`, a folder, it keeps what the store last gave there, sealed, and goes on with that.

#![allow(clippy::print_stdout)]

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use harmony_config::{
    Config, ConfigManager, Environment, File, Secret, Store as _, StoreSource,
    keyring::Keyring,
    last_known_good::LastKnownGood,
    openbao::{OpenBao, OpenBaoSettings, Verification},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How to reach a switch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct SwitchAccess {
    /// URL of its management interface.
    url: String,
    /// The account.
    user: String,
    /// The account's password.
    password: Secret<String>,
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

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::var_os("OPENBAO_SETTINGS").map(PathBuf::from);
    let store = Arc::new(OpenBao::new(&OpenBaoSettings::load(file.as_deref())?)?);
    let folder = std::env::var_os("HARMONY_CONFIG_FOLDER").unwrap_or_else(|| ".".into());
    let mut chain = ConfigManager::builder()
        .source(Environment::new())
        .source(File::folder(folder))
        .source(StoreSource::new(store.clone(), store.prefix().clone()));
    if let Some(state) = std::env::var_os("HARMONY_CONFIG_STATE").map(PathBuf::from) {
        // What the store last gave, sealed, for the time when it is away.
        let keyring = Keyring::open(&state.join("keys"))?;
        let last_good = LastKnownGood::open(&state.join("config.lkg.json"), keyring)?;
        chain = chain.last_known_good(last_good.for_owner("openbao_chain"));
    }
    let settings = chain.build();

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            println!("store: {:?}", store.health().await.state);
            let access: SwitchAccess = settings.get().await?;
            println!("{} as {}, password {:?}", access.url, access.user, access.password);
            // Only what needs it sees it.
            println!("password has {} characters", access.password.expose().chars().count());
            println!("\n{}", settings.explain::<SwitchAccess>().await?);
        }
        ["set", url, user] => {
            let mut password = String::new();
            std::io::stdin().read_line(&mut password)?;
            let password = Secret::new(password.trim_end_matches('\n').to_owned());
            let access = SwitchAccess { url: (*url).to_owned(), user: (*user).to_owned(), password };
            settings.set(&access).await?;
            println!("kept");
        }
        ["login"] => {
            let mut show = |verification: &Verification| {
                println!("Open {} and enter {}", verification.uri, verification.code);
            };
            let who = store.log_in(&mut show).await?;
            println!("{} with the roles {:?}", who.subject.as_deref().unwrap_or("somebody"), who.roles);
        }
        _ => return Err("usage: openbao_chain [set URL USER | login]".into()),
    }
    Ok(())
}
