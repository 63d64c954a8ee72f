//! `fleet device show`

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::{
    Named, look,
    rows::{Device, State},
};
use crate::{
    cluster::Cluster,
    error::FleetError,
    output::{self, Colour, age, json, note, plain, print, yaml},
};

/// `fleet device show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    device: Named,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    output: ShowFormat,
}

/// Formats of `fleet device show`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ShowFormat {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Does it.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn run(cluster: &Cluster, args: ShowArgs) -> Result<(), FleetError> {
    let (device, view) = look::one(cluster, &args.device.name).await?;
    print(&match args.output {
        ShowFormat::Text => text(&device, Timestamp::now(), output::coloured()),
        ShowFormat::Json => json(&device)?,
        ShowFormat::Yaml => yaml(&device)?,
    })?;
    for hidden in &view.hidden {
        note(&format!("not shown: {hidden}"));
    }
    Ok(())
}

/// A device for people.
pub fn text(device: &Device, now: Timestamp, coloured: bool) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{what:<17}{value}");
        }
    };
    let (words, colour) =
        device.state.map_or(("", Colour::Grey), |state| (State::words(state), State::colour(state)));
    let ago = |time: Timestamp| format!("{time} ({} ago)", age(time, now));
    line("Name", Some(device.name.clone()));
    line("State", Some(colour.paint(words, coloured)));
    line("Reason", Some(plain(&device.reason)).filter(|reason| !reason.is_empty()));
    line("Next", Some(plain(&device.next)).filter(|next| !next.is_empty()));
    line("Since", device.created.map(ago));
    line("Last seen", device.last_seen.map(ago));
    line("Revoked", device.revoked.map(ago));
    line("Agent", device.agent.as_deref().map(plain));
    line("Fingerprint", device.fingerprint.clone());
    line("Identity key", device.identity_key.clone());
    line("Curve key", device.curve_key.clone());
    line("Fleet's key", device.key_version.map(|version| format!("version {version} used last")));
    line("Retired keys", Some(device.retired_keys).filter(|keys| *keys > 0).map(|keys| keys.to_string()));
    line("Subject", device.subject.as_deref().map(plain));
    let mut labels = device.labels.iter();
    line("Labels", labels.next().map(|(key, value)| format!("{key}={value}")));
    for (key, value) in labels {
        line("", Some(format!("{key}={value}")));
    }
    for invitation in &device.invitations {
        let until = if invitation.expires > now {
            format!("expires in {}", age(now, invitation.expires))
        } else {
            format!("expired {} ago", age(invitation.expires, now))
        };
        line("Invitation", Some(format!("{} ({until})", invitation.token)));
    }
    for request in &device.requests {
        line(
            "Request",
            Some(format!("{} {:?} {}", plain(&request.request), request.decision, request.fingerprint)),
        );
    }
    for note in &device.notes {
        line("Note", Some(plain(note)));
    }
    text
}
