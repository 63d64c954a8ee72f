//! The version of a schema: SHA-256 of its canonical form, which has what values must look like and nothing else.
//!
//! Left out: titles, descriptions, defaults, examples, extensions, names of definitions. Put in one order: keywords,
//! fields, alternatives. So the same model has the same version with another compiler, another version of schemars
//! that words the same differently in these respects, fields in another order, or better documentation.

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::model::SchemaVersion;

/// Keywords that say nothing about which values are accepted. `format` is none of them: it alone tells `u32` from
/// `u64`.
const ANNOTATIONS: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
];

/// Version of a schema.
#[must_use]
pub fn version(schema: &Value) -> SchemaVersion {
    let canonical = canonical(schema, schema, &mut Vec::new());
    let hash = Sha256::digest(written(&canonical));
    SchemaVersion(HEXLOWER.encode(&hash[..8]))
}

/// JSON with sorted keys, whatever map the build of serde_json has.
fn written(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<_> = members
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), written(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(",")),
        // 65535 and 65535.0 bound the same.
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                format!("{float:.0}")
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// `within`: the definitions around, innermost last, by which a recursive one is named without its name.
fn canonical<'s>(root: &'s Value, schema: &'s Value, within: &mut Vec<&'s str>) -> Value {
    let Value::Object(keywords) = schema else { return schema.clone() };
    let mut out = Map::new();
    let mut all_of = Vec::new();
    for (keyword, value) in keywords {
        if ANNOTATIONS.contains(&keyword.as_str()) || keyword.starts_with("x-") {
            continue;
        }
        match (keyword.as_str(), value) {
            ("$ref", Value::String(reference)) => all_of.push(referred(root, reference, within)),
            ("allOf", Value::Array(parts)) => {
                all_of.extend(parts.iter().map(|part| canonical(root, part, within)));
            }
            ("anyOf" | "oneOf", Value::Array(parts)) => {
                let parts = parts.iter().map(|part| canonical(root, part, within)).collect();
                // Which of the two a schema says makes no difference for alternatives of a Rust type.
                match alternatives(parts) {
                    Value::Object(one) if one.len() == 1 && one.contains_key("anyOf") => out.extend(one),
                    one => all_of.push(one),
                }
            }
            ("properties" | "patternProperties" | "dependentSchemas", Value::Object(fields)) => {
                let fields: Map<_, _> = fields
                    .iter()
                    .map(|(name, field)| (name.clone(), canonical(root, field, within)))
                    .collect();
                if !fields.is_empty() {
                    out.insert(keyword.clone(), Value::Object(fields));
                }
            }
            ("items" | "contains" | "not" | "if" | "then" | "else" | "propertyNames", part) => {
                out.insert(keyword.clone(), canonical(root, part, within));
            }
            // What a struct does not have is refused anyway.
            ("additionalProperties" | "unevaluatedProperties", Value::Bool(_)) => {
                if value == &Value::Bool(true) {
                    out.insert("additionalProperties".to_owned(), Value::Bool(true));
                }
            }
            ("additionalProperties" | "unevaluatedProperties", part) => {
                out.insert("additionalProperties".to_owned(), canonical(root, part, within));
            }
            ("prefixItems", Value::Array(parts)) => {
                out.insert(
                    keyword.clone(),
                    parts.iter().map(|part| canonical(root, part, within)).collect::<Vec<_>>().into(),
                );
            }
            ("const", value) => {
                out.insert("enum".to_owned(), json!([value]));
            }
            ("required" | "enum" | "type", Value::Array(values)) => {
                let values = sorted(values.clone());
                match (keyword.as_str(), values.as_slice()) {
                    ("required", []) => {}
                    ("type", [one]) => {
                        out.insert(keyword.clone(), one.clone());
                    }
                    _ => {
                        out.insert(keyword.clone(), values.into());
                    }
                }
            }
            _ => {
                out.insert(keyword.clone(), value.clone());
            }
        }
    }
    // A reference with nothing beside it is what it refers to.
    if out.is_empty() && all_of.len() == 1 {
        return all_of.remove(0);
    }
    let mut rest = Vec::new();
    for part in sorted(all_of) {
        match part {
            Value::Object(part) if part.keys().all(|keyword| !out.contains_key(keyword)) => out.extend(part),
            part => rest.push(part),
        }
    }
    if !rest.is_empty() {
        out.insert("allOf".to_owned(), sorted(rest).into());
    }
    Value::Object(out)
}

fn referred<'s>(root: &'s Value, reference: &'s str, within: &mut Vec<&'s str>) -> Value {
    if let Some(depth) = within.iter().rev().position(|outer| *outer == reference) {
        return json!({ "$recursive": depth });
    }
    let Some(target) = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer)) else {
        return json!({ "$ref": reference });
    };
    within.push(reference);
    let target = canonical(root, target, within);
    within.pop();
    target
}

/// Alternatives in one order. Those that are plain texts become one list, since schemars writes `enum` for them
/// without doc comments, and one alternative each with them.
fn alternatives(parts: Vec<Value>) -> Value {
    let mut texts = Vec::new();
    let mut others = Vec::new();
    for part in parts {
        match part.as_object() {
            Some(keywords)
                if keywords.len() == 2
                    && keywords.get("type") == Some(&json!("string"))
                    && keywords.contains_key("enum") =>
            {
                texts.extend(keywords["enum"].as_array().cloned().unwrap_or_default());
            }
            _ => others.push(part),
        }
    }
    if !texts.is_empty() {
        others.push(json!({ "type": "string", "enum": sorted(texts) }));
    }
    match others.len() {
        1 => others.remove(0),
        _ => json!({ "anyOf": sorted(others) }),
    }
}

fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_by_cached_key(written);
    values.dedup();
    values
}
