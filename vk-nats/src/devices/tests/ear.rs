//! The client's own queues, fed over a socket by just as much of a NATS server as that takes.

use std::time::Duration;

use fleet_wire::{
    name::DeviceName,
    subject::{self, UpVerb},
};
use futures::FutureExt as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use super::*;

const FLOOD: usize = 50 * QUEUE;
const INFO: &str = r#"INFO {"server_id":"t","server_name":"t","version":"2.12.0","proto":1,"go":"","host":"127.0.0.1","port":1,"headers":true,"max_payload":1048576}"#;

/// Takes one client and its two subscriptions; then sends `flood` messages under the first, and one under the
/// second. Ends with the client.
async fn server(listener: TcpListener, flooder: String, quiet: String) {
    let (socket, _) = listener.accept().await.unwrap();
    let (read, mut write) = socket.into_split();
    write.write_all(format!("{INFO}\r\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(read).lines();
    let mut subscriptions = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["PING"] => write.write_all(b"PONG\r\n").await.unwrap(),
            ["SUB", _, id] => subscriptions.push((*id).to_owned()),
            _ => continue,
        }
        if let [first, second] = subscriptions.as_slice() {
            let mut text = format!("MSG {flooder} {first} 4\r\nmore\r\n").repeat(FLOOD);
            text += &format!("MSG {quiet} {second} 5\r\nheard\r\n");
            write.write_all(text.as_bytes()).await.unwrap();
            subscriptions.clear();
        }
    }
}

#[tokio::test]
async fn a_device_that_floods_fills_its_own_queue_and_no_other() {
    let (alpha, beta): (DeviceName, DeviceName) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let subject = |device: &DeviceName| Subject::Up(device.clone(), UpVerb::Heartbeat).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(server(listener, subject(&alpha), subject(&beta)));

    let client =
        async_nats::ConnectOptions::new().subscription_capacity(QUEUE).connect(address).await.unwrap();
    let ear: &dyn Subscriber = &client;
    let mut flooder = ear.subscribe(subject::up_wildcard(&alpha)).await.unwrap();
    let mut quiet = ear.subscribe(subject::up_wildcard(&beta)).await.unwrap();

    // Nobody reads the flood meanwhile.
    let heard = tokio::time::timeout(Duration::from_secs(60), quiet.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(heard.subject, Subject::Up(beta, UpVerb::Heartbeat));
    assert_eq!(&heard.payload[..], b"heard");
    for _ in 0..QUEUE {
        assert_eq!(&flooder.next().await.unwrap().unwrap().payload[..], b"more");
    }
    assert!(flooder.next().now_or_never().is_none(), "more than its queue was kept of the flood");
}
