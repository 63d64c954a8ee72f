#![allow(clippy::unwrap_used)]

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_child_ends_with_its_parent_and_alone() {
    let parent = Shutdown::new();
    let (first, second) = (parent.child(), parent.child());
    first.trigger();
    assert!(first.is_triggered() && !parent.is_triggered() && !second.is_triggered());
    parent.trigger();
    second.cancelled().await;
}

#[tokio::test]
async fn tasks_that_end_after_the_shutdown_end_well() {
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(shutdown.clone());
    let token = shutdown.clone();
    tasks.spawn("watch", async move { token.cancelled().await });
    tasks.spawn_transient("once", async {});
    shutdown.trigger();
    assert_eq!(tasks.drain(SECOND).await, Ok(()));
}

#[tokio::test]
async fn a_critical_task_that_ends_early_begins_the_shutdown() {
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn("watch", async {});
    let error = tasks.drain(SECOND).await.unwrap_err();
    assert_eq!(error, DrainError::Failed { task: "watch", reason: "it ended before the shutdown".into() });
}

#[tokio::test]
async fn a_failure_says_why_and_the_first_one_counts() {
    let tasks = Tasks::new(Shutdown::new());
    let waiting = tasks.shutdown().clone();
    tasks.spawn("second", async move {
        waiting.cancelled().await;
        Err::<(), _>("because of the first")
    });
    tasks.spawn("first", async { Err::<(), _>("the lease is lost") });
    let error = tasks.drain(SECOND).await.unwrap_err().to_string();
    assert_eq!(error, "task first ended: the lease is lost");
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn("index", async { assert_eq!(1, 2, "out of range") });
    let error = tasks.drain(SECOND).await.unwrap_err().to_string();
    assert_eq!(error, "task index ended: it panicked");
}

#[tokio::test]
async fn a_transient_task_may_end_or_fail() {
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(shutdown.clone());
    let (done, wait) = tokio::sync::oneshot::channel();
    tasks.spawn_transient("stream", async move {
        let _ = done.send(());
        Err::<(), _>("the reader went away")
    });
    wait.await.unwrap();
    tokio::task::yield_now().await;
    assert!(!shutdown.is_triggered());
    shutdown.trigger();
    assert_eq!(tasks.drain(SECOND).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_in_time_is_named_and_aborted() {
    let shutdown = Shutdown::new();
    let tasks = Tasks::new(shutdown.clone());
    let (held, released) = tokio::sync::oneshot::channel::<()>();
    tasks.spawn("stuck", async move {
        let _held = held;
        std::future::pending::<()>().await;
    });
    shutdown.trigger();
    let error = tasks.drain(SECOND).await.unwrap_err();
    assert_eq!(error, DrainError::Deadline { deadline: SECOND, tasks: vec!["stuck"] });
    // The sender is dropped when the task is aborted.
    assert!(released.await.is_err());
}

#[tokio::test]
async fn what_runs_for_ever_ends_well_with_the_shutdown_only() {
    let tasks = Tasks::new(Shutdown::new());
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("watch", until(shutdown.clone(), std::future::pending()));
    shutdown.trigger();
    assert_eq!(tasks.drain(SECOND).await, Ok(()));

    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn("watch", until(tasks.shutdown().clone(), async {}));
    let error = tasks.drain(SECOND).await.unwrap_err().to_string();
    assert_eq!(error, "task watch ended: it ended by itself");
}

#[tokio::test]
async fn a_process_lives_until_its_tasks_have_ended_and_says_what_went_wrong() {
    type Failure = Box<dyn std::error::Error>;
    let begun_then_failed = live(SECOND, async |tasks| {
        tasks.spawn("lease", async { Err::<(), _>("the lease is lost") });
        Ok::<(), std::io::Error>(())
    });
    let error: Failure = begun_then_failed.await.unwrap_err();
    assert_eq!(error.to_string(), "task lease ended: the lease is lost");

    let never_begun = live(SECOND, async |_| Err::<(), _>(std::io::Error::other("the address is taken")));
    let error: Failure = never_begun.await.unwrap_err();
    assert_eq!(error.to_string(), "the address is taken");

    let told_to_end = live(SECOND, async |tasks| {
        tasks.spawn("watch", until(tasks.shutdown().clone(), std::future::pending()));
        tasks.shutdown().trigger();
        Ok::<(), std::io::Error>(())
    });
    told_to_end.await.map_err(|error: Failure| error.to_string()).unwrap();
}
