#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, sync::Mutex};

use futures::future::{BoxFuture, FutureExt as _};

use super::*;

/// Knows one token and grants one subresource; counts what it was asked.
#[derive(Default)]
struct Fake {
    granted: Vec<&'static str>,
    tokens: Mutex<Vec<String>>,
    accesses: Mutex<Vec<(String, &'static str, String, &'static str)>>,
}

fn user(name: &str) -> User {
    User {
        name: name.to_owned(),
        uid: None,
        groups: vec!["system:authenticated".to_owned()],
        extra: BTreeMap::new(),
    }
}

impl Reviewer for Fake {
    fn token(&self, token: String) -> BoxFuture<'_, Result<Option<User>, ReviewError>> {
        self.tokens.lock().unwrap().push(token.clone());
        async move { Ok((token == "good").then(|| user("alice"))) }.boxed()
    }

    fn access(&self, access: Access) -> BoxFuture<'_, Result<bool, ReviewError>> {
        self.accesses.lock().unwrap().push((access.user.name, access.verb, access.node, access.subresource));
        let granted = self.granted.contains(&access.subresource);
        async move { Ok(granted) }.boxed()
    }
}

struct Case {
    fake: Arc<Fake>,
    auth: Auth,
    device: DeviceName,
}

impl Case {
    fn new(granted: &[&'static str]) -> Self {
        let fake = Arc::new(Fake { granted: granted.to_vec(), ..Fake::default() });
        Self { auth: Auth::new(fake.clone()), fake, device: "pi-7".parse().unwrap() }
    }

    async fn with_token(&self, token: &str, path: &str) -> Result<User, AuthError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        self.auth.check(&self.device, None, &Method::GET, path, &headers).await
    }

    fn reviews(&self) -> (usize, usize) {
        (self.fake.tokens.lock().unwrap().len(), self.fake.accesses.lock().unwrap().len())
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_in_without_a_name() {
    let case = Case::new(&["proxy"]);
    let check =
        async |headers: &HeaderMap| case.auth.check(&case.device, None, &Method::GET, "/pods", headers).await;
    assert!(matches!(check(&HeaderMap::new()).await, Err(AuthError::Unauthorized)));
    for value in ["Basic Zm9vOmJhcg==", "Bearer", "Bearer ", "good"] {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        assert!(matches!(check(&headers).await, Err(AuthError::Unauthorized)), "{value}");
    }
    assert_eq!(case.reviews(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_reviewed_once_a_minute_and_access_every_five() {
    let case = Case::new(&["proxy"]);
    assert_eq!(case.with_token("good", "/exec/a/b/c").await.unwrap().name, "alice");
    case.with_token("good", "/exec/a/b/c").await.unwrap();
    assert_eq!(case.reviews(), (1, 1));
    tokio::time::advance(Duration::from_secs(61)).await;
    case.with_token("good", "/exec/a/b/c").await.unwrap();
    assert_eq!(case.reviews(), (2, 1));
    tokio::time::advance(Duration::from_secs(240)).await;
    case.with_token("good", "/exec/a/b/c").await.unwrap();
    assert_eq!(case.reviews(), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_is_asked_for_again_after_five_seconds() {
    let case = Case::new(&["proxy"]);
    for _ in 0..3 {
        assert!(matches!(case.with_token("bad", "/pods").await, Err(AuthError::Unauthorized)));
    }
    assert_eq!(case.reviews(), (1, 0));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(case.with_token("bad", "/pods").await.is_err());
    assert_eq!(case.reviews(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn the_fine_grained_subresource_is_asked_for_before_proxy() {
    let case = Case::new(&["proxy"]);
    case.with_token("good", "/pods").await.unwrap();
    let asked: Vec<_> = case.fake.accesses.lock().unwrap().iter().map(|access| access.3).collect();
    assert_eq!(asked, ["pods", "proxy"]);
    let case = Case::new(&["pods"]);
    case.with_token("good", "/pods").await.unwrap();
    assert_eq!(*case.fake.accesses.lock().unwrap(), [("alice".to_owned(), "get", "pi-7".to_owned(), "pods")]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reads_like_a_kubelets_and_is_forgotten_after_half_a_minute() {
    let case = Case::new(&["metrics"]);
    let refused = case.with_token("good", "/pods").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[pods proxy])"
    );
    assert_eq!(case.reviews().1, 2);
    assert!(case.with_token("good", "/pods").await.is_err());
    assert_eq!(case.reviews().1, 2);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(case.with_token("good", "/pods").await.is_err());
    assert_eq!(case.reviews().1, 4);
}

#[tokio::test(start_paused = true)]
async fn a_grant_on_one_device_is_none_on_another() {
    let case = Case::new(&["proxy"]);
    case.with_token("good", "/exec/a/b/c").await.unwrap();
    let other: DeviceName = "pi-8".parse().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, "bearer good".parse().unwrap());
    case.auth.check(&other, None, &Method::GET, "/exec/a/b/c", &headers).await.unwrap();
    let nodes: Vec<_> = case.fake.accesses.lock().unwrap().iter().map(|access| access.2.clone()).collect();
    assert_eq!(nodes, ["pi-7", "pi-8"]);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_needs_no_token_but_the_same_grant() {
    let case = Case::new(&["log"]);
    let caller = user("kube-apiserver");
    let check = async |path: &str| {
        case.auth.check(&case.device, Some(&caller), &Method::GET, path, &HeaderMap::new()).await
    };
    assert_eq!(check("/logs/").await.unwrap(), caller);
    assert!(matches!(check("/containerLogs/a/b/c").await, Err(AuthError::Forbidden { .. })));
    assert_eq!(case.reviews().0, 0);
}

/// Never answers.
struct Silent;

impl Reviewer for Silent {
    fn token(&self, _: String) -> BoxFuture<'_, Result<Option<User>, ReviewError>> {
        std::future::pending().boxed()
    }

    fn access(&self, _: Access) -> BoxFuture<'_, Result<bool, ReviewError>> {
        std::future::pending().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_checked_does_not_pass() {
    let auth = Auth::new(Arc::new(Silent));
    let device: DeviceName = "pi-7".parse().unwrap();
    let caller = user("alice");
    let refused =
        auth.check(&device, Some(&caller), &Method::GET, "/pods", &HeaderMap::new()).await.unwrap_err();
    assert!(matches!(refused, AuthError::Review(ReviewError::Timeout(_))));
    assert_eq!(refused.into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
}
