//! `hyperfaas invoke`.

use std::io::{self, IsTerminal, Write};

use futures_util::StreamExt;
use futures_util::stream;
use hyperfaas_protocol::names::DEFAULT_NAMESPACE;
use reqwest::{Body, Response};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::api::{ApiError, Gateway, headers, message};
use crate::args::InvokeArgs;
use crate::error::Error;
use crate::output::complain;

/// Bodies up to this many bytes are sent with their length, which functions that fork for each request like to know;
/// larger ones are streamed.
const SIZED_MAX: u64 = 1 << 20;

/// Calls the function; its answer goes to standard output, also when it is an error.
pub(crate) async fn run(args: InvokeArgs) -> Result<(), Error> {
    if args.gateway.password_stdin {
        return Err(Error::Usage(
            "standard input is the request body; give the password with --password-file".into(),
        ));
    }
    let headers = headers(&args.content_type, &args.header)?;
    let gateway = Gateway::open(&args.gateway, None, !args.auth)?;
    let name = reference(&args.name, args.namespace.as_deref());
    if !hyperfaas_protocol::names::is_route_name(&name) {
        return Err(Error::Usage(format!("{:?} cannot be the name of a function", args.name)));
    }
    let mut request = gateway.request(args.method, &format!("function/{name}"))?.headers(headers);
    for pair in &args.query {
        request = request.query(&[pair.split_once('=').unwrap_or((pair, ""))]);
    }
    let response = gateway.send(request.body(body().await?)).await?;
    let status = response.status();
    if status.is_success() {
        return print(response).await;
    }
    let text = message(response).await;
    if !text.is_empty() {
        complain(&text);
    }
    Err(Error::Answer { name, status: status.to_string() })
}

/// `name.namespace`; as in faas-cli the namespace is always named.
fn reference(name: &str, namespace: Option<&str>) -> String {
    match namespace.filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => format!("{name}.{namespace}"),
        None if name.contains('.') => name.to_owned(),
        None => format!("{name}.{DEFAULT_NAMESPACE}"),
    }
}

/// Standard input as a request body.
async fn body() -> io::Result<Body> {
    if io::stdin().is_terminal() {
        complain("reading the request body from standard input, Ctrl+D ends it");
    }
    let mut input = tokio::io::stdin();
    let mut start = Vec::new();
    (&mut input).take(SIZED_MAX + 1).read_to_end(&mut start).await?;
    if start.len() as u64 <= SIZED_MAX {
        return Ok(Body::from(start));
    }
    let start = stream::iter([Ok(start.into())]);
    Ok(Body::wrap_stream(start.chain(ReaderStream::new(input))))
}

/// Copies the answer to standard output as it comes.
async fn print(mut response: Response) -> Result<(), Error> {
    let mut output = io::stdout();
    let broken = |error: reqwest::Error| ApiError::Answer(format!("it broke off: {error}"));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        output.write_all(&chunk)?;
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_always_named() {
        assert_eq!(reference("f", None), "f.openfaas-fn");
        assert_eq!(reference("f", Some("dev")), "f.dev");
        assert_eq!(reference("f.dev", None), "f.dev");
    }
}
