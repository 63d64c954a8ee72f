//! Reviews of service-account tokens: what is remembered, also while the API server is away.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::*;

/// An API server that believes tokens beginning with `good`, counts, and can be away.
#[derive(Clone, Default)]
struct ApiServer {
    asked: Arc<AtomicUsize>,
    away: Arc<AtomicBool>,
}

impl TokenReviews for ApiServer {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = if self.away.load(Ordering::Relaxed) {
            Err(ReviewError::Deadline)
        } else {
            Ok(token.starts_with("good").then(|| format!("user of {token}")))
        };
        Box::pin(std::future::ready(answer))
    }
}

impl ApiServer {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_remembered_for_a_minute() {
    let server = ApiServer::default();
    let accounts = ServiceAccounts::new(server.clone());
    for _ in 0..3 {
        assert_eq!(accounts.user("good-1", || true).await.unwrap(), "user of good-1");
    }
    assert_eq!(server.asked(), 1);
    tokio::time::advance(FRESH).await;
    accounts.user("good-1", || true).await.unwrap();
    assert_eq!(server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_component_that_was_seen_gets_in_while_the_api_server_is_away() {
    let server = ApiServer::default();
    let accounts = ServiceAccounts::new(server.clone());
    accounts.user("good-1", || true).await.unwrap();
    server.away.store(true, Ordering::Relaxed);
    tokio::time::advance(STALE - Duration::from_secs(1)).await;
    assert_eq!(accounts.user("good-1", || true).await.unwrap(), "user of good-1");
    assert_eq!(accounts.user("good-2", || true).await, Err(TokenRefusal::Unavailable));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(accounts.user("good-1", || true).await, Err(TokenRefusal::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_taken_back_is_not_believed_again() {
    struct Once(AtomicBool);
    impl TokenReviews for Once {
        fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
            let first = !self.0.swap(true, Ordering::Relaxed);
            Box::pin(std::future::ready(Ok(first.then(|| "user".to_owned()))))
        }
    }
    let accounts = ServiceAccounts::new(Once(AtomicBool::new(false)));
    accounts.user("token", || true).await.unwrap();
    tokio::time::advance(FRESH).await;
    for _ in 0..2 {
        let refused = accounts.user("token", || true).await;
        assert_eq!(refused, Err(TokenRefusal::Refused("not-authenticated")));
    }
}

#[tokio::test]
async fn the_api_server_is_not_asked_for_those_who_tried_too_often() {
    let server = ApiServer::default();
    let accounts = ServiceAccounts::new(server.clone());
    assert_eq!(accounts.user("good-1", || false).await, Err(TokenRefusal::RateLimited));
    assert_eq!(server.asked(), 0);
    accounts.user("good-1", || true).await.unwrap();
    assert!(accounts.user("good-1", || false).await.is_ok(), "who was seen is not held up");
}

#[tokio::test(start_paused = true)]
async fn the_memory_is_bounded_and_loses_the_oldest() {
    let accounts = ServiceAccounts::new(ApiServer::default());
    for n in 0..=CAPACITY {
        accounts.user(&format!("good-{n}"), || true).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(accounts.seen().len(), CAPACITY);
    let oldest: [u8; 32] = Sha256::digest("good-0").into();
    assert!(!accounts.seen().contains_key(&oldest));
}
