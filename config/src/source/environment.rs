//! The environment: `HARMONY_CONFIG_<KEY>` whole as JSON, `HARMONY_CONFIG_<KEY>__<FIELD>` for single fields.
//!
//! Text is read by the type that the schema gives its field ([`read_text`](crate::schema::Place::read_text)): text stays as it is, a list of
//! texts may be separated by commas (`a,b`, or `["a", "b"]` where a text has a comma), everything else is JSON. So a
//! number never becomes text, and no text is guessed to be a number. It is read-only.

use std::{collections::BTreeMap, ffi::OsString};

use async_trait::async_trait;
use serde_json::Value;

use super::{Document, Layer, Source, SourceError};
use crate::{
    key::FieldPath,
    model::Model,
    schema::{Leads, Shape, Text},
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

    /// Which of a model's fields a variable's name means: `""` for the whole, `FIELD__FIELD`; `None` if it is not meant.
    fn meant<'n>(&self, model: &Model, name: &'n str) -> Option<&'n str> {
        let rest = name.strip_prefix(&self.prefix)?;
        match self.style {
            Style::Flat => Some(rest),
            Style::Keyed => match rest.strip_prefix(model.key.as_str())? {
                "" => Some(""),
                rest => rest.strip_prefix("__"),
            },
        }
    }

    /// The variables that are meant for a model.
    fn meant_for(&self, model: &Model) -> Result<Vec<Variable>, SourceError> {
        let mut found = Vec::new();
        // Nearly all variables are somebody else's.
        let ours = |name: &OsString| name.as_encoded_bytes().starts_with(self.prefix.as_bytes());
        let mut take = |name: OsString, value: OsString| -> Result<(), SourceError> {
            let name = name.into_string().unwrap_or_else(|name| name.to_string_lossy().into_owned());
            let Some(rest) = self.meant(model, &name) else { return Ok(()) };
            let is_whole =
                self.style == Style::Keyed && name.len() == self.prefix.len() + model.key.as_str().len();
            let parts = if is_whole { 0 } else { rest.split("__").count() };
            let path = name.len() - rest.len();
            let value = value
                .into_string()
                .map_err(|_| malformed(&name, "its value is not UTF-8", "Set it again"))?;
            found.push(Variable { parts, name, path, value });
            Ok(())
        };
        match &self.variables {
            Some(variables) => {
                let mut ours = variables.iter().filter(|(name, _)| ours(name));
                ours.try_for_each(|(name, value)| take(name.clone(), value.clone()))?;
            }
            None => {
                let mut ours = std::env::vars_os().filter(|(name, _)| ours(name));
                ours.try_for_each(|(name, value)| take(name, value))?;
            }
        }
        // The whole first, then tables before what lies in them; the order of the environment is nobody's choice.
        found.sort_by(|one, other| (one.parts, &one.name).cmp(&(other.parts, &other.name)));
        Ok(found)
    }
}

/// A variable that is meant for a model.
struct Variable {
    /// How many names its path has; none for the whole.
    parts: usize,
    name: String,
    /// Where in the name the path begins.
    path: usize,
    value: String,
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
        if variables.is_empty() {
            return Ok(None);
        }
        let mut values = Document::new();
        let mut fields = BTreeMap::new();
        let mut place = "the environment".to_owned();
        for Variable { parts, name, path, value: text } in variables {
            if parts == 0 {
                values = whole(&name, &text)?;
                place = format!("variable {name}");
                fields.insert(FieldPath::root(), place.clone());
                continue;
            }
            let (path, leads) = locate(model, &name, &name[path..])?;
            if let (Leads::Unknown, Style::Flat) = (leads, self.style)
                && of_a_service(path.names())
            {
                continue;
            }
            let value = match leads {
                Leads::To(target) => model.shape().text(target).read(&text),
                // What nobody describes is JSON where it can be, else text.
                Leads::Open | Leads::Unknown => Text::Json.read(&text),
            };
            insert(&mut values, &fields, &path, value, &name)?;
            fields.insert(path, format!("variable {name}"));
        }
        if fields.is_empty() {
            return Ok(None);
        }
        fields.remove(&FieldPath::root());
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
fn locate(model: &Model, variable: &str, path: &str) -> Result<(FieldPath, Leads), SourceError> {
    let shape = model.shape();
    let mut found = Vec::new();
    let mut here = Leads::To(Shape::ROOT);
    for name in path.split("__") {
        let Leads::To(place) = here else {
            found.push(name.to_lowercase());
            continue;
        };
        let mut fields = shape.fields(place).filter(|(field, _)| same(field, name));
        let (field, leads) = match (fields.next(), fields.next()) {
            (Some((field, leads)), None) => (field.to_owned(), leads),
            // The name of a map's member is the user's own.
            (None, _) if shape.is_map(place) => (name.to_owned(), shape.leads(place, name)),
            (None, _) => {
                let name = name.to_lowercase();
                let leads = shape.leads(place, &name);
                (name, leads)
            }
            (Some(_), Some(_)) => {
                let names = shape.fields(place).map(|(field, _)| field).filter(|field| same(field, name));
                return Err(malformed(
                    variable,
                    &format!("it could mean any of {}", names.collect::<Vec<_>>().join(", ")),
                    "Give the whole as JSON instead",
                ));
            }
        };
        found.push(field);
        here = leads;
    }
    Ok((found.into_iter().collect(), here))
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
        let why = format!("the {} gives {path}, too", other.unwrap_or("variable of another case"));
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
