//! `get_or_prompt`: asks a person for what is required and nowhere, and keeps the answers.
//!
//! ```text
//! resolve ─ complete ─────────────────────────────▶ value (nobody is asked)
//!         └ something missing ─▶ ask for that only ─▶ check ─▶ keep in the first source that keeps ─▶ value
//!                                      ▲               │
//!                                      └── unfit ──────┘
//! ```

use std::sync::Arc;

use serde_json::Value;
use tracing::Instrument as _;

use super::{ConfigManager, Known, resolve::Reach};
use crate::{
    error::ConfigError,
    key::FieldPath,
    model::Config,
    source::{
        Document,
        prompt::{PromptError, Prompter, Question},
        put,
    },
};

/// How often the same question is put again.
const ATTEMPTS: usize = 5;

impl ConfigManager {
    /// Settings; a person is asked for what is required and no source has. The answers, and only they, are kept in the
    /// first source that keeps what is set, so that the next start asks for nothing.
    ///
    /// # Errors
    /// As [`ConfigManager::get`]; [`ConfigError::Prompt`] with everything that is missing if nobody can be asked or the
    /// person breaks it off.
    pub async fn get_or_prompt<T: Config>(&self) -> Result<T, ConfigError> {
        let known = self.inner.registry.of::<T>()?;
        let span = self.span(&known.model.key);
        async {
            let value = self.ask_for(&known).await;
            self.inner.health.model(&known, value.as_ref().err());
            value
        }
        .instrument(span)
        .await
    }

    async fn ask_for<T: Config>(&self, known: &Arc<Known>) -> Result<T, ConfigError> {
        let missing = match self.try_get(known).await {
            Err(ConfigError::Missing { fields, away }) => ConfigError::Missing { fields, away },
            done => return done,
        };
        let Some(prompter) = self.inner.prompter.clone() else { return Err(missing) };
        // One question at a time; and another task may have had the same one.
        let _turn = self.inner.asking.lock().await;
        let resolution = self.inner.resolve(known, Reach::UntilComplete).await?;
        let open = self.inner.missing(known, &resolution.merged.values);
        let broken_off = |error: &PromptError| ConfigError::Prompt {
            key: known.model.key.clone(),
            why: format!("{error}\n{missing}"),
        };
        prompter.ready().map_err(|error| broken_off(&error))?;

        let mut intro = format!("{} needs {}.", known.model.key, count(open.len()));
        for away in resolution.away() {
            intro.push_str(&format!("\nNot asked, the answers may be there: {away}"));
        }
        let mut places: Vec<FieldPath> = open.into_iter().map(|field| field.place).collect();
        let mut answers = Document::new();
        for attempt in 0.. {
            let questions = places.iter().map(|place| Question::of(&known.model, place)).collect();
            let given =
                ask_all(prompter.clone(), intro, questions).await.map_err(|error| broken_off(&error))?;
            for (place, value) in given {
                put(&mut answers, &place, value);
            }
            let mut whole = resolution.merged.clone();
            whole.add(known.model.shape(), &answers);
            let faults = known.whole(&whole.values);
            if faults.is_empty() {
                self.keep_answers(known, &answers, &prompter).await?;
                return known
                    .parse(&whole.values)
                    .map_err(|faults| self.inner.unfit(known, &resolution, faults));
            }
            let ours = |place: &FieldPath| {
                places.iter().find(|asked| asked.covers(place) || place.covers(asked)).cloned()
            };
            let again: Vec<_> = faults.iter().filter_map(|fault| ours(&fault.place)).collect();
            if again.is_empty() || attempt + 1 == ATTEMPTS {
                return Err(self.inner.unfit(known, &resolution, faults));
            }
            intro = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            places = again;
        }
        Err(missing)
    }

    async fn keep_answers(
        &self,
        known: &Arc<Known>,
        answers: &Document,
        prompter: &Arc<dyn Prompter>,
    ) -> Result<(), ConfigError> {
        match self.keep_fields(known, answers, None).await {
            Ok(written) => {
                prompter.say(&format!("Kept in {}; it will not be asked for again.", written.source));
                Ok(())
            }
            // The program can go on; the next start asks again.
            Err(ConfigError::NowhereToKeep { sources, .. }) => {
                prompter.say(&format!("Not kept: none of {sources} keeps what is set."));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn count(fields: usize) -> String {
    match fields {
        1 => "one value that is set nowhere".to_owned(),
        many => format!("{many} values that are set nowhere"),
    }
}

/// Asks off the runtime's threads: a person takes their time.
async fn ask_all(
    prompter: Arc<dyn Prompter>,
    intro: String,
    questions: Vec<Question>,
) -> Result<Vec<(FieldPath, Value)>, PromptError> {
    let asked = tokio::task::spawn_blocking(move || {
        prompter.say(&intro);
        questions
            .into_iter()
            .map(|question| Ok((question.place.clone(), prompter.ask(&question)?)))
            .collect::<Result<_, _>>()
    });
    asked.await.unwrap_or_else(|error| Err(PromptError::Failed(error.to_string())))
}
