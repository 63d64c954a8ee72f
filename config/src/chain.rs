//! The chain of sources and the [`ConfigManager`] in front of it.
//!
//! Owns the order of the sources, what is merged from them and what is kept where. Knows no source by name.

mod asking;
mod explain;
mod keeping;
mod known;
#[cfg(feature = "sqlite")]
mod local;
mod merge;
mod prompting;
mod requirement;
mod resolve;
mod template;
mod transfer;
#[cfg(feature = "updates")]
mod updating;
mod watching;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::Instrument as _;

pub use asking::{LastGood, LastGoodError, LastGoodLayer};
pub use explain::{Explained, Explanation};
pub use keeping::{Deleted, Written};
pub(crate) use known::Known;
use known::Registry;
pub use requirement::Requirements;
use resolve::Reach;
pub(crate) use resolve::Resolution;
pub use resolve::{Answer, UnknownField};
pub use template::{TemplateFormat, template};
pub use transfer::{Export, ExportedItem, Secrets};
pub use watching::Handle;

use crate::{
    error::ConfigError,
    health::{Health, Observed},
    key::{Actor, Key},
    metrics::Metrics,
    model::Config,
    source::{Layer, Source, prompt::Prompter},
};

/// How long a source may take to answer, if neither it nor the program says more.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How much longer the manager waits than a source itself does: the source knows which request had no answer.
pub const PATIENCE_MARGIN: Duration = Duration::from_secs(1);
/// How often sources that cannot tell of changes are asked anyway, while somebody watches.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Settings from an ordered chain of sources. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct ConfigManager {
    inner: Arc<Inner>,
    actor: Arc<Actor>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    sources: Vec<Arc<dyn Source>>,
    registry: Registry,
    last_good: Option<Arc<dyn LastGood>>,
    prompter: Option<Arc<dyn Prompter>>,
    /// One person, one question at a time.
    asking: tokio::sync::Mutex<()>,
    /// What was remembered last, so that an unchanged layer costs nothing.
    remembered: Mutex<HashMap<(String, Key), Option<Layer>>>,
    /// Sources that took too long, and until when they are left alone.
    asleep: Mutex<HashMap<String, Instant>>,
    patience: Option<Duration>,
    look_again: Duration,
    show_values: bool,
    health: Observed,
    metrics: Metrics,
    epoch: AtomicU64,
    /// Counts this manager's writes: who watches reads again.
    wrote: tokio::sync::watch::Sender<u64>,
    handles: watching::Handles,
}

impl Inner {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }
}

/// Makes a [`ConfigManager`].
#[derive(Debug)]
pub struct Builder {
    sources: Vec<Arc<dyn Source>>,
    last_good: Option<Arc<dyn LastGood>>,
    prompter: Option<Arc<dyn Prompter>>,
    patience: Option<Duration>,
    look_again: Duration,
    show_values: bool,
    actor: Option<Actor>,
    /// Why the last-known-good file was not used.
    refused: Option<String>,
}

impl Builder {
    /// Adds a source, below those that are there.
    #[must_use]
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Keeps what sources last gave for the time when they cannot be asked.
    #[must_use]
    pub fn last_known_good(mut self, last_good: impl LastGood + 'static) -> Self {
        self.last_good = Some(Arc::new(last_good));
        self
    }

    /// Whom `get_or_prompt` asks. Without one it asks nobody.
    #[must_use]
    pub fn prompter(mut self, prompter: impl Prompter + 'static) -> Self {
        self.prompter = Some(Arc::new(prompter));
        self
    }

    /// How long any source may take to answer, whatever it says itself. If not said: [`PATIENCE`], and for a source
    /// that [answers within](Source::answers_within) a time of its own at least [`PATIENCE_MARGIN`] more than that, so
    /// that its own error is the one to be read.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// How often all sources are asked while somebody watches, besides when one tells of a change. [`LOOK_AGAIN`] if
    /// not said.
    #[must_use]
    pub fn look_again(mut self, every: Duration) -> Self {
        self.look_again = every;
        self
    }

    /// Lets errors repeat the values that do not fit, in the place of their types; secret ones never. For a program
    /// whose errors go to whoever wrote the values.
    #[must_use]
    pub fn show_values(mut self) -> Self {
        self.show_values = true;
        self
    }

    /// Who acts, for history and audit. If not said: the user and the program of this process.
    #[must_use]
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Makes it. No source is asked before settings are.
    #[must_use]
    pub fn build(self) -> ConfigManager {
        let health = Observed::default();
        let metrics = Metrics::default();
        if let Some(why) = &self.refused {
            metrics.signature_failure("last-known-good", "refused");
            health.last_known_good_refused(why);
        }
        for source in &self.sources {
            source.count_in(&metrics);
        }
        ConfigManager {
            inner: Arc::new(Inner {
                sources: self.sources,
                registry: Registry::default(),
                last_good: self.last_good,
                prompter: self.prompter,
                asking: tokio::sync::Mutex::default(),
                remembered: Mutex::default(),
                asleep: Mutex::default(),
                patience: self.patience,
                look_again: self.look_again,
                show_values: self.show_values,
                health,
                metrics,
                epoch: AtomicU64::new(0),
                wrote: tokio::sync::watch::Sender::new(0),
                handles: watching::Handles::default(),
            }),
            actor: Arc::new(self.actor.unwrap_or_else(Actor::of_this_process)),
        }
    }
}

impl ConfigManager {
    /// A chain of these sources; the first that has a field wins it.
    #[must_use]
    pub fn new(sources: Vec<Arc<dyn Source>>) -> Self {
        Builder { sources, ..Self::builder() }.build()
    }

    /// For more than sources.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            sources: Vec::new(),
            last_good: None,
            prompter: None,
            patience: None,
            look_again: LOOK_AGAIN,
            show_values: false,
            actor: None,
            refused: None,
        }
    }

    /// The same chain for another actor, e.g. for the user of one request: their name and request id stand in the
    /// history, the audit log and in log lines.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self { inner: self.inner.clone(), actor: Arc::new(actor) }
    }

    /// Who acts.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The sources, the one that wins first.
    #[must_use]
    pub fn sources(&self) -> &[Arc<dyn Source>] {
        &self.inner.sources
    }

    /// Makes a model known, for all that names models by their keys. `get` and the like do it by themselves.
    ///
    /// # Errors
    /// [`ConfigError::Model`] if the type is none.
    pub fn register<T: Config>(&self) -> Result<Key, ConfigError> {
        Ok(self.inner.registry.of::<T>()?.model.key.clone())
    }

    /// Makes a model known by its schema alone, for a program that works on settings of others: its values are judged
    /// by the schema, and never migrated.
    ///
    /// # Errors
    /// [`ConfigError::Model`] if a type of this program has the key.
    pub fn register_model(&self, model: crate::Model) -> Result<(), ConfigError> {
        Ok(self.inner.registry.add(model)?)
    }

    /// Keys of the known models.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.inner.registry.all().iter().map(|known| known.model.key.clone()).collect()
    }

    /// A known model.
    ///
    /// # Errors
    /// [`ConfigError::NoSuchModel`].
    pub fn model(&self, key: &str) -> Result<crate::Model, ConfigError> {
        Ok(self.known(key)?.model.clone())
    }

    fn known(&self, key: &str) -> Result<Arc<Known>, ConfigError> {
        self.inner.registry.by_key(key).ok_or_else(|| {
            let keys: Vec<_> = self.keys().iter().map(ToString::to_string).collect();
            let known = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
            ConfigError::NoSuchModel { key: key.chars().take(80).collect(), known }
        })
    }

    /// Every log line below has these.
    fn span(&self, key: &Key) -> tracing::Span {
        tracing::info_span!(
            "settings",
            %key,
            request_id = self.actor.request_id,
            config_epoch = self.inner.epoch()
        )
    }

    /// Settings, from the chain as it is now.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] with everything that is required and nowhere; [`ConfigError::Unfit`] for values that do
    /// not fit; [`ConfigError::Source`] for a source that has something which must not be passed over.
    pub async fn get<T: Config>(&self) -> Result<T, ConfigError> {
        let known = self.inner.registry.of::<T>()?;
        let span = self.span(&known.model.key);
        self.get_known(&known).instrument(span).await
    }

    async fn get_known<T: Config>(&self, known: &Arc<Known>) -> Result<T, ConfigError> {
        let value = self.try_get(known).await;
        self.inner.health.model(known, value.as_ref().err());
        value
    }

    async fn try_get<T: Config>(&self, known: &Arc<Known>) -> Result<T, ConfigError> {
        let mut resolution = self.inner.resolve(known, Reach::UntilComplete).await?;
        let values = serde_json::Value::Object(std::mem::take(&mut resolution.merged.values));
        // Nearly always all is well; what is wrong, and where, takes longer to say.
        if let Some(value) = known.good(&values) {
            return Ok(value);
        }
        if let serde_json::Value::Object(values) = values {
            resolution.merged.values = values;
        }
        self.inner.complete(known, &resolution)?;
        known.parse(&resolution.merged.values).map_err(|faults| self.inner.unfit(known, &resolution, faults))
    }

    /// How the chain does, for a health endpoint.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.health.report(&self.inner.sources, self.inner.epoch())
    }

    /// The chain's counters, to be registered.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}
