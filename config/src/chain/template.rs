//! An example file out of the schema: every field with its description, what it takes, and its default.
//!
//! Nothing in it takes effect as it stands: `##` begins a remark, `#` a setting that is switched on by removing that one
//! character. JSON has no remarks, so there each field is described by a member whose name begins with `//`, which the
//! file source leaves out.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::ConfigManager;
use crate::{
    error::ConfigError,
    key::FieldPath,
    model::{Config, Model},
    schema::Place,
    source::prompt::one_line,
};

/// Format of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateFormat {
    /// `Key.toml`.
    Toml,
    /// `Key.yaml`.
    Yaml,
    /// `Key.json`.
    Json,
}

/// Tables in tables that are shown: a type may contain itself.
const DEPTH: usize = 5;

impl ConfigManager {
    /// An example file for a model.
    ///
    /// # Errors
    /// [`ConfigError::Model`].
    pub fn template<T: Config>(&self, format: TemplateFormat) -> Result<String, ConfigError> {
        let known = self.inner.registry.of::<T>()?;
        Ok(template(&known.model, format))
    }

    /// The same for a registered model.
    ///
    /// # Errors
    /// [`ConfigError::NoSuchModel`].
    pub fn template_of(&self, key: &str, format: TemplateFormat) -> Result<String, ConfigError> {
        Ok(template(&self.known(key)?.model, format))
    }
}

/// An example file for a model.
#[must_use]
pub fn template(model: &Model, format: TemplateFormat) -> String {
    let mut out = String::new();
    let root = model.root();
    match format {
        TemplateFormat::Toml => {
            head(&mut out, model);
            toml(&mut out, root, &FieldPath::root(), 0);
        }
        TemplateFormat::Yaml => {
            head(&mut out, model);
            yaml(&mut out, root, 0);
        }
        TemplateFormat::Json => {
            let mut members = Map::new();
            members.insert("//".to_owned(), format!("Settings {}. {}", model.key, about(root)).into());
            remarks(&mut members, root, &FieldPath::root(), 0);
            let text = serde_json::to_string_pretty(&Value::Object(members));
            out.push_str(&text.unwrap_or_default());
            out.push('\n');
        }
    }
    out
}

fn about(place: Place<'_>) -> String {
    place.description().map(one_line).unwrap_or_default()
}

fn head(out: &mut String, model: &Model) {
    let _ = writeln!(out, "## Settings {}, schema {}. {}", model.key, model.version, about(model.root()));
    out.push_str("## Remove the # in front of what shall take effect.\n");
}

/// What a field takes, in a line.
fn takes(place: Place<'_>, required: bool) -> String {
    let secret = if place.is_secret() { "secret, " } else { "" };
    let need = match (required, place.default_value()) {
        (true, _) => "required".to_owned(),
        (false, Some(default)) if !place.is_secret() => format!("default {default}"),
        (false, _) => "optional".to_owned(),
    };
    format!("({secret}{need}) {}", place.expected())
}

/// A value of the right type.
fn example(place: Place<'_>, depth: usize) -> Value {
    if let Some(default) = place.default_value().filter(|default| !default.is_null() && !place.is_secret()) {
        return default.clone();
    }
    if let Some(choice) =
        place.choices().and_then(|choices| choices.into_iter().find(|choice| !choice.is_null()))
    {
        return choice.clone();
    }
    if let Some(first) = place.alternatives().first().filter(|_| depth < DEPTH) {
        return example(*first, depth + 1);
    }
    let types = place.types();
    match types.iter().find(|name| **name != "null").copied() {
        Some("string") => "".into(),
        Some("integer") => {
            let (low, high) = place.range().unwrap_or((0, 0));
            i64::try_from(0.clamp(low, high)).unwrap_or_default().into()
        }
        Some("number") => json!(0.0),
        Some("boolean") => false.into(),
        Some("array") => json!([]),
        Some("object") => {
            let required = place.required();
            let fields =
                place.fields().into_iter().filter(|(name, _)| required.contains(name) && depth < DEPTH);
            Value::Object(fields.map(|(name, field)| (name.to_owned(), example(field, depth + 1))).collect())
        }
        _ => "".into(),
    }
}

/// Whether its fields are shown one by one.
fn is_table(place: Place<'_>, depth: usize) -> bool {
    place.is_struct() && depth < DEPTH
}

fn toml(out: &mut String, place: Place<'_>, path: &FieldPath, depth: usize) {
    let required = place.required();
    let (tables, values): (Vec<_>, Vec<_>) =
        place.fields().into_iter().partition(|(_, field)| is_table(*field, depth));
    for (name, field) in values {
        describe(out, "", field, required.contains(&name));
        let name = FieldPath::root().join(name);
        let _ = writeln!(out, "#{name} = {}", in_toml(&example(field, 0)));
    }
    for (name, field) in tables {
        let path = path.join(name);
        describe(out, "", field, required.contains(&name));
        let _ = writeln!(out, "#[{path}]");
        toml(out, field, &path, depth + 1);
    }
}

fn yaml(out: &mut String, place: Place<'_>, depth: usize) {
    let required = place.required();
    let indent = "  ".repeat(depth);
    for (name, field) in place.fields() {
        describe(out, &indent, field, required.contains(&name));
        let written = Value::from(name);
        match is_table(field, depth) {
            true => {
                let _ = writeln!(out, "#{indent}{written}:");
                yaml(out, field, depth + 1);
            }
            // JSON is YAML.
            false => {
                let _ = writeln!(out, "#{indent}{written}: {}", example(field, 0));
            }
        }
    }
}

fn describe(out: &mut String, indent: &str, field: Place<'_>, required: bool) {
    out.push('\n');
    if field.description().is_some() {
        let _ = writeln!(out, "##{indent} {}", about(field));
    }
    let _ = writeln!(out, "##{indent} {}", takes(field, required));
}

fn remarks(members: &mut Map<String, Value>, place: Place<'_>, path: &FieldPath, depth: usize) {
    let required = place.required();
    for (name, field) in place.fields() {
        let path = path.join(name);
        let text = format!("{} {}", about(field), takes(field, required.contains(&name)));
        members.insert(format!("//{path}"), text.trim().into());
        if is_table(field, depth) {
            remarks(members, field, &path, depth + 1);
        }
    }
}

fn in_toml(value: &Value) -> String {
    match value {
        // TOML has no null: an optional field is left out.
        Value::Null => "\"\"".to_owned(),
        Value::Object(members) => {
            let members: Vec<_> = members
                .iter()
                .map(|(name, member)| format!("{} = {}", FieldPath::root().join(name), in_toml(member)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(in_toml).collect::<Vec<_>>().join(", ")),
        // TOML's basic strings escape as JSON's do.
        other => other.to_string(),
    }
}
