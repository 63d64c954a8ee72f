//! What a schema asks of whole values beyond types and names: bounds, lengths, patterns, alternatives.
//!
//! Checked with the feature `validate` (part of the default features): it takes a validator with regular expressions,
//! which a program on a small device may not want. Without the feature these rules are serde's only.

use serde_json::Value;

use super::faults::Fault;

/// Whether a schema asks for nothing that types and names do not say. Then nothing is compiled, which takes longer
/// than all else that happens at the start of a program.
///
/// Only what is known to be checked by [`faults`](super::faults()) is passed over.
#[cfg(feature = "validate")]
fn is_plain(schema: &Value) -> bool {
    let Value::Object(schema) = schema else { return schema == &Value::Bool(true) };
    let whole_number = schema.get("format").and_then(Value::as_str).is_some_and(|format| {
        ["uint8", "uint16", "uint32", "uint64", "uint", "int8", "int16", "int32", "int64", "int"]
            .contains(&format)
    });
    let null = |schema: &Value| schema.get("type").and_then(Value::as_str) == Some("null");
    schema.iter().all(|(keyword, value)| match keyword.as_str() {
        "$schema" | "title" | "description" | "default" | "examples" | "deprecated" | "readOnly"
        | "writeOnly" | "format" | "required" => true,
        extension if extension.starts_with("x-") => true,
        // Two of them that contradict each other are nobody's.
        "type" => !schema.contains_key("$ref"),
        "$ref" => value.as_str().is_some_and(|reference| reference.starts_with("#/$defs/")),
        "$defs" => value.as_object().is_some_and(|schemas| schemas.values().all(is_plain)),
        "properties" => {
            !schema.contains_key("$ref")
                && value.as_object().is_some_and(|schemas| schemas.values().all(is_plain))
        }
        "items" => value.is_object() && is_plain(value),
        "additionalProperties" => value.is_boolean() || is_plain(value),
        "minimum" | "maximum" => whole_number && value.as_i64().is_some(),
        "enum" | "const" => !schema.get("type").is_some_and(Value::is_array),
        // An enum without fields: texts to choose from.
        "oneOf" => value.as_array().is_some_and(|branches| branches.iter().all(is_text)),
        // An optional value: one schema, or null.
        "anyOf" => value.as_array().is_some_and(|branches| {
            branches.len() == 2
                && branches.iter().filter(|branch| null(branch)).count() == 1
                && branches.iter().all(is_plain)
        }),
        _ => false,
    })
}

/// Whether a schema is texts to choose from, and nothing else.
#[cfg(feature = "validate")]
fn is_text(schema: &Value) -> bool {
    let is_listed = schema.get("const").is_some_and(Value::is_string) || schema.get("enum").is_some();
    is_listed
        && schema.as_object().is_some_and(|schema| {
            schema.iter().all(|(keyword, value)| match keyword.as_str() {
                "type" => value == "string",
                keyword => {
                    matches!(keyword, "const" | "enum" | "title" | "description" | "deprecated")
                        || keyword.starts_with("x-")
                }
            })
        })
}

/// The rules of one schema, compiled.
#[derive(Debug)]
pub struct Bounds {
    #[cfg(feature = "validate")]
    validator: Option<jsonschema::Validator>,
}

#[cfg(feature = "validate")]
impl Bounds {
    /// Compiles, unless types and names say all. A schema that no validator understands (an unknown reference) has no bounds; serde still judges.
    #[must_use]
    pub fn of(schema: &Value) -> Self {
        let validator = (!is_plain(schema)).then(|| jsonschema::draft202012::new(schema).ok()).flatten();
        Self { validator }
    }

    /// Whether the rules say nothing against a whole document.
    #[must_use]
    pub fn hold(&self, values: &Value) -> bool {
        self.validator.as_ref().is_none_or(|validator| validator.is_valid(values))
    }

    /// What the rules say against a whole document. `hidden` places are secret: nothing about them is repeated.
    #[must_use]
    pub fn faults(&self, values: &Value, hidden: impl Fn(&crate::key::FieldPath) -> bool) -> Vec<Fault> {
        use super::faults::FaultKind;
        let Some(validator) = &self.validator else { return Vec::new() };
        if validator.is_valid(values) {
            return Vec::new();
        }
        validator
            .iter_errors(values)
            .map(|error| {
                let place: crate::key::FieldPath = error
                    .instance_path
                    .as_str()
                    .split('/')
                    .skip(1)
                    .map(|name| name.replace("~1", "/").replace("~0", "~"))
                    .collect();
                let expected = match hidden(&place) {
                    true => "what its schema asks for".to_owned(),
                    // The wording of the validator, with the value itself masked.
                    false => format!("a value of which this does not hold: {}", error.masked_with("it")),
                };
                let found = super::json_type(&error.instance).to_owned();
                Fault { place, kind: FaultKind::Unfit, expected, found }
            })
            .collect()
    }
}

#[cfg(not(feature = "validate"))]
impl Bounds {
    /// Nothing to compile.
    #[must_use]
    pub fn of(_schema: &Value) -> Self {
        Self {}
    }

    /// They do.
    #[must_use]
    pub fn hold(&self, _values: &Value) -> bool {
        true
    }

    /// Nothing to say.
    #[must_use]
    pub fn faults(&self, _values: &Value, _hidden: impl Fn(&crate::key::FieldPath) -> bool) -> Vec<Fault> {
        Vec::new()
    }
}
