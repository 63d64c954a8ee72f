//! Publishing, as long as this process owns the fleet.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::ownership::Tenure;

/// Where messages go. NATS in the process, a queue in tests.
pub trait Publisher: Send + Sync + 'static {
    /// Hands a message over.
    fn publish(&self, subject: String, message: Vec<u8>) -> BoxFuture<'_, Result<(), String>>;
}

impl Publisher for async_nats::Client {
    fn publish(&self, subject: String, message: Vec<u8>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            async_nats::Client::publish(self, subject, message.into())
                .await
                .map_err(|error| error.to_string())
        })
    }
}

/// Publishes for the owner. Cheap to clone.
#[derive(Clone)]
pub struct Courier {
    publisher: Arc<dyn Publisher>,
    tenure: Tenure,
}

impl std::fmt::Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Courier").finish_non_exhaustive()
    }
}

impl Courier {
    /// Publishes through `publisher` while `tenure` holds.
    pub fn new(publisher: Arc<dyn Publisher>, tenure: Tenure) -> Self {
        Self { publisher, tenure }
    }

    /// Publishes.
    ///
    /// # Errors
    /// In words, when this process lost its tenure or NATS does not take the message.
    pub async fn publish(&self, subject: String, message: Vec<u8>) -> Result<(), String> {
        if !self.tenure.holds() {
            return Err("this process no longer owns the fleet, so it does not send".to_owned());
        }
        self.publisher.publish(subject, message).await
    }
}
