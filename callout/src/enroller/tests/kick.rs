#![allow(clippy::unwrap_used)]

use super::*;

fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

fn connection(name: &str, age: Option<Duration>) -> Connection {
    Connection { server: "S".to_owned(), id: 7, device: Some(device(name)), age, address: String::new() }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_answer_of_the_server_tells_the_device_and_the_age_of_its_connection() {
    let answer = br#"{"server":{"name":"n","host":"0.0.0.0","id":"NABC","ver":"2.15.2"},"data":{
        "server_id":"NABC","now":"2026-11-21T13:00:10.5Z","num_connections":3,"total":3,"offset":0,"limit":1024,
        "connections":[
          {"cid":9,"ip":"10.0.0.2","port":4711,"start":"2026-11-21T13:00:00.5Z","authorized_user":"device:pi-7","account":"FLEET"},
          {"cid":10,"ip":"10.0.0.3","port":4712,"start":"2026-11-21T13:00:00Z","authorized_user":"component:vk-nats"},
          {"cid":11,"ip":"10.0.0.4","port":4713,"start":"2026-11-21T13:00:00Z","authorized_user":"device:Not A Name"}]}}"#;
    let page = Page::read(answer).unwrap();
    assert_eq!(page.server, "NABC");
    let [pi, component, other] = page.connections.as_slice() else { panic!("{page:?}") };
    assert_eq!((pi.id, &pi.device, pi.age), (9, &Some(device("pi-7")), Some(10 * SECOND)));
    assert_eq!((&component.device, &other.device), (&None, &None));
    assert!(page.is_full(3) && !page.is_full(4));
}

#[test]
fn an_answer_that_is_none_is_no_empty_list() {
    assert!(Page::read(br#"{"server":{"id":"N"},"error":{"code":400,"description":"no"}}"#).is_err());
    assert!(Page::read(br#"{"server":{"id":"N"}}"#).is_err());
    assert!(Page::read(b"").is_err());
}

#[tokio::test(start_paused = true)]
async fn the_device_has_a_second_to_hear_that_it_is_revoked() {
    let mut orders = Orders::default();
    let start = Instant::now();
    orders.add(Kick::all(device("pi"), start));
    assert!(orders.due(start + SECOND / 2).is_empty());
    assert_eq!(orders.due(start + SECOND), [device("pi")]);
    assert!(orders.wants(&connection("pi", Some(SECOND)), start + SECOND));
    assert!(!orders.wants(&connection("po", Some(SECOND)), start + SECOND));
}

#[tokio::test(start_paused = true)]
async fn it_is_swept_until_two_sweeps_found_nothing_and_no_authorization_can_race_any_more() {
    let mut orders = Orders::default();
    let start = Instant::now();
    let (pi, due) = (device("pi"), [device("pi")]);
    orders.add(Kick::all(pi.clone(), start));
    for _ in 0..4 {
        orders.swept(&due, &[], true, start + 2 * SECOND);
    }
    assert_eq!(orders.due(start + 2 * SECOND), due, "too early");
    orders.swept(&due, &due, true, start + 4 * SECOND);
    orders.swept(&due, &[], true, start + 4 * SECOND);
    assert_eq!(orders.due(start + 4 * SECOND), due, "one quiet sweep");
    // A server that does not answer has not said that it found nothing.
    orders.swept(&due, &[], false, start + 4 * SECOND);
    orders.swept(&due, &[], true, start + 4 * SECOND);
    assert_eq!(orders.due(start + 4 * SECOND), due, "one quiet sweep after an unanswered one");
    orders.swept(&due, &[], true, start + 5 * SECOND);
    assert!(orders.due(start + 5 * SECOND).is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_rotation_only_older_connections_end() {
    let mut orders = Orders::default();
    let start = Instant::now() + 100 * SECOND;
    orders.add(Kick::made_before(device("pi"), start));
    let now = start + 5 * SECOND;
    assert!(orders.wants(&connection("pi", Some(60 * SECOND)), now));
    assert!(orders.wants(&connection("pi", None), now), "of unknown age");
    assert!(!orders.wants(&connection("pi", Some(SECOND)), now));
    // A revocation on top of it ends all.
    orders.add(Kick::all(device("pi"), now));
    assert!(orders.wants(&connection("pi", Some(SECOND)), now));
}

#[tokio::test(start_paused = true)]
async fn an_order_does_not_stand_for_ever_without_an_answer() {
    let mut orders = Orders::default();
    let start = Instant::now();
    orders.add(Kick::all(device("pi"), start));
    orders.swept(&[device("pi")], &[], false, start + GIVE_UP);
    assert!(orders.due(start + GIVE_UP).is_empty());
}
