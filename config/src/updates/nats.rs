//! Updates from NATS: live on a subject, and the last one from whoever keeps it.
//!
//! NATS itself keeps nothing: who subscribes late, or was away, would wait for the next update. So the last one is
//! asked for by a request, at the start, after each reconnect and now and then. The answer may come from a stream
//! (`$JS.API.DIRECT.GET.<stream>.<subject>`, a request like any other, for readers in the cluster whose account has
//! one) or from a publisher that answers on a subject (for those that must not touch a stream). Either may answer
//! with an old update: which one is newest, the epoch decides, so the order in which they arrive does not matter.
//!
//! It decides nothing, and says nothing but these requests.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{Client, Message, StatusCode};
use futures::StreamExt as _;
use tokio::{task, time};

use super::{Outcome, Updates};

/// How often it is looked whether the connection is another one. Costs no message.
const LOOK: Duration = Duration::from_secs(1);
/// How often the last update is asked for without a reason: a server may drop what a slow client does not take.
const REFRESH: Duration = Duration::from_secs(300);
/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why no updates come any more.
#[derive(Debug, thiserror::Error)]
pub enum NatsFeedError {
    /// Nothing can be subscribed to.
    #[error("cannot subscribe to the updates on {subject}: {why}. Look at the connection to NATS")]
    Subscribe {
        /// The subject.
        subject: String,
        /// What the client says.
        why: String,
    },
    /// The client was closed.
    #[error("no updates come on {subject} any more: the connection to NATS was closed by this program")]
    Closed {
        /// The subject.
        subject: String,
    },
}

/// Where updates come from.
#[derive(Debug, Clone)]
pub struct NatsFeed {
    client: Client,
    subject: String,
    last: Option<String>,
}

impl NatsFeed {
    /// Live updates on this subject.
    #[must_use]
    pub fn new(client: Client, subject: impl Into<String>) -> Self {
        Self { client, subject: subject.into(), last: None }
    }

    /// The last one is asked for by a request to this subject, whose answer is the update, or empty.
    #[must_use]
    pub fn last_from(mut self, subject: impl Into<String>) -> Self {
        self.last = Some(subject.into());
        self
    }

    /// The last one is in this stream, which has to allow direct get. The client may then publish to
    /// `$JS.API.DIRECT.GET.<stream>.<subject>` and nothing else of `$JS`.
    #[must_use]
    pub fn last_in_stream(self, stream: &str) -> Self {
        let subject = format!("$JS.API.DIRECT.GET.{stream}.{}", self.subject);
        self.last_from(subject)
    }

    /// Delivers updates as they come. Ends with the client only; may be dropped at any time.
    ///
    /// # Errors
    /// [`NatsFeedError`].
    pub async fn run(self, updates: Updates) -> Result<(), NatsFeedError> {
        let subject = self.subject.clone();
        let subscribed = self.client.subscribe(subject.clone()).await;
        let mut live = subscribed
            .map_err(|error| NatsFeedError::Subscribe { subject: subject.clone(), why: error.to_string() })?;
        let mut ticks = time::interval(LOOK);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        // Asked after the subscription, so that nothing falls between the two.
        let (mut asked, mut failed) = (None, None);
        loop {
            tokio::select! {
                message = live.next() => match message {
                    Some(message) => deliver(&updates, message).await,
                    None => return Err(NatsFeedError::Closed { subject }),
                },
                now = ticks.tick() => {
                    let connects = self.client.statistics().connects.load(Ordering::Relaxed);
                    let fresh = asked.is_some_and(|(at, known)| known == connects && now < at + REFRESH);
                    let Some(last) = self.last.as_ref().filter(|_| !fresh) else { continue };
                    match self.ask(last).await {
                        Ok(message) => {
                            (asked, failed) = (Some((now, connects)), None);
                            if let Some(message) = message {
                                deliver(&updates, message).await;
                            }
                        }
                        // Asked again at the next tick; said once.
                        Err(why) => {
                            if failed.as_ref() != Some(&why) {
                                tracing::warn!(subject = %last, %why, "the last update is not known: nobody answers");
                            }
                            failed = Some(why);
                        }
                    }
                },
            }
        }
    }

    /// The last update; `None` if there is none.
    async fn ask(&self, last: &str) -> Result<Option<Message>, String> {
        let request = self.client.request(last.to_owned(), Default::default());
        let answer = match time::timeout(PATIENCE, request).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        match answer.status {
            None | Some(StatusCode::OK) => Ok(Some(answer).filter(|answer| !answer.payload.is_empty())),
            // There was never an update.
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(format!("the answer is {status} {}", answer.description.unwrap_or_default())),
        }
    }
}

async fn deliver(updates: &Updates, message: Message) {
    let (subject, updates) = (message.subject.to_string(), updates.clone());
    // A thread of its own: keeping an update waits for the disk.
    let done = task::spawn_blocking(move || {
        let outcome = updates.accept(&message.payload);
        (outcome, updates.status().head.map(|head| head.epoch))
    });
    match done.await {
        Ok((Ok(Outcome::Applied { changed, .. }), epoch)) => {
            let changed: Vec<_> = changed.iter().map(ToString::to_string).collect();
            tracing::info!(%subject, config_epoch = epoch, ?changed, "an update is in effect");
        }
        Ok((Ok(Outcome::Current), _)) => {}
        // The one in effect stays.
        Ok((Err(error), _)) => tracing::warn!(%subject, %error, "an update is not in effect"),
        Err(error) => tracing::error!(%subject, %error, "an update was not looked at"),
    }
}
