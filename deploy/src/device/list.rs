//! `fleet device list`

use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    labels, look,
    rows::{Device, State},
};
use crate::{
    cluster::Cluster,
    error::FleetError,
    output::{self, Colour, Format, Row, age, json, note, plain, print, yaml},
};

/// `fleet device list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Only devices with this label; may be repeated.
    #[arg(short = 'l', long = "selector", value_name = "KEY=VALUE", value_delimiter = ',')]
    selector: Vec<String>,
}

#[derive(Serialize)]
struct List<'a> {
    items: &'a [Device],
}

/// Does it.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn run(cluster: &Cluster, args: ListArgs) -> Result<(), FleetError> {
    let wanted = labels::selector(&args.selector)?;
    let mut view = look::all(cluster).await?;
    view.devices.retain(|device| matches(&device.labels, &wanted));
    if view.devices.is_empty() && matches!(args.output, Format::Table | Format::Wide) {
        note("no devices; `fleet device enroll NAME` invites one");
    } else {
        print(&render(&view.devices, args.output, Timestamp::now(), output::coloured())?)?;
    }
    for hidden in &view.hidden {
        note(&format!("not shown: {hidden}"));
    }
    Ok(())
}

fn matches(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The list as text.
///
/// # Errors
/// None in practice.
pub fn render(
    devices: &[Device],
    format: Format,
    now: Timestamp,
    coloured: bool,
) -> Result<String, FleetError> {
    let wide = match format {
        Format::Json => return json(&List { items: devices }),
        Format::Yaml => return yaml(&List { items: devices }),
        Format::Name => {
            return Ok(devices.iter().map(|device| format!("{}\n", device.name)).collect());
        }
        Format::Table => false,
        Format::Wide => true,
    };
    let mut header = vec!["NAME", "STATE", "AGE", "KEY FINGERPRINT", "KEY VERSION", "LAST SEEN"];
    if wide {
        header.extend(["AGENT", "LABELS", "REASON"]);
    }
    let rows: Vec<Row> = devices.iter().map(|device| row(device, wide, now)).collect();
    Ok(output::table(&header, &rows, coloured))
}

fn row(device: &Device, wide: bool, now: Timestamp) -> Row {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "<none>".to_owned());
    let since = |time: Option<Timestamp>| time.map(|time| age(time, now));
    let state = match (device.state, device.invitations.last()) {
        (Some(State::Invited), Some(invitation)) => {
            format!("Invited (expires in {})", age(now, invitation.expires))
        }
        (state, _) => state.map_or("", State::words).to_owned(),
    };
    let mut cells = vec![
        device.name.clone(),
        state,
        or_none(since(device.created)),
        or_none(device.fingerprint.clone()),
        or_none(device.key_version.map(|version| version.to_string())),
        since(device.last_seen).map_or_else(|| "<never>".to_owned(), |age| format!("{age} ago")),
    ];
    if wide {
        let labels: Vec<String> = device.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        cells.push(or_none(device.agent.as_deref().map(plain)));
        cells.push(or_none(Some(labels.join(",")).filter(|labels| !labels.is_empty())));
        cells.push(plain(&device.reason));
    }
    Row { cells, accent: (1, device.state.map_or(Colour::Grey, State::colour)) }
}
