//! The environment: `HARMONY_CONFIG_<KEY>` whole as JSON, `HARMONY_CONFIG_<KEY>__<FIELD>` for single fields.
//!
//! Text is read by the type that the schema gives its field: text stays as it is, everything else is JSON. So a
//! number never becomes text, and no text is guessed to be a number. It is read-only.

use std::{collections::BTreeMap, ffi::OsString};

use async_trait::async_trait;
use serde_json::Value;

use super::{Document, Layer, Source, SourceError};
use crate::{
    key::FieldPath,
    model::Model,
    schema::{Place, Step},
};

/// Variables of this process.
#[derive(Clone)]
pub struct Environment {
    prefix: String,
    style: Style,
    /// Instead of the process' own.
    variables: Option<Vec<(OsString, OsString)>>,
}

// Variables have secrets in them.
impl std::fmt::Debug for Environment {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Environment")
            .field("prefix", &self.prefix)
            .field("style", &self.style)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Prefix, key, field.
    Keyed,
    /// Prefix, field: for a program that has one model.
    Flat,
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment {
    /// `HARMONY_CONFIG_<KEY>` and `HARMONY_CONFIG_<KEY>__<FIELD>`.
    #[must_use]
    pub fn new() -> Self {
        Self::with_prefix("HARMONY_CONFIG_")
    }

    /// `<prefix><KEY>` and `<prefix><KEY>__<FIELD>`.
    #[must_use]
    pub fn with_prefix(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), style: Style::Keyed, variables: None }
    }

    /// `<prefix><FIELD>`, without the key, for a program that has one model: `VK_NATS_NATS_URL`.
    ///
    /// Variables that Kubernetes makes for a Service of the same name (`…_SERVICE_HOST`, `…_PORT_4222_TCP`) are not
    /// reported as unknown fields.
    #[must_use]
    pub fn flat(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), style: Style::Flat, variables: None }
    }

    /// Reads these instead of the variables of this process.
    #[must_use]
    pub fn with_variables<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.variables =
            Some(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect());
        self
    }

    /// Name of the variable for the whole of a model.
    fn whole(&self, model: &Model) -> Option<String> {
        (self.style == Style::Keyed).then(|| format!("{}{}", self.prefix, model.key))
    }

    /// What all variables of a model's fields begin with.
    fn fields(&self, model: &Model) -> String {
        match self.style {
            Style::Keyed => format!("{}{}__", self.prefix, model.key),
            Style::Flat => self.prefix.clone(),
        }
    }

    /// Name of the variable for one field.
    #[must_use]
    pub fn variable(&self, model: &Model, place: &FieldPath) -> String {
        let names: Vec<_> = place.names().iter().map(|name| plain(name).to_uppercase()).collect();
        match names.is_empty() {
            true => self.whole(model).unwrap_or_else(|| self.prefix.clone()),
            false => format!("{}{}", self.fields(model), names.join("__")),
        }
    }

    /// The variables that are meant for a model: (name, path as it stands in the name, value).
    fn meant_for(&self, model: &Model) -> Result<Vec<(String, Vec<String>, String)>, SourceError> {
        let whole = self.whole(model);
        let fields = self.fields(model);
        let mut found = Vec::new();
        let mut take = |name: OsString, value: OsString| -> Result<(), SourceError> {
            // Nearly all variables are somebody else's.
            if !name.as_encoded_bytes().starts_with(self.prefix.as_bytes()) {
                return Ok(());
            }
            let shown = name.to_string_lossy();
            let path = if whole.as_deref() == Some(&*shown) {
                Vec::new()
            } else if let Some(rest) = shown.strip_prefix(&fields) {
                rest.split("__").map(str::to_owned).collect()
            } else {
                return Ok(());
            };
            let value = value
                .into_string()
                .map_err(|_| malformed(&shown, "its value is not UTF-8", "Set it again"))?;
            found.push((shown.into_owned(), path, value));
            Ok(())
        };
        match &self.variables {
            Some(variables) => {
                let ours = |name: &OsString| name.as_encoded_bytes().starts_with(self.prefix.as_bytes());
                let mut ours = variables.iter().filter(|(name, _)| ours(name));
                ours.try_for_each(|(name, value)| take(name.clone(), value.clone()))?;
            }
            None => std::env::vars_os().try_for_each(|(name, value)| take(name, value))?,
        }
        // The whole first, then tables before what lies in them; the order of the environment is nobody's choice.
        found.sort_by(|(one, left, _), (other, right, _)| (left.len(), one).cmp(&(right.len(), other)));
        Ok(found)
    }
}

#[async_trait]
impl Source for Environment {
    fn name(&self) -> &str {
        "environment"
    }

    fn how_to_set(&self, model: &Model) -> String {
        match self.whole(model) {
            Some(whole) => format!("the variable {whole} (JSON), or {whole}__<FIELD>"),
            None => format!("the variables {}<FIELD>", self.prefix),
        }
    }

    fn how_to_set_field(&self, model: &Model, place: &FieldPath) -> String {
        format!("the variable {}", self.variable(model, place))
    }

    async fn read(&self, model: &Model) -> Result<Option<Layer>, SourceError> {
        let variables = self.meant_for(model)?;
        let mut values = Document::new();
        let mut fields = BTreeMap::new();
        let mut place = "the environment".to_owned();
        for (name, path, text) in variables {
            if path.is_empty() {
                values = whole(&name, &text)?;
                place = format!("variable {name}");
                fields.insert(FieldPath::root(), name);
                continue;
            }
            let (path, target) = locate(model, &name, &path)?;
            if let (Step::Unknown, Style::Flat) = (target, self.style)
                && of_a_service(path.names())
            {
                continue;
            }
            let value = match target {
                Step::To(target) => typed(target, &name, text)?,
                // What nobody describes is JSON where it can be, else text.
                Step::Open | Step::Unknown => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            };
            insert(&mut values, &fields, &path, value, &name)?;
            fields.insert(path, name);
        }
        if fields.is_empty() {
            return Ok(None);
        }
        fields.remove(&FieldPath::root());
        let fields = fields.into_iter().map(|(path, name)| (path, format!("variable {name}"))).collect();
        Ok(Some(Layer { values, place, fields, version: None, revision: None }))
    }
}

fn malformed(name: &str, why: &str, hint: &str) -> SourceError {
    SourceError::Malformed { place: format!("variable {name}"), why: why.to_owned(), hint: hint.to_owned() }
}

fn whole(name: &str, text: &str) -> Result<Document, SourceError> {
    let hint = "It takes a JSON object, e.g. {\"field\": 1}; single fields have variables of their own";
    match serde_json::from_str(text) {
        Ok(Value::Object(values)) => Ok(values),
        Ok(other) => Err(malformed(name, &format!("it is {}", crate::schema::json_type(&other)), hint)),
        // The text of serde_json's syntax errors has a position and no value.
        Err(error) => Err(malformed(name, &format!("it is no JSON: {error}"), hint)),
    }
}

/// As a field's name is compared: lower case, `_` for `-`.
fn plain(name: &str) -> String {
    name.replace('-', "_").to_lowercase()
}

/// Whether both are the same name, as names of fields are compared.
fn same(one: &str, other: &str) -> bool {
    if one.is_ascii() && other.is_ascii() {
        let plain = |letter: u8| if letter == b'-' { b'_' } else { letter.to_ascii_lowercase() };
        return one.bytes().map(plain).eq(other.bytes().map(plain));
    }
    plain(one) == plain(other)
}

/// Finds the fields that the parts of a variable's name mean.
fn locate<'m>(
    model: &'m Model,
    variable: &str,
    path: &[String],
) -> Result<(FieldPath, Step<'m>), SourceError> {
    let mut found = FieldPath::root();
    let mut here = Step::To(model.root());
    for name in path {
        let Step::To(place) = here else {
            found = found.join(&name.to_lowercase());
            continue;
        };
        let fields: Vec<_> = place.fields().into_iter().filter(|(field, _)| same(field, name)).collect();
        (found, here) = match fields.as_slice() {
            // Through `step`, which knows when one name means several things.
            [(field, _)] => (found.join(field), place.step(field)),
            // The name of a map's member is the user's own.
            [] if place.is_map() => (found.join(name), place.step(name)),
            [] => (found.join(&name.to_lowercase()), place.step(&name.to_lowercase())),
            several => {
                let names: Vec<_> = several.iter().map(|(name, _)| *name).collect();
                return Err(malformed(
                    variable,
                    &format!("it could mean any of {}", names.join(", ")),
                    "Give the whole as JSON instead",
                ));
            }
        };
    }
    Ok((found, here))
}

/// Reads text as the type that its place has.
fn typed(place: Place<'_>, variable: &str, text: String) -> Result<Value, SourceError> {
    let types = place.types();
    let others = types.iter().any(|name| !matches!(*name, "string" | "null"));
    let takes_text = types.contains(&"string");
    if takes_text && !others {
        return Ok(Value::String(text));
    }
    match serde_json::from_str::<Value>(&text) {
        // `"5"` in quotes is text, where both are possible.
        Ok(value) => Ok(value),
        Err(_) if takes_text || types.is_empty() => Ok(Value::String(text)),
        Err(_) => {
            let hint = match types.contains(&"array") || types.contains(&"object") {
                true => "Lists and tables are written as JSON, e.g. [\"a\", \"b\"]",
                false => "Write it without quotes, as in JSON",
            };
            Err(malformed(variable, &format!("expected {}, found text that is none", place.expected()), hint))
        }
    }
}

/// Puts a value where nobody else put one.
fn insert(
    values: &mut Document,
    given: &BTreeMap<FieldPath, String>,
    path: &FieldPath,
    value: Value,
    variable: &str,
) -> Result<(), SourceError> {
    let twice = || {
        let other =
            given.iter().filter(|(other, _)| other.covers(path)).map(|(_, name)| name.as_str()).next_back();
        let why = format!("the variable {} gives {path}, too", other.unwrap_or("of another case"));
        malformed(variable, &why, "Remove one of them")
    };
    let Some((last, parents)) = path.names().split_last() else { return Ok(()) };
    let mut table = values;
    for name in parents {
        let inner = table.entry(name.clone()).or_insert_with(|| Value::Object(Document::new()));
        table = inner.as_object_mut().ok_or_else(twice)?;
    }
    if table.contains_key(last) {
        return Err(twice());
    }
    table.insert(last.clone(), value);
    Ok(())
}

/// Whether Kubernetes makes such a variable for each Service:
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>.
fn of_a_service(path: &[String]) -> bool {
    let [name] = path else { return false };
    name.ends_with("service_host")
        || name.contains("service_port")
        || name == "port"
        || (name.contains("port_") && (name.contains("_tcp") || name.contains("_udp")))
}
