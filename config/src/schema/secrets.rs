//! Which places of a schema are secret: those with `x-secret`, wherever they are.
//!
//! A secret that has no name of its own (in a list, in a map, in a type that contains itself) makes the place around
//! it secret as a whole.

use serde_json::{Map, Value};

use super::place::Place;
use crate::key::FieldPath;

const MARK: &str = "x-secret";

/// Marks a place; `false` if there is none.
pub(crate) fn mark_secret(schema: &mut Value, place: &FieldPath) -> bool {
    let Some(pointer) = Place::root(schema).pointer_to(place) else { return false };
    match schema.pointer_mut(&pointer) {
        Some(Value::Object(keywords)) => mark(keywords),
        // `true`: anything goes.
        Some(anything) => {
            let mut keywords = Map::new();
            mark(&mut keywords);
            *anything = Value::Object(keywords);
        }
        None => return false,
    }
    true
}

fn mark(keywords: &mut Map<String, Value>) {
    keywords.insert("writeOnly".to_owned(), Value::Bool(true));
    keywords.insert(MARK.to_owned(), Value::Bool(true));
}

/// All secret places, in order.
pub(crate) fn secrets(schema: &Value) -> Vec<FieldPath> {
    let mut found = Vec::new();
    walk(schema, schema, &FieldPath::root(), &mut Vec::new(), &mut found);
    found.sort();
    found.dedup();
    found
}

fn walk<'s>(
    root: &'s Value,
    schema: &'s Value,
    place: &FieldPath,
    within: &mut Vec<&'s str>,
    found: &mut Vec<FieldPath>,
) {
    let Value::Object(keywords) = schema else { return };
    if keywords.get(MARK) == Some(&Value::Bool(true)) {
        found.push(place.clone());
        return;
    }
    for (keyword, value) in keywords {
        match (keyword.as_str(), value) {
            ("$ref", Value::String(reference)) => {
                let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
                let Some(target) = target else { continue };
                match within.contains(&reference.as_str()) {
                    // It contains itself: its secrets lie at any depth.
                    true => {
                        if has_secret(root, target, &mut Vec::new()) {
                            found.push(place.clone());
                        }
                    }
                    false => {
                        within.push(reference);
                        walk(root, target, place, within, found);
                        within.pop();
                    }
                }
            }
            ("properties", Value::Object(fields)) => {
                for (name, field) in fields {
                    walk(root, field, &place.join(name), within, found);
                }
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                for part in parts {
                    walk(root, part, place, within, found);
                }
            }
            ("$defs" | "definitions" | "default" | "examples" | "enum" | "const", _) => {}
            (_, part) => {
                if has_secret(root, part, &mut Vec::new()) {
                    found.push(place.clone());
                }
            }
        }
    }
}

fn has_secret<'s>(root: &'s Value, part: &'s Value, seen: &mut Vec<&'s str>) -> bool {
    match part {
        Value::Array(parts) => parts.iter().any(|part| has_secret(root, part, seen)),
        Value::Object(keywords) => {
            keywords.get(MARK) == Some(&Value::Bool(true))
                || keywords.iter().any(|(keyword, value)| match (keyword.as_str(), value) {
                    ("$ref", Value::String(reference)) if !seen.contains(&reference.as_str()) => {
                        seen.push(reference);
                        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
                        target.is_some_and(|target| has_secret(root, target, seen))
                    }
                    ("default" | "examples" | "enum" | "const", _) => false,
                    (_, value) => has_secret(root, value, seen),
                })
        }
        _ => false,
    }
}
