//! A service whose settings change while it runs: environment, file, signed updates, database, last known good.
//!
//! ```sh
//! cargo run -p harmony-config --example service -- set name '"Corner shop"'     # kept in ./service/state
//! cargo run -p harmony-config --example service &                               # on 127.0.0.1:8080
//! curl -s localhost:8080/config
//! cargo run -p harmony-config --example service -- set discount 20              # by another process
//! curl -s localhost:8080/config                                                 # without a restart
//! curl -s localhost:8080/readyz; curl -s localhost:8080/metrics
//! ```
//!
//! `FOLDER` has files (`Shop.toml`), the last update that somebody delivered (`update.json`) and `state`; `LISTEN` is
//! the address; `TRUSTED` has the public keys, separated by commas, whose updates count.

#![allow(clippy::print_stdout)]

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use harmony_config::{
    Config, ConfigManager, Environment, File, Handle, Health, Model, Secret,
    health::Status,
    source::{put, value_at},
    updates::{FileFeed, PublicKey},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// Whose settings these are in the database, and for whom updates have to be.
const SERVICE: &str = "shop";
/// How long requests that are under way may take when the service ends.
const GRACE: Duration = Duration::from_secs(5);

/// A shop.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Shop {
    /// What stands above its door.
    name: String,
    /// In percent.
    #[serde(default)]
    #[schemars(range(max = 100))]
    discount: u8,
    /// With what it pays.
    #[serde(default)]
    token: Secret<String>,
}

/// What requests see.
#[derive(Debug)]
struct Service {
    settings: ConfigManager,
    shop: Handle<Shop>,
    model: Model,
    metrics: Registry,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::var_os("FOLDER").unwrap_or_else(|| "service".into()));
    let trusted = std::env::var("TRUSTED").unwrap_or_default();
    let trusted = trusted.split(',').filter(|key| !key.is_empty()).map(str::parse::<PublicKey>);
    let trusted = trusted.collect::<Result<Vec<_>, _>>()?;

    // What wins stands first.
    let model = Model::of::<Shop>()?;
    let state = folder.join("state");
    let (chain, updates) = ConfigManager::builder()
        .source(Environment::new())
        .source(File::folder(&folder))
        .updates_in(&state, SERVICE, trusted, vec![model.clone()])?;
    let settings = chain.database_in(&state, SERVICE)?.look_again(Duration::from_secs(1)).build();

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {}
        ["set", field, value] => {
            settings.register::<Shop>()?;
            let written =
                settings.set_field("Shop", &field.split('.').collect(), serde_json::from_str(value)?).await?;
            println!("kept in {}", written.source);
            return Ok(());
        }
        _ => return Err("usage: service [set FIELD JSON]".into()),
    }

    settings.require_all().of::<Shop>().check().await?;
    let shop = settings.handle::<Shop>().await?;
    // The delivery ends with the process: a feed may be dropped at any time.
    tokio::spawn(FileFeed::new(folder.join("update.json")).run(updates));
    let mut metrics = Registry::default();
    settings.metrics().register(&mut metrics);
    serve(Arc::new(Service { settings, shop, model, metrics })).await
}

async fn serve(service: Arc<Service>) -> Result<(), Box<dyn Error>> {
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = tokio::net::TcpListener::bind(address.parse::<SocketAddr>()?).await?;
    println!("listening on {}", listener.local_addr()?);
    let routes = Router::new()
        .route("/config", get(config))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(service);

    let (ending, mut ended) = tokio::sync::watch::channel(false);
    let mut terminated = signal(SignalKind::terminate())?;
    let served = axum::serve(listener, routes).with_graceful_shutdown(async move {
        terminated.recv().await;
        ending.send_replace(true);
    });
    tokio::select! {
        served = served => served?,
        () = async {
            let _ = ended.wait_for(|ending| *ending).await;
            tokio::time::sleep(GRACE).await;
        } => println!("requests that were under way were cut off after {GRACE:?}"),
    }
    println!("ended");
    Ok(())
}

/// What is in effect, without secrets.
async fn config(State(service): State<Arc<Service>>) -> Result<Json<Value>, StatusCode> {
    let values = serde_json::to_value(&*service.shop.current());
    let Ok(Value::Object(mut values)) = values else { return Err(StatusCode::INTERNAL_SERVER_ERROR) };
    for place in &service.model.secrets {
        if value_at(&values, place).is_some() {
            put(&mut values, place, json!("[secret]"));
        }
    }
    Ok(Json(Value::Object(values)))
}

/// Whether there are good values; and all that a person wants to know of them. With last known good ones it is ready.
async fn ready(State(service): State<Arc<Service>>) -> (StatusCode, Json<Health>) {
    let health = service.settings.health();
    let code = match health.status {
        Status::Failing => StatusCode::SERVICE_UNAVAILABLE,
        Status::Ok | Status::Degraded => StatusCode::OK,
    };
    (code, Json(health))
}

async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &service.metrics) {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string())
        }
    }
}
