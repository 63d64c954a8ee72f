//! How a text, as a variable or a flag has it, stands for a value.

use serde_json::Value;

/// How it is read where values of some types may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    /// As it is.
    Itself,
    /// As texts between commas, unless it begins with `[`.
    List,
    /// As JSON, and what is none as it is: where text may not stand, the schema refuses it.
    Json,
}

impl Text {
    /// For these JSON types; `items` are those of a list's items.
    pub(super) fn of(types: &[&str], items: Option<Vec<&str>>) -> Self {
        let only = |names: &[&str]| !types.is_empty() && types.iter().all(|name| names.contains(name));
        match () {
            () if only(&["string", "null"]) && types.contains(&"string") => Self::Itself,
            () if only(&["array", "null"]) && items.is_some_and(|types| types == ["string"]) => Self::List,
            () => Self::Json,
        }
    }

    pub(crate) fn read(self, text: &str) -> Value {
        match self {
            Self::Itself => text.into(),
            Self::List if !text.trim_start().starts_with('[') => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
            }
            // `"5"` in quotes is text, where both are possible.
            Self::List | Self::Json => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        }
    }
}
