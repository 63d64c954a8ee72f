//! What is wrong with values: a wrong type, a field that the model does not have, one that is missing.
//!
//! Everything at once, each with its place. Types of values are named, values never.

use std::fmt;

use serde_json::Value;

use super::place::{Place, Step, json_type};
use crate::{key::FieldPath, source::Document};

/// How much of a model the values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it: what is required must be there.
    Whole,
    /// What one source has.
    Part,
}

/// What kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A required value is not there.
    Missing,
    /// The model has no such field.
    Unknown,
    /// The value is of another type, or is none of those that are listed.
    Unfit,
}

/// One thing that is wrong with values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: FieldPath,
    /// What kind.
    pub kind: FaultKind,
    /// What belongs there: `a whole number from 0 to 65535`.
    pub expected: String,
    /// What is there, without the value: `text`.
    pub found: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place.names().is_empty() {
            true => "the whole".to_owned(),
            false => self.place.to_string(),
        };
        match self.kind {
            FaultKind::Missing => write!(out, "{place} is missing (expected {})", self.expected),
            FaultKind::Unknown => write!(out, "{place} is no field of this model ({})", self.expected),
            FaultKind::Unfit => write!(out, "{place}: expected {}, found {}", self.expected, self.found),
        }
    }
}

/// All that the schema's types and names say against these values.
#[must_use]
pub fn faults(schema: &Value, values: &Document, extent: Extent) -> Vec<Fault> {
    let mut found = Vec::new();
    table(Place::root(schema), values, &FieldPath::root(), extent, &mut found);
    found
}

fn table(place: Place<'_>, values: &Document, path: &FieldPath, extent: Extent, found: &mut Vec<Fault>) {
    for (name, value) in values {
        match place.step(name) {
            Step::To(inner) => one(inner, value, &path.join(name), extent, found),
            Step::Open => {}
            Step::Unknown => found.push(Fault {
                place: path.join(name),
                kind: FaultKind::Unknown,
                expected: meant(place, name),
                found: json_type(value).to_owned(),
            }),
        }
    }
    if extent == Extent::Whole {
        missing(place, values, path, found);
    }
}

fn missing(place: Place<'_>, values: &Document, path: &FieldPath, found: &mut Vec<Fault>) {
    for name in place.required().into_iter().filter(|name| !values.contains_key(*name)) {
        let Step::To(inner) = place.step(name) else { continue };
        let path = path.join(name);
        // A table with required fields of its own is asked for by those.
        if inner.is_struct() && !inner.required().is_empty() {
            missing(inner, &Document::new(), &path, found);
        } else {
            found.push(Fault {
                place: path,
                kind: FaultKind::Missing,
                expected: inner.expected(),
                found: "nothing".to_owned(),
            });
        }
    }
}

fn one(place: Place<'_>, value: &Value, path: &FieldPath, extent: Extent, found: &mut Vec<Fault>) {
    let types = place.types();
    let choices = place.choices();
    let fits = fits_type(&types, value)
        && match (&choices, value) {
            (_, Value::Null) => true,
            (Some(choices), value) => choices.contains(&value),
            (None, _) => true,
        };
    let in_range = match (value, place.alternatives().is_empty().then(|| place.range()).flatten()) {
        (Value::Number(number), Some((low, high))) if !number.is_f64() => {
            let number = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            number.is_none_or(|number| (low..=high).contains(&number))
        }
        _ => true,
    };
    if !fits || !in_range {
        let found_type = match (value, fits_type(&types, value)) {
            (Value::String(_), true) => "another text",
            (Value::Number(_), true) => "a number outside of that",
            _ => json_type(value),
        };
        found.push(Fault {
            place: path.clone(),
            kind: FaultKind::Unfit,
            expected: place.expected(),
            found: found_type.to_owned(),
        });
        return;
    }
    match value {
        // Which of several shapes is meant is serde's to say.
        Value::Object(_) if !place.alternatives().is_empty() && !place.merges() => {}
        Value::Object(values) => table(place, values, path, extent, found),
        Value::Array(items) => {
            if let Some(item) = place.items() {
                // An item of a list is never merged with another source's: it is whole.
                for (at, value) in items.iter().enumerate() {
                    one(item, value, &path.join(&at.to_string()), Extent::Whole, found);
                }
            }
        }
        _ => {}
    }
}

fn fits_type(types: &[&str], value: &Value) -> bool {
    types.is_empty()
        || types.iter().any(|name| match *name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        })
}

/// What an unknown name may have meant.
fn meant(place: Place<'_>, name: &str) -> String {
    let fields = place.fields();
    let near = fields.iter().map(|(known, _)| (distance(known, name), *known)).min();
    match near {
        Some((distance, known)) if distance <= 2.max(name.len() / 3) => format!("did you mean {known}?"),
        _ => format!("it has {}", fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")),
    }
}

/// Edits that turn one name into the other (Levenshtein), case aside.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.to_lowercase().chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, left) in one.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (at, right) in other.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = (diagonal + usize::from(left != *right)).min(above + 1).min(row[at] + 1);
            diagonal = above;
        }
    }
    row[other.len()]
}
