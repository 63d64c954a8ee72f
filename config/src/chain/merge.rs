//! Makes one document out of the layers of a chain: the first that has a field wins it.
//!
//! Tables merge field by field, and only where the schema has one set of fields: of an enum's alternatives, or of a
//! value that the schema does not describe, the first source's is taken whole. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{key::FieldPath, schema::Shape, source::Document};

/// The merged values.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Merged {
    pub values: Document,
    /// Tables to which nothing is added any more: a layer has something there that is no table (null, say), and so hides
    /// those below it.
    closed: BTreeSet<FieldPath>,
}

/// For each value the number of the layer it came from.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Origins(BTreeMap<FieldPath, usize>);

/// The place that is merged, by the names on the way to it. A path is made of it only where one is kept.
#[derive(Clone, Copy)]
struct Here<'a> {
    up: Option<&'a Here<'a>>,
    name: &'a str,
}

impl Here<'_> {
    fn path(&self) -> FieldPath {
        let mut names: Vec<_> =
            std::iter::successors(Some(self), |here| here.up).map(|here| here.name).collect();
        names.reverse();
        names.into_iter().collect()
    }
}

impl Merged {
    /// Adds a layer below those that are there.
    pub fn add(&mut self, shape: &Shape, layer: &Document) {
        self.add_noting(shape, layer, &mut |_| ());
    }

    /// The same; `added` is told where.
    fn add_noting(&mut self, shape: &Shape, layer: &Document, added: &mut dyn FnMut(&Here<'_>)) {
        let mut values = std::mem::take(&mut self.values);
        self.fill((shape, Shape::ROOT), &mut values, layer, None, added);
        self.values = values;
    }

    fn fill(
        &mut self,
        (shape, place): (&Shape, usize),
        into: &mut Document,
        layer: &Document,
        up: Option<&Here<'_>>,
        added: &mut dyn FnMut(&Here<'_>),
    ) {
        for (name, value) in layer {
            let at = Here { up, name };
            let here = into.get_mut(name);
            // Only tables merge; what is none need not be looked up.
            let is_table = value.is_object() || here.as_ref().is_some_and(|here| here.is_object());
            let inner = if is_table { shape.merging(place, name) } else { None };
            match (here, value, inner) {
                (Some(Value::Object(table)), Value::Object(lower), Some(inner)) => {
                    if self.closed.is_empty() || !self.closed.contains(&at.path()) {
                        self.fill((shape, inner), table, lower, Some(&at), added);
                    }
                }
                (Some(Value::Object(_)), _, Some(_)) => {
                    self.closed.insert(at.path());
                }
                (Some(_), _, _) => {}
                (None, Value::Object(table), Some(inner)) if !table.is_empty() => {
                    let mut empty = Document::new();
                    self.fill((shape, inner), &mut empty, table, Some(&at), added);
                    into.insert(name.clone(), Value::Object(empty));
                }
                (None, value, _) => {
                    into.insert(name.clone(), value.clone());
                    added(&at);
                }
            }
        }
    }

    /// Whether no further layer could add anything.
    pub fn is_complete(&self, shape: &Shape) -> bool {
        shape.is_complete(Shape::ROOT, &self.values)
    }
}

impl Origins {
    /// Merges the layers, each with its number, once more: a program that reads its settings never asks where they come
    /// from.
    pub fn of<'l>(shape: &Shape, layers: impl IntoIterator<Item = (usize, &'l Document)>) -> Self {
        let (mut merged, mut origins) = (Merged::default(), BTreeMap::new());
        for (number, layer) in layers {
            merged.add_noting(shape, layer, &mut |at| {
                origins.insert(at.path(), number);
            });
        }
        Self(origins)
    }

    /// Each value's place and layer.
    pub fn iter(&self) -> impl Iterator<Item = (&FieldPath, usize)> {
        self.0.iter().map(|(place, number)| (place, *number))
    }

    /// The layer that gave the value at a place, or the first one around it or in it.
    pub fn find(&self, place: &FieldPath) -> Option<usize> {
        let exact = self.0.get(place).copied();
        exact
            .or_else(|| self.iter().find(|(known, _)| known.covers(place)).map(|(_, number)| number))
            .or_else(|| self.iter().find(|(known, _)| place.covers(known)).map(|(_, number)| number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Fields `a`, `b` (tables of the same kind, to any depth), `x` (text), `m` (a map of tables), `e` (an enum with
    /// fields).
    fn schema() -> Value {
        json!({
            "$defs": { "node": { "type": "object", "properties": {
                "a": { "$ref": "#/$defs/node" },
                "b": { "anyOf": [{ "$ref": "#/$defs/node" }, { "type": "null" }] },
                "x": { "type": "string" },
                "m": { "type": "object", "additionalProperties": { "$ref": "#/$defs/node" } },
                "e": { "oneOf": [
                    { "type": "object", "properties": { "kind": { "const": "p" }, "p": { "type": "string" } } },
                    { "type": "object", "properties": { "kind": { "const": "q" }, "q": { "type": "string" } } },
                ] },
            } } },
            "$ref": "#/$defs/node",
        })
    }

    fn documents() -> impl Strategy<Value = Document> {
        let leaf = prop_oneof![
            "[a-c]{1,2}".prop_map(|text| json!({ "x": text })),
            "[a-c]".prop_map(|text| json!({ "e": { "kind": "p", "p": text } })),
            "[a-c]".prop_map(|text| json!({ "e": { "kind": "q", "q": text } })),
            Just(json!({})),
        ];
        let node = leaf.prop_recursive(4, 24, 4, |inner| {
            (inner.clone(), inner.clone(), inner, any::<[bool; 4]>()).prop_map(|(one, other, base, take)| {
                let mut base = base;
                if take[0] {
                    base["a"] = one.clone();
                }
                if take[1] {
                    base["b"] = if take[3] { Value::Null } else { other.clone() };
                }
                if take[2] {
                    base["m"] = json!({ "k": one, "l": other });
                }
                base
            })
        });
        node.prop_map(|value| value.as_object().cloned().unwrap_or_default())
    }

    fn merged(layers: &[Document]) -> Merged {
        let shape = Shape::of(&schema());
        let mut merged = Merged::default();
        for layer in layers {
            merged.add(&shape, layer);
        }
        merged
    }

    proptest! {
        #[test]
        fn the_first_that_has_a_field_wins_it(layers in proptest::collection::vec(documents(), 1..4)) {
            let merged = merged(&layers);
            let origins = Origins::of(&Shape::of(&schema()), layers.iter().enumerate());
            for (place, number) in origins.iter() {
                let value = crate::source::value_at(&merged.values, place);
                if crate::source::value_at(&layers[number], place) == Some(&json!({})) {
                    // An empty table: a lower source may fill it.
                    continue;
                }
                prop_assert_eq!(value, crate::source::value_at(&layers[number], place), "{} is as its source has it", place);
                for higher in &layers[..number] {
                    // A higher one may have the table around, never the field itself.
                    prop_assert_eq!(crate::source::value_at(higher, place), None, "{} was in a higher source", place);
                }
            }
            // Nothing appears that nobody gave.
            for layer in &layers[..1] {
                for (name, value) in layer {
                    if !value.is_object() {
                        prop_assert_eq!(merged.values.get(name), Some(value));
                    }
                }
            }
        }

        #[test]
        fn one_source_alone_gives_what_it_has(layer in documents()) {
            prop_assert_eq!(merged(std::slice::from_ref(&layer)).values, layer);
        }

        #[test]
        fn a_source_twice_is_as_good_as_once(layers in proptest::collection::vec(documents(), 1..3)) {
            let mut twice = layers.clone();
            twice.extend(layers.iter().cloned());
            prop_assert_eq!(merged(&twice).values, merged(&layers).values);
        }

        #[test]
        fn a_chain_below_a_source_is_as_good_as_one_source(layers in proptest::collection::vec(documents(), 3..5)) {
            let below = merged(&layers[1..]).values;
            prop_assert_eq!(merged(&[layers[0].clone(), below]).values, merged(&layers).values);
        }
    }

    #[test]
    fn half_of_one_alternative_and_half_of_another_are_neither() {
        let layers = [json!({ "e": { "kind": "p" } }), json!({ "e": { "kind": "q", "q": "1" } })];
        let layers = layers.map(|layer| layer.as_object().cloned().unwrap_or_default());
        assert_eq!(Value::Object(merged(&layers).values), json!({ "e": { "kind": "p" } }));
    }

    #[test]
    fn who_says_that_there_is_nothing_hides_those_below() {
        let layers = [json!({ "b": { "x": "1" } }), json!({ "b": null }), json!({ "b": { "a": {} } })];
        let layers = layers.map(|layer| layer.as_object().cloned().unwrap_or_default());
        assert_eq!(Value::Object(merged(&layers).values), json!({ "b": { "x": "1" } }));
    }

    #[test]
    fn nothing_is_an_answer_too() {
        let layers = [json!({ "b": null }), json!({ "b": { "x": "1" } })];
        let layers = layers.map(|layer| layer.as_object().cloned().unwrap_or_default());
        assert_eq!(Value::Object(merged(&layers).values), json!({ "b": null }));
    }
}
