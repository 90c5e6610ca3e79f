//! Keeps a user of namespaces within them.
//!
//! In: a request to `/system`, and the namespaces that are allowed. Out: the request, or why it is denied.
//! Always: query and body of what passes name one and the same allowed namespace, whichever of them a provider looks at; a
//! request that could be read in two ways is denied.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Uri};
use hyperfaas_protocol::names::DEFAULT_NAMESPACE;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::access::{Denial, is_read};
use crate::system::read;

/// Longest body that is read to see whose namespace it names.
const BODY_MAX: usize = 4 << 20;
/// Time for that body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How a route names its namespace.
enum Scope {
    /// In the query.
    Query,
    /// In the body, else in the query.
    Body,
    /// It is the path's last segment.
    Path,
    /// It has none and tells nothing of any.
    Free,
    /// It is not for users of namespaces.
    Closed,
}

fn scope(method: &Method, path: &str) -> Scope {
    let is_read = is_read(method);
    if path.starts_with("/ui/") {
        return Scope::Free;
    }
    match path.strip_prefix("/system/").unwrap_or_default() {
        "functions" | "secrets" if is_read => Scope::Query,
        "functions" | "secrets" => Scope::Body,
        "logs" => Scope::Query,
        "info" | "namespaces" | "hyperfaas/openapi.json" if is_read => Scope::Free,
        // Shows each watcher what is within its namespaces.
        "hyperfaas/live" if is_read => Scope::Free,
        other => match other.split_once('/') {
            // A dot could make a provider see a namespace in the name.
            Some(("function" | "scale-function", name)) if name.contains('.') => Scope::Closed,
            Some(("function", _)) if is_read => Scope::Query,
            Some(("scale-function", _)) => Scope::Body,
            Some(("namespace" | "namespaces", _)) if is_read => Scope::Path,
            Some(("hyperfaas", rest)) if is_read && is_function_view(rest) => Scope::Query,
            _ => Scope::Closed,
        },
    }
}

/// Whether `rest` is `functions/NAME/VIEW`.
fn is_function_view(rest: &str) -> bool {
    let mut parts = rest.split('/');
    parts.next() == Some("functions") && parts.next().is_some_and(|name| !name.contains(['.', '%']))
}

/// `request`, if all that it names is within `allowed`; query and body then name the same namespace.
pub(crate) async fn within(
    request: Request,
    allowed: &[String],
    default: &str,
) -> Result<Request, Denial> {
    let default = if default.is_empty() { DEFAULT_NAMESPACE } else { default };
    let check = |namespace: &str| {
        if allowed.iter().any(|name| name == namespace) {
            Ok(())
        } else {
            Err(Denial::forbidden("this user may not use that namespace"))
        }
    };
    match scope(request.method(), request.uri().path()) {
        Scope::Free => Ok(request),
        Scope::Closed => Err(Denial::forbidden("this user may not do that")),
        Scope::Path => {
            check(request.uri().path().rsplit('/').next().unwrap_or_default())?;
            Ok(request)
        }
        Scope::Query => {
            let namespace = query_namespace(request.uri())?.unwrap_or_else(|| default.to_owned());
            check(&namespace)?;
            with_query_namespace(request, &namespace)
        }
        Scope::Body => {
            let (parts, body) = request.into_parts();
            let body = timeout(BODY_TIMEOUT, read(body, BODY_MAX)).await.ok().flatten();
            let body = body.ok_or_else(|| Denial::malformed("the request body cannot be read"))?;
            let mut object = object(&body)?;
            let in_body = take_namespace(&mut object)?;
            let in_query = query_namespace(&parts.uri)?;
            let namespace = in_body.or(in_query).unwrap_or_else(|| default.to_owned());
            check(&namespace)?;
            object.insert("namespace".into(), namespace.clone().into());
            let body = serde_json::to_vec(&object).expect("JSON that was read can be written");
            let mut request = Request::from_parts(parts, Body::empty());
            request.headers_mut().remove(TRANSFER_ENCODING);
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            request
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Body::from(body);
            with_query_namespace(request, &namespace)
        }
    }
}

/// A body as a JSON object; none of its keys may be there twice, in any case.
fn object(body: &Bytes) -> Result<Map<String, Value>, Denial> {
    let wrong = || Denial::malformed("the request body must be one JSON object");
    let Entries(entries) = serde_json::from_slice(body).map_err(|_| wrong())?;
    let mut object = Map::new();
    for (key, value) in entries {
        if object.keys().any(|known: &String| known.eq_ignore_ascii_case(&key)) {
            return Err(Denial::malformed("the request body has a key twice"));
        }
        object.insert(key, value);
    }
    Ok(object)
}

/// Takes the namespace out of `object`, whatever the case of its key; an empty one is none.
fn take_namespace(object: &mut Map<String, Value>) -> Result<Option<String>, Denial> {
    let key = object.keys().find(|key| key.eq_ignore_ascii_case("namespace")).cloned();
    match key.and_then(|key| object.remove(&key)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(Denial::malformed("namespace must be a text")),
    }
}

/// The namespace in a query; an empty one is none, and two of them or an encoded one are refused.
fn query_namespace(uri: &Uri) -> Result<Option<String>, Denial> {
    let mut found = None;
    for (key, value) in pairs(uri) {
        if !key.eq_ignore_ascii_case("namespace") && !key.contains(['%', '+']) {
            continue;
        }
        if found.is_some() || key != "namespace" || value.contains(['%', '+']) {
            return Err(Denial::malformed("the query must name one namespace, in plain letters"));
        }
        found = Some(value.to_owned());
    }
    Ok(found.filter(|namespace| !namespace.is_empty()))
}

/// The pairs of a query, not decoded.
pub(crate) fn pairs(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    let query = uri.query().unwrap_or_default();
    // Some servers separate by semicolons too.
    query
        .split(['&', ';'])
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn with_query_namespace(mut request: Request, namespace: &str) -> Result<Request, Denial> {
    let mut query: Vec<String> = pairs(request.uri())
        .filter(|(key, _)| *key != "namespace")
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    query.push(format!("namespace={namespace}"));
    let target = format!("{}?{}", request.uri().path(), query.join("&"));
    let target =
        Uri::try_from(target).map_err(|_| Denial::malformed("the query cannot be understood"))?;
    *request.uri_mut() = target;
    Ok(request)
}

/// All entries of a JSON object, in order, with those that are there twice.
struct Entries(Vec<(String, Value)>);

impl<'d> serde::Deserialize<'d> for Entries {
    fn deserialize<D: serde::Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'d> serde::de::Visitor<'d> for Visitor {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'d>>(
                self,
                mut map: A,
            ) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        from.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn sent(method: &str, target: &str, body: &str) -> Result<String, Denial> {
        let request =
            Request::builder().method(method).uri(target).body(Body::from(body.to_owned()));
        let passed = within(request.unwrap(), &["dev".to_owned()], "openfaas-fn").await?;
        let target = passed.uri().to_string();
        let body = passed.into_body().collect().await.unwrap().to_bytes();
        Ok(format!("{target} {}", String::from_utf8_lossy(&body)))
    }

    #[tokio::test]
    async fn query_and_body_of_what_passes_name_the_same_namespace() {
        for (method, target, body, expected) in [
            ("GET", "/system/functions?namespace=dev", "", "/system/functions?namespace=dev "),
            (
                "GET",
                "/system/function/f?usage=1&namespace=dev",
                "",
                "/system/function/f?usage=1&namespace=dev ",
            ),
            ("GET", "/system/logs?name=f&namespace=dev", "", "/system/logs?name=f&namespace=dev "),
            ("GET", "/system/namespace/dev", "", "/system/namespace/dev "),
            ("GET", "/system/info", "", "/system/info "),
            (
                "GET",
                "/system/hyperfaas/functions/f/decisions?namespace=dev",
                "",
                "/system/hyperfaas/functions/f/decisions?namespace=dev ",
            ),
            (
                "POST",
                "/system/functions",
                r#"{"service":"f","Namespace":"dev"}"#,
                r#"/system/functions?namespace=dev {"namespace":"dev","service":"f"}"#,
            ),
            (
                "DELETE",
                "/system/functions?namespace=dev",
                r#"{"functionName":"f"}"#,
                r#"/system/functions?namespace=dev {"functionName":"f","namespace":"dev"}"#,
            ),
            (
                "DELETE",
                "/system/secrets?namespace=other",
                r#"{"name":"s","namespace":"dev"}"#,
                r#"/system/secrets?namespace=dev {"name":"s","namespace":"dev"}"#,
            ),
            (
                "POST",
                "/system/scale-function/f?namespace=",
                r#"{"replicas":2,"namespace":"dev"}"#,
                r#"/system/scale-function/f?namespace=dev {"namespace":"dev","replicas":2}"#,
            ),
        ] {
            assert_eq!(
                sent(method, target, body).await.as_deref(),
                Ok(expected),
                "{method} {target} {body}"
            );
        }
    }

    #[tokio::test]
    async fn everything_else_is_denied() {
        for (method, target, body) in [
            ("GET", "/system/functions", ""),
            ("GET", "/system/functions?namespace=other", ""),
            ("GET", "/system/functions?namespace=dev&namespace=other", ""),
            ("GET", "/system/functions?namespace=dev;namespace=other", ""),
            ("GET", "/system/functions?namespace=dev&Namespace=other", ""),
            ("GET", "/system/functions?namespace=dev&name%73pace=other", ""),
            ("GET", "/system/functions?namespace=d%65v", ""),
            ("GET", "/system/function/f.other?namespace=dev", ""),
            ("GET", "/system/namespace/other", ""),
            ("GET", "/system/telemetry", ""),
            ("GET", "/system/hyperfaas/async", ""),
            ("GET", "/system/hyperfaas/async/dead/1", ""),
            ("GET", "/system/hyperfaas/functions/f.other/decisions?namespace=dev", ""),
            ("POST", "/system/alert", "{}"),
            ("POST", "/system/namespace/", r#"{"name":"dev"}"#),
            ("DELETE", "/system/namespace/dev", ""),
            ("POST", "/system/functions", r#"{"service":"f"}"#),
            ("POST", "/system/functions", r#"{"service":"f","namespace":"other"}"#),
            (
                "POST",
                "/system/functions",
                r#"{"service":"f","namespace":"dev","namespace":"other"}"#,
            ),
            (
                "POST",
                "/system/functions",
                r#"{"service":"f","namespace":"dev","NAMESPACE":"other"}"#,
            ),
            ("POST", "/system/functions", r#"{"service":"f","namespace":7}"#),
            ("POST", "/system/functions", r#"[{"namespace":"dev"}]"#),
            ("POST", "/system/functions", ""),
            ("POST", "/system/functions", r#"{"namespace":"dev"} {"namespace":"other"}"#),
            ("POST", "/system/scale-function/f.other", r#"{"namespace":"dev"}"#),
        ] {
            assert!(sent(method, target, body).await.is_err(), "{method} {target} {body}");
        }
    }
}
