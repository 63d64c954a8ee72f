//! The kubelet API over real TLS on loopback: a fleet that lives in the test on one side, an HTTP client on
//! the other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "kubelet_api/fixture.rs"]
mod fixture;

use std::sync::Arc;

use fixture::{Case, Client, device, refusal};
use fleet_wire::{
    message::RefusalCode,
    stream::{Frame, LOG_WINDOW, MAX_CHUNK, MAX_LOG_STREAMS},
};
use http::StatusCode;
use vk_nats::serving_certificate::Pair;

const LOG: &str = "/containerLogs/default/web-1/web";

#[tokio::test]
async fn nobody_reads_anything_without_a_name() {
    let case = Case::start().await;
    let client = case.client(None, None).await;
    for path in ["/", "/healthz", "/pods", LOG, "/exec/default/web-1/web", "/no/such/route"] {
        let answer = client.get(path).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (StatusCode::UNAUTHORIZED, "Unauthorized"),
            "{path}"
        );
    }
    let answer = case.client(None, Some("wrong")).await.get("/pods").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_user_without_the_right_is_refused_as_a_kubelet_refuses() {
    let case = Case::start().await;
    let client = case.client(None, Some("token-of-reader")).await;
    assert_eq!(client.get("/healthz").await.status, StatusCode::OK);
    let answer = client.get(LOG).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.text, "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[proxy])");
}

#[tokio::test]
async fn a_client_certificate_names_the_user() {
    let case = Case::start().await;
    let admin = case.pki.client("admin", &["system:masters"]);
    assert_eq!(case.client(Some(admin), None).await.get("/pods").await.status, StatusCode::OK);
    let reader = case.pki.client("reader", &[]);
    assert_eq!(case.client(Some(reader), None).await.get("/pods").await.status, StatusCode::FORBIDDEN);
    // A name written by another authority counts for nothing.
    let forged = fixture::Pki::new().client("admin", &["system:masters"]);
    assert!(case.try_client(Some(forged), None).await.is_err());
}

#[tokio::test]
async fn who_comes_before_the_certificate_waits_for_it_and_a_renewal_cuts_no_connection() {
    let (case, signed) = Case::signed_later();
    let signs = |pki: &fixture::Pki| {
        let (certificate, key) = pki.server();
        signed.send_replace(Some(Arc::new(Pair { certificate: certificate.into(), key: key.into() })));
    };
    let (first, ()) = tokio::join!(case.admin(), async { signs(&case.pki) });
    assert_eq!(first.get("/healthz").await.status, StatusCode::OK);
    // The next one is of another authority, so that who believes the first one can tell them apart.
    signs(&fixture::Pki::new());
    while case.try_client(None, Some("token-of-admin")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(first.get("/healthz").await.status, StatusCode::OK, "the open connection goes on");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let case = Case::start().await;
    let client = case.admin().await;
    let table = [
        ("/containerLogs/default/nothing/web", "pod \"nothing\" does not exist"),
        ("/containerLogs/other/web-1/web", "pod \"web-1\" does not exist"),
        // It runs on another device: its port is not this one.
        ("/containerLogs/default/elsewhere/web", "pod \"elsewhere\" does not exist"),
        ("/containerLogs/default/web-1/nothing", "container \"nothing\" not found in pod \"web-1\""),
        ("/no/such/route", "404 page not found\n"),
        ("/containerLogs/default/web-1", "404 page not found\n"),
        ("//pods", "404 page not found\n"),
    ];
    for (path, text) in table {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NOT_FOUND, text), "{path}");
    }
}

#[tokio::test]
async fn routes_of_a_kubelet_that_devices_lack_say_so() {
    let case = Case::start().await;
    let client = case.admin().await;
    let table = [
        ("/exec/default/web-1/web", "/exec"),
        ("/attach/default/web-1/web", "/attach"),
        ("/portForward/default/web-1", "/portForward"),
        ("/run/default/web-1/web", "/run"),
        ("/stats/summary", "/stats"),
        ("/metrics", "/metrics"),
        ("/metrics/resource", "/metrics"),
        ("/checkpoint/default/web-1/web", "/checkpoint"),
        ("/configz", "/configz"),
        ("/logs/", "/logs"),
        ("/runningpods/", "/runningpods"),
    ];
    for (path, name) in table {
        let answer = client.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED, "{path}");
        assert_eq!(
            answer.text,
            format!("{name} is not available yet on device pi-1: /containerLogs, /healthz and /pods are")
        );
    }
    let answer = client.send("POST", LOG).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn wrong_options_are_refused_before_the_device_is_asked() {
    let case = Case::start().await;
    let client = case.admin().await;
    let table = [
        ("tailLines=-1", StatusCode::UNPROCESSABLE_ENTITY),
        ("limitBytes=0", StatusCode::UNPROCESSABLE_ENTITY),
        ("sinceSeconds=-1", StatusCode::UNPROCESSABLE_ENTITY),
        ("tailLines=ten", StatusCode::BAD_REQUEST),
        ("sinceTime=yesterday", StatusCode::BAD_REQUEST),
        ("stream=Stderr", StatusCode::BAD_REQUEST),
    ];
    for (query, status) in table {
        assert_eq!(client.get(&format!("{LOG}?{query}")).await.status, status, "{query}");
    }
}

#[tokio::test]
async fn the_pods_and_the_health_of_a_device_are_shown() {
    let case = Case::start().await;
    let client = case.admin().await;
    let pods: serde_json::Value = serde_json::from_str(&client.get("/pods").await.text).unwrap();
    assert_eq!(pods["kind"], "PodList");
    assert_eq!(pods["items"][0]["metadata"]["name"], "web-1");
    assert_eq!(pods["items"].as_array().unwrap().len(), 1);
    assert_eq!(client.get("/healthz").await.text, "ok");
    case.fleet.disconnect();
    let answer = client.get("/healthz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text.starts_with("device pi-1 is not connected"), "{}", answer.text);
}

#[tokio::test]
async fn a_log_flows_under_its_window() {
    let case = Case::start().await;
    let log: Vec<u8> = (0..3 * LOG_WINDOW).map(|index| (index % 251) as u8).collect();
    let client = case.admin().await;
    let reading = tokio::spawn(async move {
        client
            .get(&format!("{LOG}?timestamps=true&tailLines=7&sinceSeconds=60&limitBytes=99&previous=true"))
            .await
    });
    let mut opened = case.fleet.opened().await;
    assert_eq!(opened.request.pod.as_str(), "web-1");
    assert_eq!(opened.request.uid.as_ref().unwrap().as_str(), "uid-of-web-1");
    assert_eq!(opened.request.credit, LOG_WINDOW);
    assert!(opened.request.timestamps && opened.request.previous && !opened.request.follow);
    assert_eq!(opened.request.tail_lines, Some(7));
    assert_eq!(opened.request.since_seconds, Some(60));
    assert_eq!(opened.request.limit_bytes, Some(99));
    opened.answer(Ok(()));
    let (mut limit, mut next) = (LOG_WINDOW as usize, 0);
    while next < log.len() {
        if next == limit {
            limit = loop {
                if let Frame::Credit { limit: more, .. } = opened.hear().await
                    && more as usize > limit
                {
                    break more as usize;
                }
            };
        }
        let to = log.len().min(limit).min(next + MAX_CHUNK);
        opened.say(Frame::Data { offset: next as u64, bytes: log[next..to].to_vec() });
        next = to;
    }
    opened.say(Frame::End { offset: log.len() as u64, error: None });
    let answer = reading.await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.error, None);
    assert!(answer.bytes == log, "{} of {} bytes", answer.bytes.len(), log.len());
}

#[tokio::test]
async fn the_device_is_told_at_once_when_the_reader_goes_away() {
    let case = Case::start().await;
    let client = case.admin().await;
    let (seen, sees) = tokio::sync::oneshot::channel();
    let reading = tokio::spawn(async move {
        let mut body = client.open(&format!("{LOG}?follow=true")).await;
        seen.send(fixture::next_bytes(&mut body).await).unwrap();
        std::future::pending::<()>().await;
    });
    let mut opened = case.fleet.opened().await;
    opened.answer(Ok(()));
    opened.say(Frame::Data { offset: 0, bytes: b"first line\n".to_vec() });
    assert_eq!(sees.await.unwrap(), b"first line\n");
    reading.abort();
    while opened.hear().await != Frame::Cancel {}
}

#[tokio::test]
async fn a_reader_that_goes_before_the_device_answers_cancels_too() {
    let case = Case::start().await;
    let client = case.admin().await;
    let reading = tokio::spawn(async move { client.get(LOG).await });
    let mut opened = case.fleet.opened().await;
    reading.abort();
    assert_eq!(opened.hear().await, Frame::Cancel);
}

#[tokio::test]
async fn refusals_of_the_device_keep_their_words() {
    let case = Case::start().await;
    let waiting = "container \"web\" in pod \"web-1\" is waiting to start: ContainerCreating";
    let table = [
        (RefusalCode::BadRequest, StatusCode::BAD_REQUEST),
        (RefusalCode::NotFound, StatusCode::NOT_FOUND),
        (RefusalCode::Busy, StatusCode::TOO_MANY_REQUESTS),
        (RefusalCode::UnknownVerb, StatusCode::NOT_IMPLEMENTED),
        (RefusalCode::Internal, StatusCode::INTERNAL_SERVER_ERROR),
    ];
    for (code, status) in table {
        let client = case.admin().await;
        let reading = tokio::spawn(async move { client.get(LOG).await });
        case.fleet.opened().await.answer(Err(refusal(code, waiting)));
        let answer = reading.await.unwrap();
        assert_eq!((answer.status, answer.text.as_str()), (status, waiting));
    }
    case.fleet.disconnect();
    let answer = case.admin().await.get(LOG).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.text.contains("device pi-1 is not connected"), "{}", answer.text);
}

#[tokio::test]
async fn a_stream_that_fails_says_why_and_breaks_off() {
    let case = Case::start().await;
    let client = case.admin().await;
    let reading = tokio::spawn(async move { client.get(LOG).await });
    let opened = case.fleet.opened().await;
    opened.answer(Ok(()));
    opened.say(Frame::Data { offset: 0, bytes: b"half a line".to_vec() });
    opened.say(Frame::End { offset: 11, error: Some("the disk is gone".to_owned()) });
    let answer = reading.await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.text, "half a line\nlog stream of device pi-1 ended early: the disk is gone\n");
    assert!(answer.error.is_some(), "the body must not look complete");
}

#[tokio::test]
async fn a_device_serves_so_many_streams_at_once() {
    let case = Case::start().await;
    let mut open = Vec::new();
    for _ in 0..MAX_LOG_STREAMS {
        let client = case.admin().await;
        let reading = tokio::spawn(async move { (client.open(LOG).await, client) });
        let opened = case.fleet.opened().await;
        opened.answer(Ok(()));
        open.push((opened, reading.await.unwrap()));
    }
    let answer = case.admin().await.get(LOG).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.text.contains("device pi-1 already serves 16 log streams"), "{}", answer.text);
}

#[tokio::test]
async fn the_port_tells_which_device_is_meant() {
    let case = Case::start().await;
    assert!(case.admin().await.get("/pods").await.text.contains("web-1"));
    let second = fixture::free_port();
    case.ports.send_modify(|ports| {
        ports.insert(device("pi-2"), second);
    });
    let other = Client::connect(&case.pki, second, None, Some("token-of-admin")).await.unwrap();
    assert!(other.get("/pods").await.text.contains("elsewhere"));
    // The port changes hands: whoever connects now reaches the new owner.
    case.ports.send_modify(|ports| {
        ports.clear();
        ports.insert(device("pi-1"), second);
    });
    loop {
        let client = Client::connect(&case.pki, second, None, Some("token-of-admin")).await.unwrap();
        if client.get("/pods").await.text.contains("web-1") {
            break;
        }
    }
    case.wait_until_closed(case.port).await;
}

#[tokio::test]
async fn shutdown_ends_open_streams_with_a_word() {
    let case = Case::start().await;
    let client = case.admin().await;
    let reading = tokio::spawn(async move { (client.open(&format!("{LOG}?follow=true")).await, client) });
    let mut opened = case.fleet.opened().await;
    opened.answer(Ok(()));
    let (mut body, _client) = reading.await.unwrap();
    case.shutdown.trigger();
    assert_eq!(
        String::from_utf8(fixture::next_bytes(&mut body).await).unwrap(),
        "log stream of device pi-1 ended early: vk-nats is shutting down\n"
    );
    while opened.hear().await != Frame::Cancel {}
    case.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_thousand_nodes_have_a_port_each() {
    let case = Case::start().await;
    case.admin().await;
    let ports = fixture::free_ports(1000);
    let named = |index: usize| device(&format!("node-{index}"));
    case.ports.send_modify(|known| {
        known.extend(ports.iter().enumerate().map(|(index, port)| (named(index), *port)));
    });
    for index in [0, 500, 999] {
        let client = Client::connect(&case.pki, ports[index], None, Some("token-of-admin")).await.unwrap();
        let answer = client.get("/exec/default/web-1/web").await;
        assert!(answer.text.contains(&format!("on device node-{index}:")), "{}", answer.text);
    }
}
