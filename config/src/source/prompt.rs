//! Questions to a person, for required values that no source has: [`Prompter`], and the terminal.
//!
//! Asked by `get_or_prompt` only, and only where somebody sits in front of it: without a terminal there is an error
//! that says what is missing, never a program that waits. Nothing is kept here; the manager does that.

use std::fmt;

use serde_json::Value;

use crate::{
    key::{FieldPath, Key},
    model::Model,
    schema::{Place, Step},
};

/// A question for one field.
#[derive(Debug, Clone)]
pub struct Question {
    /// Of which model.
    pub key: Key,
    /// Which field.
    pub place: FieldPath,
    /// What its doc comment says.
    pub description: Option<String>,
    /// What belongs there: `a whole number from 0 to 65535`.
    pub expected: String,
    /// Whether the answer must not be shown.
    pub secret: bool,
    /// How it is answered.
    pub form: Form,
}

/// How a question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// Yes or no.
    Confirm,
    /// One of these.
    Choice(Vec<String>),
    /// A number, a list, a table: as JSON.
    Json,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// Nobody sits in front of it.
    #[error("there is no terminal (a service never asks). Set the values in one of the ways below")]
    NoTerminal,
    /// The person broke it off.
    #[error("it was broken off, and nothing was kept. Start again to be asked again")]
    Cancelled,
    /// The terminal failed.
    #[error("the terminal failed: {0}. Set the values in one of the ways below")]
    Failed(String),
}

/// Asks a person. Its calls block, and are made off the runtime's threads.
pub trait Prompter: fmt::Debug + Send + Sync {
    /// Whether somebody can be asked.
    ///
    /// # Errors
    /// [`PromptError::NoTerminal`] if not.
    fn ready(&self) -> Result<(), PromptError>;

    /// The answer: what [`Question::read`] makes of it.
    ///
    /// # Errors
    /// See [`PromptError`].
    fn ask(&self, question: &Question) -> Result<Value, PromptError>;

    /// Says something: why it asks, why an answer is refused.
    fn say(&self, text: &str);
}

impl Question {
    pub(crate) fn of(model: &Model, place: &FieldPath) -> Self {
        let found = match model.root().find(place) {
            Step::To(found) => Some(found),
            Step::Open | Step::Unknown => None,
        };
        Self {
            key: model.key.clone(),
            place: place.clone(),
            description: found.and_then(Place::description).map(one_line),
            expected: found.map_or_else(|| "any value".to_owned(), Place::expected),
            secret: model.touches_secret(place),
            form: found.map_or(Form::Json, form),
        }
    }

    /// Reads what a person typed.
    ///
    /// # Errors
    /// What is expected, for the person.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        match &self.form {
            Form::Text => Ok(Value::String(text.to_owned())),
            Form::Choice(choices) if choices.iter().any(|choice| choice == text) => Ok(text.into()),
            Form::Confirm | Form::Choice(_) | Form::Json => serde_json::from_str(text.trim())
                .map_err(|_| format!("expected {}{}", self.expected, self.how())),
        }
    }

    fn how(&self) -> &'static str {
        match self.expected.starts_with("a list") || self.expected.starts_with("a table") {
            true => ", as JSON, e.g. [\"a\", \"b\"] or {\"name\": 1}",
            false => "",
        }
    }
}

/// A doc comment on one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn form(place: Place<'_>) -> Form {
    if let Some(choices) = place.choices() {
        let texts: Option<Vec<_>> = choices
            .into_iter()
            .filter(|choice| !choice.is_null())
            .map(|choice| choice.as_str().map(str::to_owned))
            .collect();
        if let Some(texts) = texts.filter(|texts| !texts.is_empty()) {
            return Form::Choice(texts);
        }
    }
    let types: Vec<_> = place.types().into_iter().filter(|name| *name != "null").collect();
    match types.as_slice() {
        ["string"] => Form::Text,
        ["boolean"] => Form::Confirm,
        _ => Form::Json,
    }
}

#[cfg(feature = "prompt")]
pub use terminal::Terminal;

#[cfg(feature = "prompt")]
mod terminal {
    use std::io::{IsTerminal, Write, stderr, stdin};

    use inquire::{
        Confirm, InquireError, Password, PasswordDisplayMode, Select, Text,
        validator::{StringValidator, Validation},
    };
    use serde_json::Value;

    use super::{Form, PromptError, Prompter, Question};

    /// The terminal of this process: questions on standard error, answers from standard input. What is secret is
    /// masked.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Terminal;

    impl Prompter for Terminal {
        fn ready(&self) -> Result<(), PromptError> {
            match stdin().is_terminal() && stderr().is_terminal() {
                true => Ok(()),
                false => Err(PromptError::NoTerminal),
            }
        }

        fn ask(&self, question: &Question) -> Result<Value, PromptError> {
            self.ready()?;
            let label = format!("{}.{}", question.key, question.place);
            let help = match &question.description {
                Some(description) => format!("{description} Expected: {}", question.expected),
                None => format!("Expected: {}", question.expected),
            };
            let text = match &question.form {
                _ if question.secret => Password::new(&label)
                    .with_display_mode(PasswordDisplayMode::Masked)
                    .without_confirmation()
                    .with_help_message(&help)
                    .with_validator(fits(question))
                    .prompt(),
                Form::Confirm => {
                    let answer = Confirm::new(&label).with_help_message(&help).prompt();
                    return answer.map(Value::Bool).map_err(failed);
                }
                Form::Choice(choices) => {
                    Select::new(&label, choices.clone()).with_help_message(&help).prompt()
                }
                Form::Text | Form::Json => {
                    Text::new(&label).with_help_message(&help).with_validator(fits(question)).prompt()
                }
            };
            let text = text.map_err(failed)?;
            question.read(&text).map_err(PromptError::Failed)
        }

        fn say(&self, text: &str) {
            // A terminal that is gone is found by the question that follows.
            let _ = writeln!(stderr(), "{text}");
        }
    }

    fn fits(question: &Question) -> impl StringValidator + 'static {
        let question = question.clone();
        move |text: &str| {
            Ok(match question.read(text) {
                Ok(_) => Validation::Valid,
                Err(why) => Validation::Invalid(why.into()),
            })
        }
    }

    fn failed(error: InquireError) -> PromptError {
        match error {
            InquireError::OperationCanceled | InquireError::OperationInterrupted => PromptError::Cancelled,
            InquireError::NotTTY => PromptError::NoTerminal,
            other => PromptError::Failed(other.to_string()),
        }
    }
}
