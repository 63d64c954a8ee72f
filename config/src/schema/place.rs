//! One place of a schema: what it accepts, what lies in it, how to say that to a person.

use serde_json::Value;

use super::text::Text;
use crate::key::FieldPath;

/// Most references that lead from one to the next.
const DEPTH: usize = 32;

/// A place in a schema.
#[derive(Debug, Clone, Copy)]
pub struct Place<'s> {
    root: &'s Value,
    here: &'s Value,
}

/// Where a name leads from a place.
#[derive(Debug, Clone, Copy)]
pub enum Step<'s> {
    /// A field of the struct, or a member of a map.
    To(Place<'s>),
    /// The schema says nothing about what lies here: anything goes.
    Open,
    /// There is no such field.
    Unknown,
}

/// Type of a value, for people.
#[must_use]
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing (null)",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a whole number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table of fields",
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null") || schema.get("const") == Some(&Value::Null)
}

impl<'s> Place<'s> {
    /// The whole.
    #[must_use]
    pub fn root(schema: &'s Value) -> Self {
        Self { root: schema, here: schema }
    }

    /// Tells the places of one schema apart.
    pub(super) fn address(self) -> *const Value {
        self.here
    }

    fn at(self, here: &'s Value) -> Self {
        Self { root: self.root, here }
    }

    /// The schemas that all hold here: itself, what it refers to, `allOf`, and what an optional place holds.
    fn parts(self) -> Vec<&'s Value> {
        let mut parts = Vec::with_capacity(4);
        self.collect(self.here, &mut parts, 0);
        parts
    }

    fn collect(self, schema: &'s Value, parts: &mut Vec<&'s Value>, depth: usize) {
        parts.push(schema);
        let (Value::Object(keywords), true) = (schema, depth < DEPTH) else { return };
        let (mut reference, mut all, mut any, mut one) = (None, None, None, None);
        // Once through what is there, which mostly is little: this is asked for every field with every read.
        for (keyword, value) in keywords {
            match keyword.as_str() {
                "$ref" => reference = value.as_str(),
                "allOf" => all = value.as_array(),
                "anyOf" => any = value.as_array(),
                "oneOf" => one = value.as_array(),
                _ => {}
            }
        }
        if let Some(target) = reference.and_then(|reference| self.target(reference)) {
            self.collect(target, parts, depth + 1);
        }
        for part in all.into_iter().flatten() {
            self.collect(part, parts, depth + 1);
        }
        for branches in [any, one].into_iter().flatten() {
            let mut rest = branches.iter().filter(|branch| !is_null(branch));
            if let (Some(only), None) = (rest.next(), rest.next()) {
                self.collect(only, parts, depth + 1);
            }
        }
    }

    fn target(self, reference: &str) -> Option<&'s Value> {
        let pointer = reference.strip_prefix('#')?;
        match pointer.strip_prefix("/$defs/") {
            // As schemars writes them.
            Some(name) if !name.contains(['/', '~']) => self.root.get("$defs")?.get(name),
            _ => self.root.pointer(pointer),
        }
    }

    /// What it may be one of (null left out), where there is a choice.
    #[must_use]
    pub fn alternatives(self) -> Vec<Self> {
        let mut found = Vec::new();
        for part in self.parts() {
            for keyword in ["anyOf", "oneOf"] {
                let branches = part.get(keyword).and_then(Value::as_array);
                let rest: Vec<_> = branches
                    .into_iter()
                    .flatten()
                    .filter(|branch| !is_null(branch))
                    .map(|one| self.at(one))
                    .collect();
                if rest.len() > 1 {
                    found.extend(rest);
                }
            }
        }
        found
    }

    fn keyword(self, keyword: &str) -> Option<&'s Value> {
        self.parts().into_iter().find_map(|part| part.get(keyword))
    }

    /// The JSON types that it accepts; empty if the schema does not say.
    #[must_use]
    pub fn types(self) -> Vec<&'s str> {
        self.types_at(0)
    }

    fn types_at(self, depth: usize) -> Vec<&'s str> {
        let mut types = Vec::new();
        for part in self.parts() {
            match part.get("type") {
                Some(Value::String(one)) => types.push(one.as_str()),
                Some(Value::Array(several)) => types.extend(several.iter().filter_map(Value::as_str)),
                _ => {}
            }
            let values =
                part.get("enum").and_then(Value::as_array).into_iter().flatten().chain(part.get("const"));
            types.extend(values.map(|value| match value {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(number) if number.is_f64() => "number",
                Value::Number(_) => "integer",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            }));
            for keyword in ["anyOf", "oneOf"] {
                let branches = part.get(keyword).and_then(Value::as_array);
                if branches.is_some_and(|branches| branches.iter().any(is_null)) {
                    types.push("null");
                }
            }
        }
        if depth < DEPTH {
            for one in self.alternatives() {
                let inner = one.types_at(depth + 1);
                if inner.is_empty() {
                    // One of them takes anything.
                    return inner;
                }
                types.extend(inner);
            }
        }
        types.sort_unstable();
        types.dedup();
        types
    }

    /// The values that it may have, where they are listed.
    #[must_use]
    pub fn choices(self) -> Option<Vec<&'s Value>> {
        if let Some(values) = self.keyword("enum").and_then(Value::as_array) {
            return Some(values.iter().collect());
        }
        if let Some(value) = self.keyword("const") {
            return Some(vec![value]);
        }
        let alternatives = self.alternatives();
        if alternatives.is_empty() {
            return None;
        }
        let lists: Option<Vec<_>> = alternatives.into_iter().map(Self::choices).collect();
        lists.map(|lists| lists.into_iter().flatten().collect())
    }

    /// What a person wrote about it.
    #[must_use]
    pub fn description(self) -> Option<&'s str> {
        self.keyword("description").and_then(Value::as_str)
    }

    /// What it is when nobody says.
    #[must_use]
    pub fn default_value(self) -> Option<&'s Value> {
        self.keyword("default")
    }

    /// What an extension of the schema (`x-…`, `#[schemars(extend("x-…" = …))]`) says of it.
    #[must_use]
    pub fn extension(self, name: &str) -> Option<&'s Value> {
        self.keyword(name)
    }

    /// What a text, as a variable or a flag has it, is here. Text stays as it is; a list of texts may be separated by
    /// commas, unless it begins with `[`; everything else is JSON. So a number never becomes text, and no text is
    /// guessed to be a number. What cannot be read so stays text, which [`faults`](super::faults()) then refuses.
    #[must_use]
    pub fn read_text(self, text: &str) -> Value {
        self.text().read(text)
    }

    /// How a text is read here.
    pub(super) fn text(self) -> Text {
        Text::of(&self.types(), self.items().map(Self::types))
    }

    /// Whether it is marked as secret itself.
    #[must_use]
    pub fn is_secret(self) -> bool {
        self.keyword("x-secret") == Some(&Value::Bool(true))
    }

    /// Whether it has fields of its own, and not one of several sets of them.
    #[must_use]
    pub fn is_struct(self) -> bool {
        let parts = self.parts();
        parts.iter().any(|part| part.get("properties").is_some())
            || (parts.iter().any(|part| part.get("type").and_then(Value::as_str) == Some("object"))
                && !self.is_map()
                && self.alternatives().is_empty())
    }

    /// Whether it has members under any name.
    #[must_use]
    pub fn is_map(self) -> bool {
        let parts = self.parts();
        !parts.iter().any(|part| part.get("properties").is_some())
            && ["additionalProperties", "patternProperties"].iter().any(|keyword| {
                parts.iter().any(|part| part.get(keyword).is_some_and(|value| value != &Value::Bool(false)))
            })
    }

    /// Whether two tables here become one, field by field. Not where one of several shapes is chosen: half of one and
    /// half of another are neither.
    #[must_use]
    pub fn merges(self) -> bool {
        self.is_struct() || self.is_map()
    }

    /// Its fields, in the schema's order, those of all alternatives included.
    #[must_use]
    pub fn fields(self) -> Vec<(&'s str, Self)> {
        let mut fields: Vec<(&str, Self)> = Vec::new();
        for part in self.parts() {
            // Names of one part are different ones.
            let before = fields.len();
            for (name, field) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if fields[..before].iter().all(|(known, _)| known != name) {
                    fields.push((name, self.at(field)));
                }
            }
        }
        for one in self.alternatives() {
            for (name, field) in one.fields() {
                if fields.iter().all(|(known, _)| *known != name) {
                    fields.push((name, field));
                }
            }
        }
        fields
    }

    /// Names of the fields that must be there.
    #[must_use]
    pub fn required(self) -> Vec<&'s str> {
        let mut names: Vec<&str> = Vec::new();
        for part in self.parts() {
            names.extend(
                part.get("required")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str),
            );
        }
        names
    }

    /// The place under a name.
    #[must_use]
    pub fn step(self, name: &str) -> Step<'s> {
        let parts = self.parts();
        let mut closed = false;
        for part in &parts {
            if let Some(fields) = part.get("properties").and_then(Value::as_object) {
                closed = true;
                if let Some(field) = fields.get(name) {
                    return Step::To(self.at(field));
                }
            }
        }
        for part in &parts {
            match part.get("additionalProperties") {
                None | Some(Value::Bool(false)) => {}
                Some(Value::Bool(true)) => return Step::Open,
                Some(member) => return Step::To(self.at(member)),
            }
            // Which pattern a name fits is for `Bounds` to say.
            if part.get("patternProperties").is_some() {
                return Step::Open;
            }
        }
        let alternatives = self.alternatives();
        for one in &alternatives {
            match one.step(name) {
                Step::To(place) if one.types().is_empty() || one.types().contains(&"object") => {
                    // The same name may mean another thing in another alternative.
                    let others = alternatives.iter().filter(|other| matches!(other.step(name), Step::To(_)));
                    return if others.count() > 1 { Step::Open } else { Step::To(place) };
                }
                Step::Open if one.types().contains(&"object") && one.merges() => return Step::Open,
                _ => {}
            }
            closed |= !one.fields().is_empty();
        }
        match closed {
            true => Step::Unknown,
            false => Step::Open,
        }
    }

    /// The place of the items, if it is a list of one kind.
    #[must_use]
    pub fn items(self) -> Option<Self> {
        self.keyword("items").filter(|items| items.is_object()).map(|items| self.at(items))
    }

    /// The place at the end of a path; in lists, names are numbers.
    #[must_use]
    pub fn find(self, path: &FieldPath) -> Step<'s> {
        let mut here = self;
        for name in path.names() {
            let item = || here.items().filter(|_| name.parse::<usize>().is_ok());
            match here.step(name) {
                Step::To(next) => here = next,
                other => match item() {
                    Some(item) => here = item,
                    None => return other,
                },
            }
        }
        Step::To(here)
    }

    /// JSON pointer to the schema of a field. Where a reference is followed on the way, it leads into the definition,
    /// which then is marked for all who refer to it: rather more than less.
    pub(super) fn pointer_to(self, path: &FieldPath) -> Option<String> {
        let Step::To(place) = self.find(path) else { return None };
        pointer(self.root, place.here)
    }

    /// Lowest and highest whole number.
    #[must_use]
    pub fn range(self) -> Option<(i128, i128)> {
        let of_format = match self.keyword("format").and_then(Value::as_str)? {
            "uint8" => (0, u8::MAX.into()),
            "uint16" => (0, u16::MAX.into()),
            "uint32" => (0, u32::MAX.into()),
            "uint64" | "uint" => (0, u64::MAX.into()),
            "int8" => (i8::MIN.into(), i8::MAX.into()),
            "int16" => (i16::MIN.into(), i16::MAX.into()),
            "int32" => (i32::MIN.into(), i32::MAX.into()),
            "int64" | "int" => (i64::MIN.into(), i64::MAX.into()),
            _ => return None,
        };
        let bound = |keyword| {
            let number = self.keyword(keyword)?;
            number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
        };
        let low = bound("minimum").map_or(of_format.0, |low| low.max(of_format.0));
        let high = bound("maximum").map_or(of_format.1, |high| high.min(of_format.1));
        Some((low, high))
    }

    /// What belongs here, for people: `a whole number from 0 to 65535`. A schema that knows it better says so with
    /// `x-expected`.
    #[must_use]
    pub fn expected(self) -> String {
        if let Some(text) = self.extension("x-expected").and_then(Value::as_str) {
            return text.to_owned();
        }
        if let Some(choices) = self.choices() {
            let choices: Vec<_> =
                choices.iter().filter(|value| !value.is_null()).map(ToString::to_string).collect();
            return match choices.as_slice() {
                [one] => one.clone(),
                several => format!("one of {}", several.join(", ")),
            };
        }
        let format = self.keyword("format").and_then(Value::as_str);
        let types = self.types();
        let texts: Vec<_> = types
            .iter()
            .filter(|name| **name != "null")
            .map(|name| match (*name, format) {
                ("string", Some(format)) => format!("text ({format})"),
                ("string", None) => "text".to_owned(),
                ("integer", _) => match self.range() {
                    // Nobody is to read the greatest number of a type.
                    Some((low, high)) if high == u64::MAX.into() => {
                        format!("a whole number of at least {low}")
                    }
                    Some((low, high)) => format!("a whole number from {low} to {high}"),
                    None => "a whole number".to_owned(),
                },
                ("number", _) => "a number".to_owned(),
                ("boolean", _) => "true or false".to_owned(),
                ("array", _) => match self.items().map(Self::expected) {
                    Some(item) => format!("a list, each item {item}"),
                    None => "a list".to_owned(),
                },
                _ if self.is_map() => "a table of names and values".to_owned(),
                _ => match self.fields().iter().map(|(name, _)| *name).collect::<Vec<_>>() {
                    names if names.is_empty() => "a table".to_owned(),
                    names => format!("a table with {}", names.join(", ")),
                },
            })
            .collect();
        match texts.is_empty() {
            true => "any value".to_owned(),
            false => texts.join(" or "),
        }
    }
}

/// Where `wanted` (by address) stands in `value`.
fn pointer(value: &Value, wanted: &Value) -> Option<String> {
    if std::ptr::eq(value, wanted) {
        return Some(String::new());
    }
    match value {
        Value::Object(members) => members.iter().find_map(|(name, member)| {
            let rest = pointer(member, wanted)?;
            Some(format!("/{}{rest}", name.replace('~', "~0").replace('/', "~1")))
        }),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| Some(format!("/{at}{}", pointer(item, wanted)?)))
        }
        _ => None,
    }
}
