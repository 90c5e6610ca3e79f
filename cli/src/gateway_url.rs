//! Which gateway is meant.
//!
//! Source: faas-cli's order (docs/compat.md): flag, stack file, `OPENFAAS_URL`, default; a value equal to the default
//! counts as not given.

/// Gateway of a fresh installation.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:8080";
/// Environment variable with the gateway's URL.
pub(crate) const VARIABLE: &str = "OPENFAAS_URL";

/// Why a gateway URL was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// TLS needs faas-cli.
    #[error("{0}: https:// is not supported here; use faas-cli, or the gateway's plain address")]
    Https(String),
    /// Not a URL.
    #[error("{0}: not a gateway URL such as {DEFAULT}")]
    Malformed(String),
}

/// The gateway's URL, without a slash at its end.
///
/// # Errors
/// [`UrlError`] when the chosen value is no `http://` URL.
pub(crate) fn choose(
    flag: Option<&str>,
    stack: Option<&str>,
    variable: Option<&str>,
) -> Result<String, UrlError> {
    let given =
        |value: Option<&str>| value.map(normal).filter(|url| !url.is_empty() && url != DEFAULT);
    let variable = variable.map(normal).filter(|url| !url.is_empty());
    let chosen =
        given(flag).or_else(|| given(stack)).or(variable).unwrap_or_else(|| DEFAULT.to_owned());
    if chosen.starts_with("https://") {
        return Err(UrlError::Https(chosen));
    }
    match reqwest::Url::parse(&chosen) {
        Ok(url) if url.scheme() == "http" && url.host_str().is_some() && url.query().is_none() => {
            Ok(chosen)
        }
        _ => {
            Err(UrlError::Malformed(chosen.chars().filter(|c| !c.is_control()).take(100).collect()))
        }
    }
}

/// Lower case, no slash at the end, `http://` in front when no scheme is given.
pub(crate) fn normal(url: &str) -> String {
    let url = url.trim().to_lowercase();
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.trim_end_matches('/')),
        None if url.is_empty() => url,
        None => format!("http://{}", url.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_differs_from_the_default_wins() {
        let choose = |flag, stack, variable| choose(flag, stack, variable).unwrap();
        assert_eq!(choose(None, None, None), DEFAULT);
        assert_eq!(choose(None, None, Some("http://env:1/")), "http://env:1");
        assert_eq!(choose(None, Some("stack:2"), Some("http://env:1")), "http://stack:2");
        assert_eq!(
            choose(Some("HTTP://Flag:3/Base/"), Some("stack:2"), None),
            "http://flag:3/base"
        );
        assert_eq!(
            choose(Some(DEFAULT), Some("http://127.0.0.1:8080/"), Some("env:1")),
            "http://env:1"
        );
        assert_eq!(choose(Some(""), Some(""), Some("")), DEFAULT);
    }

    #[test]
    fn what_is_no_http_url_is_refused() {
        assert!(matches!(choose(Some("https://gw"), None, None), Err(UrlError::Https(_))));
        for bad in ["ftp://gw", "http://", "http://gw:99999", "http://gw/?x=1", "a b"] {
            assert!(matches!(choose(Some(bad), None, None), Err(UrlError::Malformed(_))), "{bad}");
        }
    }
}
