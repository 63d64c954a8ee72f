//! Watches of the API server: when they are current, and how they come back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fleet_daemon::health::Health;
use futures::{FutureExt as _, stream};
use k8s_openapi::{
    api::core::v1::Node,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
};
use tokio::time::{Instant, advance, timeout};

use super::{pauses::LONGEST, readiness::QUIET, *};

type Answer = watcher::Result<Event<Node>>;

fn node(name: &str) -> Node {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        managed_fields: Some(vec![ManagedFieldsEntry::default()]),
        ..ObjectMeta::default()
    };
    Node { metadata, ..Node::default() }
}

fn list(names: &[&str]) -> Vec<Answer> {
    let nodes = names.iter().map(|name| Ok(Event::InitApply(node(name))));
    [Ok(Event::Init)].into_iter().chain(nodes).chain([Ok(Event::InitDone)]).collect()
}

fn failure() -> Answer {
    Err(watcher::Error::NoResourceVersion)
}

/// These answers, then silence: a watch has no end.
fn recorded(answers: impl IntoIterator<Item = Answer>) -> impl Stream<Item = Answer> + Send + 'static {
    let answers: Vec<Answer> = answers.into_iter().collect();
    stream::iter(answers).chain(stream::pending())
}

fn current(health: &Health, answers: impl IntoIterator<Item = Answer>) -> Watch<Node> {
    Watch::over(recorded(answers), "Nodes", Readiness::Current(health.check("nodes")))
}

fn complete(health: &Health, answers: impl IntoIterator<Item = Answer>) -> Watch<Node> {
    Watch::over(recorded(answers), "Nodes", Readiness::Complete(health.check("nodes")))
}

/// Takes the next `count` events.
async fn take(watch: &mut Watch<Node>, count: usize) -> Vec<Event<Node>> {
    let mut events = Vec::new();
    while events.len() < count {
        events
            .push(timeout(Duration::from_secs(60), watch.event()).await.expect("an event").expect("no end"));
    }
    events
}

/// Asks for what has not come, as long as there is something to do.
async fn idle(watch: &mut Watch<Node>, time: Duration) {
    let nothing = timeout(time, watch.event()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

fn names(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect()
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_once_a_whole_list_was_taken() {
    let health = Health::new();
    let mut watch = current(&health, list(&["a", "b"]));
    take(&mut watch, 4).await;
    assert!(!health.is_ready(), "whoever takes the list may not be done with it");
    assert!(watch.event().now_or_never().is_none());
    assert!(health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn asking_for_more_is_enough_also_when_it_is_not_waited_for() {
    let health = Health::new();
    let mut watch = current(&health, list(&["a"]));
    take(&mut watch, 3).await;
    drop(watch.event());
    assert!(health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_interruption_is_over_with_the_next_list_or_change_and_not_with_a_part_of_a_list() {
    let health = Health::new();
    let answers = list(&["a"]).into_iter().chain([failure()]).chain(list(&["a"]));
    let answers = answers.chain([failure(), Ok(Event::Apply(node("a")))]);
    let mut watch = current(&health, answers);
    take(&mut watch, 3).await;
    drop(watch.event());
    assert!(health.is_ready());

    take(&mut watch, 3).await;
    assert!(!health.is_ready(), "a part of a list is not all");
    assert!(watch.event().now_or_never().is_none(), "the second failure comes, and its pause");
    assert!(!health.is_ready());
    take(&mut watch, 1).await;
    idle(&mut watch, Duration::from_millis(1)).await;
    assert!(health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn quiet_after_a_failure_is_ready_again_and_never_before_all_was_seen() {
    let health = Health::new();
    let mut watch = current(&health, [failure()]);
    idle(&mut watch, 10 * QUIET).await;
    assert!(!health.is_ready(), "not everything was seen yet");

    let answers = list(&["a"]).into_iter().chain([failure(), failure()]);
    let mut watch = current(&health, answers);
    take(&mut watch, 3).await;
    idle(&mut watch, LONGEST).await;
    assert!(!health.is_ready(), "two attempts failed");
    let failed_again = Instant::now();
    while !health.is_ready() {
        // Dropped each time, as in a `select!`.
        idle(&mut watch, QUIET / 20).await;
    }
    assert!(failed_again.elapsed() > QUIET - LONGEST, "counted from the last failure");
    assert!(failed_again.elapsed() <= QUIET + QUIET / 20);
}

#[tokio::test(start_paused = true)]
async fn who_works_from_memory_stays_ready_once_all_was_seen() {
    let health = Health::new();
    let answers = [failure()].into_iter().chain(list(&["a"])).chain([failure(), failure()]);
    let mut watch = complete(&health, answers.chain(list(&["b"])));
    take(&mut watch, 3).await;
    assert!(!health.is_ready());
    take(&mut watch, 3).await;
    assert!(health.is_ready(), "over two failures and into a list that is not taken yet");
}

#[tokio::test(start_paused = true)]
async fn attempts_are_at_most_five_seconds_apart_however_long_it_takes() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let health = Health::new();
    let failing = stream::unfold(Arc::clone(&attempts), async |attempts: Arc<Mutex<Vec<Instant>>>| {
        attempts.lock().unwrap().push(Instant::now());
        Some((failure(), attempts))
    });
    let readiness = Readiness::Current(health.check("nodes"));
    let mut watch = Watch::over(Box::pin(failing), "Nodes", readiness);
    idle(&mut watch, Duration::from_secs(600)).await;
    let attempts = attempts.lock().unwrap().clone();
    let pauses: Vec<_> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() > 100, "{pauses:?}");
    // Timers are exact to a millisecond.
    assert!(pauses.iter().all(|pause| *pause <= LONGEST + Duration::from_millis(1)), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_list_changes_nothing() {
    let health = Health::new();
    let mut answers = list(&["a", "b"]);
    answers.pop();
    answers.push(failure());
    answers.extend(list(&["b", "c"]));
    answers.extend([Ok(Event::Apply(node("d"))), Ok(Event::Delete(node("b")))]);
    let mut lists = current(&health, answers).whole_lists();
    let Some(News::All(nodes)) = lists.news().await else { panic!("no list") };
    assert_eq!(names(&nodes), ["b", "c"]);
    assert!(!health.is_ready());
    let Some(News::One(applied)) = lists.news().await else { panic!("no change") };
    assert!(health.is_ready());
    let Some(News::Gone(gone)) = lists.news().await else { panic!("no deletion") };
    assert_eq!(names(&[applied, gone]), ["d", "b"]);
}

#[tokio::test(start_paused = true)]
async fn managed_fields_are_left_out() {
    let health = Health::new();
    let answers = list(&["a"]).into_iter().chain([Ok(Event::Apply(node("b")))]);
    let mut watch = current(&health, answers);
    for event in take(&mut watch, 4).await {
        if let Event::InitApply(node) | Event::Apply(node) = event {
            assert_eq!(node.metadata.managed_fields, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_when_asking_is_given_up() {
    let health = Health::new();
    let (answers, later) = futures::channel::mpsc::unbounded();
    let mut watch = Watch::over(later, "Nodes", Readiness::Current(health.check("nodes")));
    assert!(watch.event().now_or_never().is_none());
    answers.unbounded_send(Ok(Event::Apply(node("a")))).unwrap();
    assert!(
        matches!(watch.event().await, Some(Event::Apply(node)) if names(std::slice::from_ref(&node)) == ["a"])
    );
    answers.unbounded_send(failure()).unwrap();
    assert!(watch.event().now_or_never().is_none(), "in its pause");
    answers.unbounded_send(Ok(Event::Delete(node("a")))).unwrap();
    advance(LONGEST).await;
    assert!(matches!(watch.event().await, Some(Event::Delete(_))));
    drop(answers);
    assert!(watch.event().await.is_none(), "an end is passed on");
}

#[tokio::test]
async fn a_watch_is_begun_again_each_minute() {
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };
    fleet_daemon::install_crypto_provider();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", server.local_addr().unwrap());
    let client = kube::Client::try_from(kube::Config::new(address.parse().unwrap())).unwrap();
    let health = Health::new();
    let readiness = Readiness::Current(health.check("nodes"));
    let mut watch = Watch::<Node>::new(Api::all(client), Config::default(), "Nodes", readiness);
    let follow = async { while watch.event().await.is_some() {} };
    let serve = async {
        loop {
            let (stream, _) = server.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut request = String::new();
            stream.read_line(&mut request).await.unwrap();
            if request.contains("watch=true") {
                return request;
            }
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap() > 2 {
                line.clear();
            }
            let list =
                r#"{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[]}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
            let answer = format!("{head}content-length: {}\r\n\r\n{list}", list.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let request = timeout(Duration::from_secs(60), async {
        tokio::select! {
            () = follow => panic!("it ended"),
            request = serve => request,
        }
    });
    let request = request.await.expect("nothing was asked");
    assert!(request.contains(&format!("timeoutSeconds={SECONDS}")), "{request}");
}
