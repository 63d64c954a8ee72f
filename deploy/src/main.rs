//! `fleet`: the operator's command, also as a plugin of kubectl.

use std::process::ExitCode;

use fleet::cli::Command;

fn main() -> ExitCode {
    let command = Command::from_process();
    fleet_daemon::install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("fleet: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(command.run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error}");
            if let Some(next) = error.next() {
                eprintln!("next: {next}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
