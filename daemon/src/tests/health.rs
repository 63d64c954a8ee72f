#![allow(clippy::unwrap_used)]

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

#[test]
fn readiness_needs_every_check() {
    let health = Health::new();
    assert!(health.is_ready());
    let nats = health.check("nats");
    let podman = health.check("podman");
    assert_eq!(
        health.report(false),
        (false, "[-]nats not ready: starting\n[-]podman not ready: starting\nreadyz check failed\n".into())
    );
    nats.ready();
    podman.not_ready("the socket is gone");
    assert_eq!(
        health.report(true),
        (false, "[+]nats ok\n[-]podman not ready: the socket is gone\nreadyz check failed\n".into())
    );
    podman.ready();
    assert_eq!(health.report(false), (true, "ok".into()));
    assert_eq!(health.report(true), (true, "[+]nats ok\n[+]podman ok\nreadyz check passed\n".into()));
    nats.not_ready("lost");
    assert!(!health.is_ready());
}

async fn ask(addr: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn the_server_answers_until_the_shutdown() {
    let health = Health::new();
    let check = health.check("nats");
    let mut registry = Registry::default();
    let counter = Counter::<u64>::default();
    registry.register("reports", "Reports sent", counter.clone());
    counter.inc();
    let any = "127.0.0.1:0".parse().unwrap();
    let server = HealthServer::bind(any, health.clone(), Arc::new(registry)).await.unwrap();
    let addr = server.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(server.run(shutdown.clone()));

    assert_eq!(ask(addr, "GET /healthz").await, (200, "ok".into()));
    let (status, text) = ask(addr, "GET /readyz").await;
    assert_eq!((status, text.contains("nats not ready")), (503, true));
    check.ready();
    assert_eq!(ask(addr, "GET /readyz?verbose").await, (200, "[+]nats ok\nreadyz check passed\n".into()));
    let (status, text) = ask(addr, "GET /metrics").await;
    assert_eq!((status, text.contains("reports_total 1")), (200, true), "{text}");
    assert_eq!(ask(addr, "GET /").await.0, 404);
    assert_eq!(ask(addr, "POST /healthz").await.0, 405);

    shutdown.trigger();
    running.await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    let error = serve(addr, Health::new(), Arc::default(), Shutdown::new()).await.unwrap_err();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}
