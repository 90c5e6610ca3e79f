//! JSON as Go's decoder takes it: keys in any case, `null` means "not given", unknown fields are ignored.
//!
//! In: a request body. Out: the type, or one line that names the field.
//! Source: `encoding/json`, which every OpenFaaS server and client uses; see `docs/compat.md`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Longest error text handed on, in characters; bodies can be megabytes.
const ERROR_MAX: usize = 200;

/// Why a body could not be decoded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

/// A struct's wire fields, so that keys can be matched in any case.
pub trait GoFields: DeserializeOwned {
    /// The exact JSON names, each with the kind of value that needs more care than a scalar.
    const FIELDS: &'static [(&'static str, Kind)];
}

/// How a field's value is prepared before decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Taken as it is.
    Scalar,
    /// A list or map of strings: `null` elements become empty strings, keys stay as they are.
    Strings,
    /// A nested struct with these fields, all scalars.
    Struct(&'static [&'static str]),
}

/// Decodes `body` with Go's rules.
///
/// # Errors
/// [`DecodeError`] with one line when the body is not JSON, not an object, or a field has the wrong type.
pub fn decode<T: GoFields>(body: &[u8]) -> Result<T, DecodeError> {
    let value: Value =
        serde_json::from_slice(body).map_err(|e| DecodeError(shorten(&e.to_string())))?;
    let Value::Object(object) = value else {
        return Err(DecodeError("expected a JSON object".into()));
    };
    let value = Value::Object(normalise(object, T::FIELDS));
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        DecodeError(shorten(&format!("{field}: {}", error.into_inner())))
    })
}

/// Keeps the known, non-null fields under their exact names; an exactly named key wins over one in another case.
fn normalise(object: Map<String, Value>, fields: &[(&'static str, Kind)]) -> Map<String, Value> {
    let mut out = Map::new();
    let (exact, other): (Vec<_>, Vec<_>) =
        object.into_iter().partition(|(key, _)| fields.iter().any(|(name, _)| name == key));
    for (key, value) in other.into_iter().chain(exact) {
        let Some((name, kind)) = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key))
        else {
            continue;
        };
        if !value.is_null() {
            out.insert((*name).into(), prepare(value, *kind));
        }
    }
    out
}

fn prepare(mut value: Value, kind: Kind) -> Value {
    let blank = |value: &mut Value| {
        if value.is_null() {
            *value = Value::String(String::new());
        }
    };
    match (kind, &mut value) {
        (Kind::Strings, Value::Array(items)) => items.iter_mut().for_each(blank),
        (Kind::Strings, Value::Object(entries)) => entries.values_mut().for_each(blank),
        (Kind::Struct(names), Value::Object(entries)) => {
            let fields: Vec<_> = names.iter().map(|name| (*name, Kind::Scalar)).collect();
            *entries = normalise(std::mem::take(entries), &fields);
        }
        _ => {}
    }
    value
}

fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_MAX).collect()
}
