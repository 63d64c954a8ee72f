//! The models that a manager knows, with what only their Rust types can do: judge values, migrate old ones.

use std::{
    any::TypeId,
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use serde_json::Value;

use crate::{
    key::{FieldPath, Key},
    model::{Config, Migration, Model, ModelError},
    schema::{Bounds, Extent, Fault, FaultKind, Step, faults, json_type},
    source::{Document, value_at},
};

/// Stands for the type of a model that has none here.
struct Untyped;

/// A model and what its type can do.
#[derive(Debug)]
pub(crate) struct Known {
    pub model: Model,
    pub migrations: Vec<Migration>,
    bounds: Bounds,
    /// Field by field.
    judge: fn(&Model, &Document) -> Vec<Fault>,
    judge_whole: fn(&Model, &Document) -> Option<Fault>,
    type_name: &'static str,
    type_id: TypeId,
}

impl Known {
    fn of<T: Config>() -> Result<Self, ModelError> {
        let model = Model::of::<T>()?;
        Ok(Self {
            bounds: Bounds::of(model.schema.as_value()),
            model,
            migrations: T::migrations(),
            judge: judged::<T>,
            judge_whole: |model, values| parsed::<T>(model, &Value::Object(values.clone())).err(),
            type_name: std::any::type_name::<T>(),
            type_id: TypeId::of::<T>(),
        })
    }

    /// A model without its type: only its schema judges values, and nothing migrates them.
    fn untyped(model: Model) -> Self {
        Self {
            bounds: Bounds::of(model.schema.as_value()),
            model,
            migrations: Vec::new(),
            judge: |_, _| Vec::new(),
            judge_whole: |_, _| None,
            type_name: "a schema without a type",
            type_id: TypeId::of::<Untyped>(),
        }
    }

    /// The value of the type, if nothing at all is wrong. The values have no unknown fields.
    pub fn good<T: Config>(&self, values: &Value) -> Option<T> {
        let value = T::deserialize(values).ok()?;
        let fits = values.as_object().is_some_and(|values| self.model.shape().fits(values, Extent::Whole));
        (fits && self.bounds.hold(values)).then_some(value)
    }

    /// The value of the type; or everything that is wrong.
    pub fn parse<T: Config>(&self, values: &Document) -> Result<T, Vec<Fault>> {
        let found = self.types(values, Extent::Whole);
        if !found.is_empty() {
            return Err(found);
        }
        let whole = Value::Object(values.clone());
        let value = parsed::<T>(&self.model, &whole).map_err(|fault| or_else(self.part(values), fault))?;
        match self.bounds.faults(&whole, |place| self.model.touches_secret(place)) {
            found if found.is_empty() => Ok(value),
            found => Err(found),
        }
    }

    /// What schema and type say against a whole.
    pub fn whole(&self, values: &Document) -> Vec<Fault> {
        let found = self.types(values, Extent::Whole);
        if !found.is_empty() {
            return found;
        }
        let found = match (self.judge_whole)(&self.model, values) {
            None => Vec::new(),
            Some(first) => or_else(self.part(values), first),
        };
        let values = Value::Object(values.clone());
        match found.is_empty() {
            true => self.bounds.faults(&values, |place| self.model.touches_secret(place)),
            false => found,
        }
    }

    /// What the type says against a part, field by field.
    pub fn part(&self, values: &Document) -> Vec<Fault> {
        (self.judge)(&self.model, values)
    }

    /// What the schema's types and names say.
    pub fn types(&self, values: &Document, extent: Extent) -> Vec<Fault> {
        match self.model.shape().fits(values, extent) {
            true => Vec::new(),
            false => faults(self.model.schema.as_value(), values, extent),
        }
    }
}

/// What is wrong with the fields, or, where that is nothing, with the whole.
fn or_else(found: Vec<Fault>, whole: Fault) -> Vec<Fault> {
    if found.is_empty() { vec![whole] } else { found }
}

/// What serde says against each field by itself: of a whole it only says what it comes upon first.
fn judged<T: Config>(model: &Model, values: &Document) -> Vec<Fault> {
    let alone = |(name, value): (&String, &Value)| {
        let alone = Value::Object(Document::from_iter([(name.clone(), value.clone())]));
        // That others are missing is not this field's fault.
        parsed::<T>(model, &alone).err().filter(|fault| fault.place.names().first() == Some(name))
    };
    values.iter().filter_map(alone).collect()
}

/// Reads with serde. Its message repeats values, so it is used where nothing is secret only.
fn parsed<T: Config>(model: &Model, values: &Value) -> Result<T, Fault> {
    let error = match T::deserialize(values) {
        Ok(value) => return Ok(value),
        Err(_) => match serde_path_to_error::deserialize::<_, T>(values) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        },
    };
    let place: FieldPath = error
        .path()
        .iter()
        .filter_map(|segment| match segment {
            serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
            serde_path_to_error::Segment::Map { key } => Some(key.clone()),
            serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
        })
        .collect();
    let expected = match model.root().find(&place) {
        Step::To(place) => place.expected(),
        Step::Open | Step::Unknown => "another value".to_owned(),
    };
    let found = values.as_object().and_then(|values| value_at(values, &place)).map_or("this", json_type);
    let found = match model.touches_secret(&place) {
        true => found.to_owned(),
        false => format!("{found} ({})", error.inner()),
    };
    Err(Fault { place, kind: FaultKind::Unfit, expected, found })
}

/// What depends on the type alone is made once, also for several managers.
fn of_this_program<T: Config>() -> Result<Arc<Known>, ModelError> {
    static MADE: RwLock<BTreeMap<TypeId, Arc<Known>>> = RwLock::new(BTreeMap::new());
    let id = TypeId::of::<T>();
    if let Some(known) = MADE.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
        return Ok(known.clone());
    }
    let known = Arc::new(Known::of::<T>()?);
    let mut made = MADE.write().unwrap_or_else(PoisonError::into_inner);
    // Another task may have been faster.
    Ok(made.entry(id).or_insert(known).clone())
}

/// All known models.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_type: HashMap<TypeId, Arc<Known>>,
    by_key: BTreeMap<Key, Arc<Known>>,
}

impl Registry {
    /// The model of a type, made when it is asked for first.
    pub fn of<T: Config>(&self) -> Result<Arc<Known>, ModelError> {
        let id = TypeId::of::<T>();
        if let Some(known) = self.inner.read().unwrap_or_else(PoisonError::into_inner).by_type.get(&id) {
            return Ok(known.clone());
        }
        let known = of_this_program::<T>()?;
        let mut tables = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let key = known.model.key.clone();
        if let Some(other) = tables.by_key.get(&key) {
            // Another task may have been here first.
            return match other.type_id == id {
                true => Ok(other.clone()),
                false => Err(ModelError::Taken { key, first: other.type_name, second: known.type_name }),
            };
        }
        tables.by_type.insert(id, known.clone());
        tables.by_key.insert(key, known.clone());
        Ok(known)
    }

    /// Adds a model without its type, in the place of another one without.
    pub fn add(&self, model: Model) -> Result<(), ModelError> {
        let known = Arc::new(Known::untyped(model));
        let mut tables = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let key = known.model.key.clone();
        match tables.by_key.get(&key) {
            Some(other) if other.type_id != known.type_id => {
                Err(ModelError::Taken { key, first: other.type_name, second: known.type_name })
            }
            _ => {
                tables.by_key.insert(key, known);
                Ok(())
            }
        }
    }

    /// By its key.
    pub fn by_key(&self, key: &str) -> Option<Arc<Known>> {
        let tables = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_key.iter().find(|(known, _)| known.as_str() == key).map(|(_, known)| known.clone())
    }

    /// All, by key.
    pub fn all(&self) -> Vec<Arc<Known>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_key.values().cloned().collect()
    }
}
