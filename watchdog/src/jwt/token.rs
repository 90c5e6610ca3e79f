//! A token: its signature, its claims, and what they permit.
//!
//! In: the token's text, the keys, the time. Out: [`Claims`], or a [`TokenError`] in the words of the original's library.
//! Units: seconds since 1970. Always: the key decides which algorithm is allowed, never the token alone.
//! Source: RFC 7515, 7517, 7518 and 7519. RS256, RS384, RS512 and ES256; no other algorithm.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use rsa::BoxedUint;
use serde_json::{Map, Value};
use sha2::{Sha256, Sha384, Sha512};

/// How far clocks may differ, in seconds.
const LEEWAY: f64 = 1.0;

/// A public key of the issuer.
#[derive(Debug)]
pub(super) struct Key {
    id: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Rsa(Box<rsa::PublicKey>),
    P256(Box<VerifyingKey>),
}

/// What a valid token says about functions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) permissions: Vec<String>,
    audience: Vec<String>,
}

/// Why a token is not valid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
    #[error("token is unverifiable: {0}")]
    Unverifiable(String),
    #[error("token signature is invalid: {0}")]
    Signature(&'static str),
    #[error("token has invalid claims: {0}")]
    Claims(&'static str),
}

impl Key {
    /// Reads one entry of a key set; `None` for kinds of keys that are not used here.
    pub(super) fn read(entry: &Value) -> Option<Self> {
        let number = |name: &str| URL_SAFE_NO_PAD.decode(entry[name].as_str()?).ok();
        let kind = match entry["kty"].as_str()? {
            "RSA" => {
                let (n, e) = (number("n")?, number("e")?);
                let read = |bytes: &[u8]| BoxedUint::from_be_slice_vartime(bytes);
                Kind::Rsa(Box::new(rsa::PublicKey::new(read(&n), read(&e)).ok()?))
            }
            "EC" if entry["crv"] == "P-256" => {
                let point = [&[4], number("x")?.as_slice(), number("y")?.as_slice()].concat();
                Kind::P256(Box::new(VerifyingKey::from_sec1_bytes(&point).ok()?))
            }
            _ => return None,
        };
        Some(Self { id: entry["kid"].as_str().unwrap_or_default().to_owned(), kind })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether `signature` is this key's for `message`.
    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        match &self.kind {
            Kind::Rsa(key) => {
                let result = match algorithm {
                    "RS256" => key.pkcs1v15_verify::<Sha256>(message, signature),
                    "RS384" => key.pkcs1v15_verify::<Sha384>(message, signature),
                    "RS512" => key.pkcs1v15_verify::<Sha512>(message, signature),
                    _ => return Err(TokenError::Signature("key is of invalid type")),
                };
                result.map_err(|_| TokenError::Signature("crypto/rsa: verification error"))
            }
            Kind::P256(key) if algorithm == "ES256" => Signature::from_slice(signature)
                .and_then(|signature| key.verify(message, &signature))
                .map_err(|_| TokenError::Signature("crypto/ecdsa: verification error")),
            Kind::P256(_) => Err(TokenError::Signature("key is of invalid type")),
        }
    }
}

impl Claims {
    /// Whether `function`, a `namespace:name`, may be called.
    pub(super) fn admit(&self, function: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, function));
        (self.audience.is_empty() || any(&self.audience)) && any(&self.permissions)
    }
}

/// The claims of `token`, issued for us by `issuer`.
pub(super) fn verified(
    token: &str,
    keys: &[Key],
    issuer: &str,
    now: i64,
) -> Result<Claims, TokenError> {
    let segments: Vec<&str> = token.split('.').collect();
    let [head, claims, signature] = segments[..] else {
        return Err(TokenError::Malformed("token contains an invalid number of segments"));
    };
    let message = &token[..head.len() + 1 + claims.len()];
    let head = object(head)?;
    let claims = object(claims)?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| TokenError::Malformed("could not base64 decode signature"))?;
    let text = |name: &str| head.get(name).and_then(Value::as_str);
    let unverifiable = |text: &str| TokenError::Unverifiable(text.to_owned());
    let algorithm =
        text("alg").ok_or_else(|| unverifiable("signing method (alg) is unspecified"))?;
    if !matches!(algorithm, "RS256" | "RS384" | "RS512" | "ES256") {
        return Err(unverifiable("signing method (alg) is unavailable"));
    }
    let id = text("kid").unwrap_or_default();
    let key = keys.iter().find(|key| key.id == id).ok_or_else(|| {
        TokenError::Unverifiable(format!("error while executing keyfunc: invalid kid: {id}"))
    })?;
    key.verify(algorithm, message.as_bytes(), &signature)?;
    validate(&claims, issuer, now)?;
    let list = |name: &str| strings(claims.get("function").map_or(&Value::Null, |f| &f[name]));
    Ok(Claims { permissions: list("permissions"), audience: list("audience") })
}

fn object(segment: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(segment)
        .map_err(|_| TokenError::Malformed("could not base64 decode a segment"))?;
    serde_json::from_slice(&bytes)
        .map_err(|_| TokenError::Malformed("a segment is not a JSON object"))
}

fn validate(claims: &Map<String, Value>, issuer: &str, now: i64) -> Result<(), TokenError> {
    #[expect(clippy::cast_precision_loss, reason = "exact for the next million years")]
    let now = now as f64;
    let moment = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(TokenError::Malformed("a time is no number")),
    };
    if moment("exp")?.is_some_and(|end| now >= end + LEEWAY) {
        return Err(TokenError::Claims("token is expired"));
    }
    if moment("nbf")?.is_some_and(|begin| now < begin - LEEWAY) {
        return Err(TokenError::Claims("token is not valid yet"));
    }
    if !strings(claims.get("aud").unwrap_or(&Value::Null)).iter().any(|name| name == issuer) {
        return Err(TokenError::Claims("token has invalid audience"));
    }
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(TokenError::Claims("token has invalid issuer"));
    }
    Ok(())
}

/// A string, or a list of them.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => {
            list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether the whole of `name` fits `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let tail = pieces.pop().unwrap_or_default();
    for piece in pieces {
        // The first place is the best: it leaves the most for what follows.
        let Some(at) = name.find(piece) else { return false };
        name = &name[at + piece.len()..];
    }
    name.ends_with(tail)
}

#[cfg(test)]
mod tests;
