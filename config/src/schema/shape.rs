//! What a schema says about types and names, prepared: whether values fit is asked with each read of settings, and the
//! answer nearly always is yes.
//!
//! It only says yes where [`faults`](super::faults()) finds nothing; else that says what is wrong, and where.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::{
    faults::Extent,
    place::{Place, Step},
    text::Text,
};
use crate::source::Document;

/// All places of a schema.
#[derive(Debug)]
pub(crate) struct Shape {
    /// The whole is the first.
    places: Vec<Prepared>,
}

/// Where a name leads from a place, as [`Step`] says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    /// To the place with this number.
    To(usize),
    /// Anything goes there.
    Open,
    /// Nothing may stand there.
    Unknown,
}

#[derive(Debug)]
struct Prepared {
    /// Bits of the JSON types that it takes.
    types: u8,
    text: Text,
    choices: Option<Vec<Value>>,
    range: Option<(i128, i128)>,
    /// One of several shapes, of which serde chooses.
    is_choice: bool,
    /// Two tables here become one.
    merges: bool,
    /// It has members under any name.
    is_map: bool,
    fields: BTreeMap<String, Leads>,
    /// Where any other name leads.
    other: Leads,
    required: Vec<String>,
    items: Option<usize>,
}

const NULL: u8 = 1;
const BOOLEAN: u8 = 2;
const INTEGER: u8 = 4;
const FRACTION: u8 = 8;
const STRING: u8 = 16;
const ARRAY: u8 = 32;
const OBJECT: u8 = 64;
const ANY: u8 = u8::MAX;

fn bits(types: &[&str]) -> u8 {
    let bit = |name: &&str| match *name {
        "null" => NULL,
        "boolean" => BOOLEAN,
        "integer" => INTEGER,
        "number" => INTEGER | FRACTION,
        "string" => STRING,
        "array" => ARRAY,
        "object" => OBJECT,
        _ => ANY,
    };
    match types.is_empty() {
        true => ANY,
        false => types.iter().map(bit).fold(0, |all, one| all | one),
    }
}

fn bit(value: &Value) -> u8 {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(number) if number.is_f64() => FRACTION,
        Value::Number(_) => INTEGER,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

/// A name that no schema has.
const NOBODYS: &str = "\u{0}";

impl Shape {
    pub(crate) fn of(schema: &Value) -> Self {
        let mut shape = Self { places: Vec::new() };
        shape.prepare(Place::root(schema), &mut HashMap::new());
        shape
    }

    /// Its number; a place that leads to itself is there once.
    fn prepare(&mut self, place: Place<'_>, known: &mut HashMap<*const Value, usize>) -> usize {
        if let Some(number) = known.get(&place.address()) {
            return *number;
        }
        let number = self.places.len();
        known.insert(place.address(), number);
        let alternatives = !place.alternatives().is_empty();
        self.places.push(Prepared {
            types: bits(&place.types()),
            text: place.text(),
            choices: place.choices().map(|choices| choices.into_iter().cloned().collect()),
            range: if alternatives { None } else { place.range() },
            is_choice: alternatives && !place.merges(),
            merges: place.merges(),
            is_map: place.is_map(),
            fields: BTreeMap::new(),
            other: Leads::Open,
            required: place.required().into_iter().map(str::to_owned).collect(),
            items: None,
        });
        let mut fields = BTreeMap::new();
        for (name, _) in place.fields() {
            let leads = self.lead(place.step(name), known);
            fields.insert(name.to_owned(), leads);
        }
        let other = self.lead(place.step(NOBODYS), known);
        let items = place.items().map(|item| self.prepare(item, known));
        let prepared = &mut self.places[number];
        (prepared.fields, prepared.other, prepared.items) = (fields, other, items);
        number
    }

    fn lead(&mut self, step: Step<'_>, known: &mut HashMap<*const Value, usize>) -> Leads {
        match step {
            Step::To(place) => Leads::To(self.prepare(place, known)),
            Step::Open => Leads::Open,
            Step::Unknown => Leads::Unknown,
        }
    }

    /// The whole.
    pub(crate) const ROOT: usize = 0;

    /// Where a name leads.
    pub(crate) fn leads(&self, place: usize, name: &str) -> Leads {
        self.places
            .get(place)
            .map_or(Leads::Open, |place| place.fields.get(name).copied().unwrap_or(place.other))
    }

    /// The place under a name, if tables there become one, as [`Place::merges`] says.
    pub(crate) fn merging(&self, place: usize, name: &str) -> Option<usize> {
        match self.leads(place, name) {
            Leads::To(inner) if self.places[inner].merges => Some(inner),
            _ => None,
        }
    }

    /// The fields of a place, and where they lead.
    pub(crate) fn fields(&self, place: usize) -> impl Iterator<Item = (&str, Leads)> {
        let here = self.places.get(place).into_iter();
        here.flat_map(|here| &here.fields).map(|(name, leads)| (name.as_str(), *leads))
    }

    /// Whether it has members under any name.
    pub(crate) fn is_map(&self, place: usize) -> bool {
        self.places.get(place).is_some_and(|place| place.is_map)
    }

    /// How a text stands for a value there.
    pub(crate) fn text(&self, place: usize) -> Text {
        self.places.get(place).map_or(Text::Json, |place| place.text)
    }

    /// Whether every field has a value, so that nothing could be added.
    pub(crate) fn is_complete(&self, place: usize, values: &Document) -> bool {
        let Some(here) = self.places.get(place).filter(|place| !place.is_map) else { return false };
        here.fields.keys().all(|name| match (values.get(name), self.merging(place, name)) {
            (None, _) => false,
            (Some(Value::Object(table)), Some(inner)) => self.is_complete(inner, table),
            (Some(_), _) => true,
        })
    }

    /// Whether nothing is wrong. `false` may be said where it is hard to tell.
    pub(crate) fn fits(&self, values: &Document, extent: Extent) -> bool {
        self.table(&self.places[0], values, extent)
    }

    fn table(&self, place: &Prepared, values: &Document, extent: Extent) -> bool {
        let known =
            values.iter().all(|(name, value)| match place.fields.get(name).copied().unwrap_or(place.other) {
                Leads::To(inner) => self.one(&self.places[inner], value, extent),
                Leads::Open => true,
                Leads::Unknown => false,
            });
        known && (extent == Extent::Part || place.required.iter().all(|name| values.contains_key(name)))
    }

    fn one(&self, place: &Prepared, value: &Value, extent: Extent) -> bool {
        if place.types & bit(value) == 0 {
            return false;
        }
        if let Some(choices) = &place.choices
            && !value.is_null()
            && !choices.contains(value)
        {
            return false;
        }
        match value {
            Value::Number(number) if !number.is_f64() => match place.range {
                Some((low, high)) => {
                    let number = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
                    number.is_none_or(|number| (low..=high).contains(&number))
                }
                None => true,
            },
            Value::Object(_) if place.is_choice => true,
            Value::Object(values) => self.table(place, values, extent),
            Value::Array(items) => match place.items {
                Some(item) => items.iter().all(|value| self.one(&self.places[item], value, Extent::Whole)),
                None => true,
            },
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::faults::faults, *};

    fn schema() -> Value {
        json!({
            "$defs": { "node": { "type": "object", "required": ["port"], "properties": {
                "port": { "type": "integer", "format": "uint16", "minimum": 0, "maximum": 65535 },
                "name": { "type": ["string", "null"] },
                "level": { "oneOf": [{ "const": "info" }, { "type": "string", "enum": ["debug", "warn"] }] },
                "share": { "type": "number", "format": "double" },
                "next": { "anyOf": [{ "$ref": "#/$defs/node" }, { "type": "null" }] },
                "list": { "type": "array", "items": { "$ref": "#/$defs/node" } },
                "map": { "type": "object", "additionalProperties": { "type": "boolean" } },
                "shape": { "oneOf": [
                    { "type": "object", "properties": { "kind": { "const": "p" } } },
                    { "type": "object", "properties": { "kind": { "const": "q" } } },
                ] },
                "any": true,
            } } },
            "$ref": "#/$defs/node",
        })
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2..70_000_i64).prop_map(Value::from),
            Just(json!(0.5)),
            "info|debug|other".prop_map(Value::from),
            Just(json!({ "kind": "p" })),
            Just(json!({ "port": 1 })),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            let name = "port|name|level|share|next|list|map|shape|any|nobody";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn values_fit_exactly_where_there_is_no_fault(value in values(), whole in any::<bool>()) {
            let Value::Object(values) = value else { return Ok(()) };
            let (schema, extent) = (schema(), if whole { Extent::Whole } else { Extent::Part });
            let found = faults(&schema, &values, extent);
            prop_assert_eq!(Shape::of(&schema).fits(&values, extent), found.is_empty(), "{:?}", found);
        }
    }
}
