//! Keys that come, go and cannot be had.

use super::{
    super::keys::{ASK_EVERY, KEEP, RENEW_EVERY},
    *,
};

/// Lets the clock jump while I/O stays real.
async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// Waits until the keys were asked for that often, and the answer was used.
async fn asked(server: &Server, times: usize) {
    let waiting = async {
        while server.asked() < times {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the keys are asked for");
}

#[tokio::test]
async fn a_rotated_key_is_fetched_and_the_old_one_goes() {
    let (old, new) = (rsa("old"), ecdsa("new"));
    let server = Server::start(&[&old]).await;
    let provider = server.provider();
    provider.verify(&old.sign(&server.claims()), now()).await.unwrap();
    server.rotate(&[&new]);
    advance(ASK_EVERY).await;
    provider.verify(&new.sign(&server.claims()), now()).await.unwrap();
    assert_eq!(server.asked(), 2);
    let refused = provider.verify(&old.sign(&server.claims()), now()).await;
    assert_eq!(refused, Err(OidcError::UnknownKey));
}

#[tokio::test]
async fn invented_key_ids_cost_one_question_in_ten_seconds() {
    let (known, unknown) = (rsa("known"), ed25519("unknown"));
    let server = Server::start(&[&known]).await;
    let provider = server.provider();
    let invented = unknown.sign(&server.claims());
    provider.verify(&known.sign(&server.claims()), now()).await.unwrap();
    for _ in 0..50 {
        assert_eq!(provider.verify(&invented, now()).await, Err(OidcError::UnknownKey));
    }
    assert_eq!(server.asked(), 1);
    advance(ASK_EVERY).await;
    asked(&server, 2).await;
    for _ in 0..50 {
        assert_eq!(provider.verify(&invented, now()).await, Err(OidcError::UnknownKey));
    }
    assert_eq!(server.asked(), 2);
    provider.verify(&known.sign(&server.claims()), now()).await.unwrap();
}

#[tokio::test]
async fn a_token_without_a_key_id_finds_a_new_key() {
    let (old, new) = (rsa("old"), rsa("stranger"));
    let server = Server::start(&[&old]).await;
    let provider = server.provider();
    let nameless = |signer: &Signer| signer.sign_as(&json!({ "alg": "RS256" }), &server.claims());
    provider.verify(&nameless(&old), now()).await.unwrap();
    server.rotate(&[&old, &new]);
    advance(ASK_EVERY).await;
    provider.verify(&nameless(&new), now()).await.unwrap();
    provider.verify(&nameless(&old), now()).await.unwrap();
}

#[tokio::test]
async fn many_at_once_share_the_first_question() {
    let signer = rsa("r");
    let server = Server::start(&[&signer]).await;
    let provider = server.provider();
    let token = signer.sign(&server.claims());
    let all = futures::future::join_all((0..100).map(|_| provider.verify(&token, now()))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn keys_are_renewed_before_they_are_old_and_withdrawn_ones_are_refused() {
    let (old, new) = (rsa("old"), rsa("new"));
    let server = Server::start(&[&old]).await;
    let provider = server.provider();
    let token = old.sign(&server.claims());
    provider.verify(&token, now()).await.unwrap();
    server.rotate(&[&new]);
    provider.verify(&token, now()).await.unwrap();
    advance(RENEW_EVERY).await;
    asked(&server, 2).await;
    // Known keys need no I/O, so this is the new set as soon as it was read.
    let replaced = async {
        while provider.verify(&token, now()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), replaced).await.expect("the new set replaces the old");
    provider.verify(&new.sign(&server.claims()), now()).await.unwrap();
}

#[tokio::test]
async fn known_keys_are_good_for_a_day_while_the_provider_is_away() {
    let (known, unknown) = (rsa("known"), ed25519("unknown"));
    let server = Server::start(&[&known, &unknown]).await;
    let provider = server.provider();
    let token = known.sign(&server.claims());
    provider.verify(&token, now()).await.unwrap();
    server.rotate(&[&known]);
    server.down(true);
    for _ in 0..5 {
        advance(KEEP / 6).await;
        provider.verify(&token, now()).await.unwrap();
    }
    let stranger = ecdsa("stranger").sign(&server.claims());
    assert_eq!(provider.verify(&stranger, now()).await, Err(OidcError::Unavailable), "it may be a new key");
    advance(KEEP / 6).await;
    assert_eq!(provider.verify(&token, now()).await, Err(OidcError::Unavailable));
    server.down(false);
    advance(ASK_EVERY).await;
    let back = async {
        while provider.verify(&token, now()).await.is_err() {
            advance(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(KEEP, back).await.expect("it recovers");
}

#[tokio::test]
async fn known_keys_are_good_while_the_key_set_hangs() {
    let (known, unknown) = (rsa("known"), ed25519("unknown"));
    let server = Server::start(&[&known]).await;
    let provider = server.provider();
    let token = known.sign(&server.claims());
    provider.verify(&token, now()).await.unwrap();
    server.hang(true);
    advance(ASK_EVERY).await;
    let invented = unknown.sign(&server.claims());
    let begun = Clock::now();
    let (refused, good) = tokio::join!(provider.verify(&invented, now()), provider.verify(&token, now()));
    assert_eq!(refused, Err(OidcError::Unavailable));
    good.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_provider_that_was_not_there_is_found_when_it_comes() {
    let signer = rsa("r");
    let server = Server::start(&[&signer]).await;
    server.down(true);
    let provider = server.provider();
    let token = signer.sign(&server.claims());
    assert_eq!(provider.verify(&token, now()).await, Err(OidcError::Unavailable));
    server.down(false);
    advance(Duration::from_secs(1)).await;
    let found = async {
        while provider.verify(&token, now()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found)
        .await
        .expect("it is found without being asked again");
}
