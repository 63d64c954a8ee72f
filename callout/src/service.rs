//! The service at NATS: takes requests from the queue group that all callouts share, and answers them.
//!
//! Requests are answered side by side, a bounded number of them; what waits longer than the server does is
//! lost, so little may wait.

use std::sync::Arc;

use async_nats::{Client, Message};
use fleet_daemon::{health::CheckHandle, shutdown::Shutdown};
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::authorize::Authorizer;

/// Where nats-server asks.
pub const SUBJECT: &str = "$SYS.REQ.USER.AUTH";
/// What all callouts are in.
pub const QUEUE: &str = "callout";
/// Header with the server's curve key.
const XKEY_HEADER: &str = "Nats-Server-Xkey";
/// Requests that are answered at the same time. Nearly all of them only compute; some wait for the API
/// server or an identity provider, a second at most.
const CONCURRENCY: usize = 256;
/// Requests that may wait: what one core answers in about a second. The server waits for two.
pub const SUBSCRIPTION_CAPACITY: usize = 4096;

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The subscription was not made.
    #[error("{SUBJECT} cannot be subscribed")]
    Subscribe(#[source] async_nats::SubscribeError),
    /// The subscription ended by itself.
    #[error("the subscription of {SUBJECT} ended")]
    Ended,
}

/// Answers until the shutdown, then finishes what it has begun.
///
/// # Errors
/// [`ServiceError`].
pub async fn serve(
    client: Client,
    authorizer: Arc<Authorizer>,
    check: CheckHandle,
    shutdown: Shutdown,
) -> Result<(), ServiceError> {
    let mut requests =
        client.queue_subscribe(SUBJECT, QUEUE.to_owned()).await.map_err(ServiceError::Subscribe)?;
    check.ready();
    tracing::info!(subject = SUBJECT, "answering authorization requests");
    let (slots, tasks) = (Arc::new(Semaphore::new(CONCURRENCY)), TaskTracker::new());
    let mut stop = std::pin::pin!(shutdown.cancelled());
    loop {
        let request = tokio::select! {
            () = &mut stop => break,
            request = requests.next() => request.ok_or(ServiceError::Ended)?,
        };
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
        let (client, authorizer) = (client.clone(), Arc::clone(&authorizer));
        let answer = async move {
            let _slot = slot;
            answer(&client, &authorizer, request).await;
        };
        tasks.spawn(answer.instrument(tracing::debug_span!("authorization")));
    }
    // The other callouts take what comes now.
    if let Err(error) = requests.unsubscribe().await {
        tracing::debug!(%error, "unsubscribing");
    }
    tasks.close();
    tasks.wait().await;
    if let Err(error) = client.flush().await {
        tracing::debug!(%error, "flushing the last answers");
    }
    Ok(())
}

async fn answer(client: &Client, authorizer: &Authorizer, request: Message) {
    let Some(reply) = request.reply else { return };
    let xkey = request.headers.as_ref().and_then(|headers| headers.get(XKEY_HEADER));
    // Who is not answered is told nothing: the reason was counted and logged.
    let Ok(answer) = authorizer.answer(xkey.map(|value| value.as_str()), &request.payload).await else {
        return;
    };
    if let Err(error) = client.publish(reply, answer.into()).await {
        tracing::warn!(%error, "an answer was not sent");
    }
}
