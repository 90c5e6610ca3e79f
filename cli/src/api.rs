//! The gateway's API as far as this program needs it.
//!
//! In: typed requests. Out: typed answers, or one line that says what the gateway made of it.
//! Accepted statuses are faas-cli's (docs/compat.md); servers' error bodies are shown on one line, shortened.

use std::time::Duration;

use hyperfaas_protocol::openfaas::{DeleteFunctionRequest, FunctionDeployment};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::args::GatewayArgs;
use crate::error::Error;
use crate::{credentials, gateway_url};

/// Longest wait for calls that have no time of their own.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// How much of an error body is shown, in characters.
const BODY_SHOWN: usize = 500;
/// Largest answer kept in memory, in bytes: a list of many thousand functions.
const ANSWER_MAX: usize = 64 << 20;

/// Why a call to the gateway failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No answer.
    #[error("cannot reach the gateway at {url}: {reason}")]
    Unreachable {
        /// The gateway.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// Wrong or missing credentials.
    #[error("the gateway refused the credentials; give --password-file, or log in with faas-cli")]
    Unauthorized,
    /// Another status than expected.
    #[error("the gateway answered {status}{}", shown(.body))]
    Status {
        /// What it answered.
        status: StatusCode,
        /// Its message, on one line.
        body: String,
    },
    /// An answer that is not what it should be.
    #[error("the gateway's answer makes no sense: {0}")]
    Answer(String),
}

fn shown(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}

/// A function in lists and status answers; every provider fills these.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FunctionView {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) namespace: Option<String>,
    pub(crate) invocation_count: f64,
    pub(crate) replicas: u64,
    pub(crate) available_replicas: u64,
    pub(crate) created_at: Option<String>,
}

/// What to do with functions that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeployMode {
    /// Update it; create it if there is none.
    Update,
    /// Create it; it must not exist.
    Create,
    /// Remove it first.
    Replace,
}

/// A gateway and the credentials for it.
#[derive(Debug)]
pub(crate) struct Gateway {
    url: String,
    base: Url,
    client: Client,
    credentials: Option<HeaderValue>,
}

impl Gateway {
    /// The gateway that the options, the stack file and the environment mean; credentials are read unless `anonymous`.
    ///
    /// # Errors
    /// [`Error`] when the address is no URL or the credentials cannot be read.
    pub(crate) fn open(
        args: &GatewayArgs,
        stack: Option<&str>,
        anonymous: bool,
    ) -> Result<Self, Error> {
        let variable = std::env::var(gateway_url::VARIABLE).ok();
        let url = gateway_url::choose(args.gateway.as_deref(), stack, variable.as_deref())?;
        let credentials = if anonymous { None } else { credentials::find(args, &url)? };
        let credentials = credentials.map(|text| {
            let mut value = HeaderValue::try_from(text)
                .map_err(|_| Error::Usage("the saved login is damaged".into()))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        let malformed = || gateway_url::UrlError::Malformed(url.clone());
        let base = Url::parse(&format!("{url}/")).map_err(|_| malformed())?;
        // As Go's clients do: a proxy from the environment is never asked for this very machine.
        let is_local = base
            .host_str()
            .is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]");
        let builder =
            Client::builder().user_agent(concat!("hyperfaas/", env!("CARGO_PKG_VERSION")));
        let builder = if is_local { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|error| unreachable(&url, &error))?;
        Ok(Self { base, client, credentials: credentials.transpose()?, url })
    }

    /// The gateway's URL, without a slash at its end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A request for `path` (without a slash in front) with credentials.
    pub(crate) fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, ApiError> {
        let url = self.base.join(path).map_err(|error| ApiError::Answer(error.to_string()))?;
        let request = self.client.request(method, url);
        Ok(match &self.credentials {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        })
    }

    /// Sends `request` and returns whatever comes back.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        request.send().await.map_err(|error| unreachable(&self.url, &error))
    }

    /// Deploys; returns the status that accepted it.
    ///
    /// # Errors
    /// [`ApiError`] when the gateway did not accept it.
    pub(crate) async fn deploy(
        &self,
        deployment: &FunctionDeployment,
        mode: DeployMode,
        timeout: Duration,
    ) -> Result<StatusCode, ApiError> {
        match mode {
            DeployMode::Update => {
                let updated = self.write(Method::PUT, deployment, timeout).await?;
                if updated.status() != StatusCode::NOT_FOUND {
                    return accepted(updated).await;
                }
            }
            DeployMode::Create => {}
            DeployMode::Replace => {
                // Whether there was something to remove does not matter.
                let removed = self.remove(&deployment.service, &deployment.namespace).await;
                if let Err(error @ (ApiError::Unreachable { .. } | ApiError::Unauthorized)) =
                    removed
                {
                    return Err(error);
                }
            }
        }
        accepted(self.write(Method::POST, deployment, timeout).await?).await
    }

    async fn write(
        &self,
        method: Method,
        body: &impl serde::Serialize,
        timeout: Duration,
    ) -> Result<Response, ApiError> {
        let request = self.request(method, "system/functions")?.timeout(timeout).json(body);
        self.send(request).await
    }

    /// Removes a function; whether there was one.
    ///
    /// # Errors
    /// [`ApiError`] when the gateway refused.
    pub(crate) async fn remove(&self, name: &str, namespace: &str) -> Result<bool, ApiError> {
        let body =
            DeleteFunctionRequest { function_name: name.into(), namespace: namespace.into() };
        let response = self.write(Method::DELETE, &body, TIMEOUT).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        accepted(response).await.map(|_| true)
    }

    /// All functions of `namespace` (empty: the default one), by name.
    ///
    /// # Errors
    /// [`ApiError`] when the gateway did not list them.
    pub(crate) async fn list(&self, namespace: &str) -> Result<Vec<FunctionView>, ApiError> {
        let request = with_namespace(self.request(Method::GET, "system/functions")?, namespace)
            .timeout(TIMEOUT);
        let mut functions: Vec<FunctionView> = decode(self.send(request).await?).await?;
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(functions)
    }

    /// One function, or `None` when there is no such function.
    ///
    /// # Errors
    /// [`ApiError`] when the gateway did not say.
    pub(crate) async fn status(
        &self,
        name: &str,
        namespace: &str,
    ) -> Result<Option<FunctionView>, ApiError> {
        let request =
            self.request(Method::GET, &format!("system/function/{name}"))?.timeout(TIMEOUT);
        let response = self.send(with_namespace(request, namespace)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            Ok(None)
        } else {
            decode(response).await.map(Some)
        }
    }

    /// Whether the gateway and what is behind it are well.
    ///
    /// # Errors
    /// [`ApiError`] when it cannot be reached or says it is not.
    pub(crate) async fn health(&self) -> Result<(), ApiError> {
        let response = self.send(self.request(Method::GET, "healthz")?.timeout(TIMEOUT)).await?;
        if response.status() == StatusCode::OK { Ok(()) } else { Err(refused(response).await) }
    }
}

fn with_namespace(request: RequestBuilder, namespace: &str) -> RequestBuilder {
    if namespace.is_empty() { request } else { request.query(&[("namespace", namespace)]) }
}

async fn accepted(response: Response) -> Result<StatusCode, ApiError> {
    match response.status() {
        status @ (StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED) => Ok(status),
        _ => Err(refused(response).await),
    }
}

async fn decode<T: serde::de::DeserializeOwned>(response: Response) -> Result<T, ApiError> {
    if response.status() != StatusCode::OK {
        return Err(refused(response).await);
    }
    let body = read(response, ANSWER_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| ApiError::Answer(error.to_string()))
}

/// The body, up to `limit` bytes.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    let broken = |error: reqwest::Error| ApiError::Answer(innermost(&error));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        body.extend_from_slice(&chunk);
        if body.len() > limit {
            return Err(ApiError::Answer(format!("more than {limit} bytes")));
        }
    }
    Ok(body)
}

async fn refused(response: Response) -> ApiError {
    match response.status() {
        StatusCode::UNAUTHORIZED => ApiError::Unauthorized,
        status => ApiError::Status { status, body: message(response).await },
    }
}

/// The beginning of an error body on one line.
pub(crate) async fn message(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_SHOWN * 4 {
            break;
        }
    }
    let text: String = String::from_utf8_lossy(&body).chars().take(BODY_SHOWN).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unreachable(url: &str, error: &reqwest::Error) -> ApiError {
    let reason = if error.is_timeout() { "no answer in time".to_owned() } else { innermost(error) };
    ApiError::Unreachable { url: url.to_owned(), reason }
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Headers from `NAME: VALUE` options, on top of the content type.
///
/// # Errors
/// [`Error::Usage`] when one is not of that form.
pub(crate) fn headers(content_type: &str, given: &[String]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let bad = |text: &str| Error::Usage(format!("--header {text}: must be NAME: VALUE"));
    let content_type = content_type
        .parse()
        .map_err(|_| Error::Usage("--content-type holds what no header can".into()))?;
    headers.insert(CONTENT_TYPE, content_type);
    for text in given {
        let (name, value) =
            text.split_once(':').or_else(|| text.split_once('=')).ok_or_else(|| bad(text))?;
        let name: reqwest::header::HeaderName = name.trim().parse().map_err(|_| bad(text))?;
        let value: HeaderValue = value.trim().parse().map_err(|_| bad(text))?;
        if name == CONTENT_TYPE {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(headers)
}
