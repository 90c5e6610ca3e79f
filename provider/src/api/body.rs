//! Bodies of management requests: bounded in size, time and number, decoded with Go's rules.
//!
//! In: a request's body, whatever its content type says. Out: the decoded type, or a [`BodyError`].
//! Always: at most [`BODY_MAX`] bytes of one body and [`BUDGET`] of all together are kept in memory. A body that is too large
//! is read on for a while and thrown away, because a client that is still writing would not see the answer.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::EXPECT;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyperfaas_protocol::go_json::{self, DecodeError, GoFields};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Largest body: 4 MiB holds the largest secret as base64 and the largest deployment, escaped, with room to spare.
pub(super) const BODY_MAX: usize = 4 << 20;
/// A longer body is read up to here before it is refused; beyond it the connection is cut.
const DRAIN_MAX: usize = 64 << 20;
/// What all bodies being read and decoded may take together, in units of [`UNIT`]: 32 MiB, since decoding multiplies it.
const BUDGET: usize = 32 << 10;
/// One unit of the budget: 1 KiB.
const UNIT: usize = 1 << 10;

static MEMORY: Semaphore = Semaphore::const_new(BUDGET);

/// Why a body was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Not what the route takes.
    #[error("failed to unmarshal request: {0}")]
    Decode(#[from] DecodeError),
    /// As [`BodyError::Decode`], where what was sent must not be repeated.
    #[error(
        "failed to unmarshal request: a JSON object with the texts name, namespace, value and rawValue is needed"
    )]
    DecodeSecret,
    /// Longer than [`BODY_MAX`].
    #[error("request body is larger than {BODY_MAX} bytes")]
    TooLarge,
    /// Not complete in time.
    #[error("request body did not arrive within {0:?}")]
    Slow(Duration),
    /// The client went away or broke the framing.
    #[error("request body broke off")]
    Broken,
    /// Other bodies take all the memory there is for them.
    #[error("too many large requests at the same time")]
    Busy,
}

/// Reads and decodes a request's body.
///
/// # Errors
/// [`BodyError`] in every case; nothing of the body is kept.
pub(super) async fn decode<T: GoFields>(request: Request, limit: Duration) -> Result<T, BodyError> {
    let (bytes, _memory) =
        timeout(limit, read(request)).await.map_err(|_| BodyError::Slow(limit))??;
    Ok(go_json::decode(&bytes)?)
}

/// As [`decode`], where an empty body means "nothing given".
///
/// # Errors
/// [`BodyError`] as there.
pub(super) async fn decode_optional<T: GoFields + Default>(
    request: Request,
    limit: Duration,
) -> Result<T, BodyError> {
    let (bytes, _memory) =
        timeout(limit, read(request)).await.map_err(|_| BodyError::Slow(limit))??;
    if bytes.trim_ascii().is_empty() { Ok(T::default()) } else { Ok(go_json::decode(&bytes)?) }
}

/// The whole body, with the part of the budget it takes.
async fn read(request: Request) -> Result<(Bytes, Vec<SemaphorePermit<'static>>), BodyError> {
    let is_waiting = request.headers().contains_key(EXPECT);
    let mut body: Body = request.into_body();
    let announced =
        usize::try_from(http_body::Body::size_hint(&body).lower()).unwrap_or(usize::MAX);
    if announced > DRAIN_MAX || (is_waiting && announced > BODY_MAX) {
        return Err(BodyError::TooLarge);
    }
    let (mut bytes, mut memory, mut seen) = (BytesMut::new(), Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen > DRAIN_MAX {
            break;
        }
        if seen <= BODY_MAX {
            let units =
                u32::try_from(data.len().div_ceil(UNIT)).map_err(|_| BodyError::TooLarge)?;
            memory.push(MEMORY.try_acquire_many(units).map_err(|_| BodyError::Busy)?);
            bytes.extend_from_slice(&data);
        }
    }
    if seen > BODY_MAX { Err(BodyError::TooLarge) } else { Ok((bytes.freeze(), memory)) }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use hyperfaas_protocol::openfaas::DeleteFunctionRequest;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    async fn decoded(body: Body, limit: Duration) -> Result<DeleteFunctionRequest, BodyError> {
        decode(Request::new(body), limit).await
    }

    #[tokio::test]
    async fn a_body_is_decoded_however_it_is_cut() {
        let pieces = br#"{"functionName":"fn1"}"#
            .map(|byte| Ok::<_, std::io::Error>(Bytes::copy_from_slice(&[byte])));
        let body = Body::from_stream(stream::iter(pieces));
        assert_eq!(decoded(body, LONG).await.unwrap().function_name, "fn1");
    }

    #[tokio::test]
    async fn too_much_is_refused_after_it_was_read() {
        let chunk = Bytes::from(vec![b' '; 1 << 20]);
        let body = Body::from_stream(stream::iter(
            (0..10).map(move |_| Ok::<_, std::io::Error>(chunk.clone())),
        ));
        assert!(matches!(decoded(body, LONG).await, Err(BodyError::TooLarge)));
    }

    #[tokio::test]
    async fn an_announced_excess_is_refused_before_it_is_sent() {
        let mut request = Request::new(Body::from(vec![b' '; BODY_MAX + 1]));
        request.headers_mut().insert(EXPECT, "100-continue".parse().unwrap());
        let refused: Result<DeleteFunctionRequest, _> = decode(request, LONG).await;
        assert!(matches!(refused, Err(BodyError::TooLarge)));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert!(matches!(decoded(body, SHORT).await, Err(BodyError::Slow(_))));
    }

    #[tokio::test]
    async fn a_broken_body_is_told_from_a_wrong_one() {
        let broken =
            stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))]);
        assert!(matches!(decoded(Body::from_stream(broken), LONG).await, Err(BodyError::Broken)));
        assert!(matches!(decoded(Body::from("{"), LONG).await, Err(BodyError::Decode(_))));
        assert!(matches!(decoded(Body::empty(), LONG).await, Err(BodyError::Decode(_))));
    }
}
