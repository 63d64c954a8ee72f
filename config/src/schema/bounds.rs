//! What a schema asks of whole values beyond types and names: bounds, lengths, patterns, alternatives.
//!
//! Checked with the feature `validate` (part of the default features): it takes a validator with regular expressions,
//! which a program on a small device may not want. Without the feature these rules are serde's only.

use serde_json::Value;

use super::faults::Fault;

/// The rules of one schema, compiled.
#[derive(Debug)]
pub struct Bounds {
    #[cfg(feature = "validate")]
    validator: Option<jsonschema::Validator>,
}

#[cfg(feature = "validate")]
impl Bounds {
    /// Compiles. A schema that no validator understands (an unknown reference) has no bounds; serde still judges.
    #[must_use]
    pub fn of(schema: &Value) -> Self {
        Self { validator: jsonschema::draft202012::new(schema).ok() }
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
