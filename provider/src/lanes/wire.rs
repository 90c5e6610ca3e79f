//! HTTP/1.1 as a function's server speaks it: the head of a request written, the head of an answer read.
//!
//! In: a valid request, or bytes of a server nobody trusts. Out: bytes, or an answer's head and how long its body is.
//! Always: a head whose body's length two readers could see differently is refused; whether the connection can serve another
//! request is decided here, in favour of no.
//! Touches: nothing.
//! Source: RFC 9112, sections 4, 5 and 6; header names are spelled as Go spells them, since functions may look for that.

use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};

/// Most bytes of an answer's head: as much as hyper takes.
pub const HEAD_MAX: usize = 400 << 10;
/// Most header lines of an answer, as on port 8080.
const LINES_MAX: usize = 500;
/// How many lines nearly every answer stays below.
const LINES_USUAL: usize = 32;

/// Why an answer cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1.
    #[error("malformed head: {0}")]
    Malformed(httparse::Error),
    /// Lengths that are none or contradict each other, or an encoding where none may be.
    #[error("ambiguous length")]
    Ambiguous,
    /// It does not end.
    #[error("head too long")]
    TooLong,
}

/// How the end of an answer's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Exact(u64),
    /// The last chunk says so.
    Chunked,
    /// The server closes its connection.
    Close,
}

/// An answer's head.
#[derive(Debug)]
pub struct AnswerHead {
    /// Status and headers.
    pub response: Response<()>,
    /// Bytes of the head.
    pub size: usize,
    /// Its body.
    pub length: Length,
    /// Whether the server keeps its connection after this answer.
    pub is_kept: bool,
}

/// Appends the head of a request; `length` is that of its body, `None` if only its end will tell.
pub fn write_head(into: &mut Vec<u8>, parts: &Parts, length: Option<u64>) {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    into.extend_from_slice(parts.method.as_str().as_bytes());
    into.push(b' ');
    into.extend_from_slice(target.as_bytes());
    into.extend_from_slice(b" HTTP/1.1\r\n");
    // The host comes first, as every server likes it best.
    if let Some(host) = parts.headers.get(HOST) {
        write_line(into, &HOST, host);
    }
    for (name, value) in &parts.headers {
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name) {
            write_line(into, name, value);
        }
    }
    match length {
        Some(0) if !has_body(parts) => {}
        Some(length) => {
            into.extend_from_slice(b"Content-Length: ");
            into.extend_from_slice(length.to_string().as_bytes());
            into.extend_from_slice(b"\r\n");
        }
        None => into.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    into.extend_from_slice(b"\r\n");
}

/// Whether a request without a byte of body still says so: one that declared it, and one whose method lets expect a body.
pub fn has_body(parts: &Parts) -> bool {
    parts.headers.contains_key(CONTENT_LENGTH)
        || matches!(parts.method, Method::POST | Method::PUT | Method::PATCH)
}

fn write_line(into: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let mut is_first = true;
    for byte in name.as_str().bytes() {
        into.push(if is_first { byte.to_ascii_uppercase() } else { byte });
        is_first = byte == b'-';
    }
    into.extend_from_slice(b": ");
    into.extend_from_slice(value.as_bytes());
    into.extend_from_slice(b"\r\n");
}

/// Reads the head of the answer to a request of `method`; `None` while it is not complete.
///
/// # Errors
/// [`HeadError`] for what no answer begins with.
pub fn read_head(bytes: &[u8], method: &Method) -> Result<Option<AnswerHead>, HeadError> {
    let mut usual = [httparse::EMPTY_HEADER; LINES_USUAL];
    match parse(bytes, method, &mut usual) {
        Err(HeadError::Malformed(httparse::Error::TooManyHeaders)) => {
            parse(bytes, method, &mut vec![httparse::EMPTY_HEADER; LINES_MAX])
        }
        read => read,
    }
}

fn parse<'a>(
    bytes: &'a [u8],
    method: &Method,
    lines: &mut [httparse::Header<'a>],
) -> Result<Option<AnswerHead>, HeadError> {
    let mut answer = httparse::Response::new(lines);
    let size = match answer.parse(bytes).map_err(HeadError::Malformed)? {
        httparse::Status::Complete(size) => size,
        httparse::Status::Partial if bytes.len() >= HEAD_MAX => return Err(HeadError::TooLong),
        httparse::Status::Partial => return Ok(None),
    };
    let malformed = HeadError::Malformed(httparse::Error::HeaderValue);
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(HeadError::Malformed(httparse::Error::Status))?;
    let mut headers = HeaderMap::with_capacity(answer.headers.len() + 3);
    for line in answer.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| malformed)?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| malformed)?;
        headers.try_append(name, value).map_err(|_| HeadError::TooLong)?;
    }
    let is_modern = answer.version == Some(1);
    let length = length(&headers, status, method, is_modern)?;
    let is_kept = length != Length::Close
        && !has_token(&headers, "close")
        && (is_modern || has_token(&headers, "keep-alive"));
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(Some(AnswerHead { response, size, length, is_kept }))
}

/// RFC 9112, 6.3. Stricter where senders err: both framings at once, and encodings other than `chunked`, are refused.
fn length(
    headers: &HeaderMap,
    status: StatusCode,
    method: &Method,
    is_modern: bool,
) -> Result<Length, HeadError> {
    let declared = declared(headers)?;
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let encoding = encodings.next();
    if encoding.is_some() && (encodings.next().is_some() || declared.is_some() || !is_modern) {
        return Err(HeadError::Ambiguous);
    }
    let is_empty = *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    match (encoding, declared) {
        _ if is_empty => Ok(Length::Exact(0)),
        (Some(coding), _) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Ok(Length::Chunked)
        }
        (Some(_), _) => Err(HeadError::Ambiguous),
        (None, Some(length)) => Ok(Length::Exact(length)),
        (None, None) => Ok(Length::Close),
    }
}

/// The one length that is declared, however often.
fn declared(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let mut all = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| HeadError::Ambiguous)?;
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let length = text.parse().ok().filter(|_| is_number).ok_or(HeadError::Ambiguous)?;
        if all.is_some_and(|known| known != length) {
            return Err(HeadError::Ambiguous);
        }
        all = Some(length);
    }
    Ok(all)
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(u16, Length, bool), HeadError> {
        let head = read_head(text.as_bytes(), &Method::GET)?.expect("a whole head");
        assert_eq!(head.size, text.len());
        Ok((head.response.status().as_u16(), head.length, head.is_kept))
    }

    #[test]
    fn a_request_is_written_as_go_would_write_it() {
        let request = Request::post("/a/b?q=1")
            .header("x-call-id", "7")
            .header("host", "10.0.0.1:8080")
            .header("content-length", "3");
        let mut text = Vec::new();
        write_head(&mut text, &request.body(()).unwrap().into_parts().0, Some(3));
        let expected = "POST /a/b?q=1 HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nX-Call-Id: 7\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        let get = Request::get("/").body(()).unwrap().into_parts().0;
        let mut text = Vec::new();
        write_head(&mut text, &get, Some(0));
        assert_eq!(text, b"GET / HTTP/1.1\r\n\r\n");
        text.clear();
        write_head(&mut text, &get, None);
        assert_eq!(text, b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    }

    #[test]
    fn the_end_of_an_answer_is_known_or_it_is_refused() {
        for (text, length, is_kept) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Length::Exact(5), true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                Length::Exact(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\n",
                Length::Exact(5),
                false,
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Length::Exact(5), false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
                Length::Exact(5),
                true,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Length::Chunked, true),
            ("HTTP/1.1 204 No Content\r\n\r\n", Length::Exact(0), true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Length::Exact(0), true),
            ("HTTP/1.1 200 OK\r\n\r\n", Length::Close, false),
        ] {
            let status = text[9..12].parse().unwrap();
            assert_eq!(read(text), Ok((status, length, is_kept)), "{text}");
        }
        for lines in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: +5",
            "Content-Length: 5, 5",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(
                read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")),
                Err(HeadError::Ambiguous),
                "{lines}"
            );
        }
        assert_eq!(
            read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(HeadError::Ambiguous)
        );
        let head = read_head(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &Method::HEAD);
        assert_eq!(head.unwrap().unwrap().length, Length::Exact(0));
    }

    #[test]
    fn nonsense_is_refused_and_many_lines_are_bounded() {
        for text in [
            "\0\u{1}garbage\n",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
        ] {
            assert!(
                matches!(read_head(text.as_bytes(), &Method::GET), Err(HeadError::Malformed(_))),
                "{text}"
            );
        }
        let many = |count| format!("HTTP/1.1 204 x\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(read(&many(500)).is_ok());
        assert!(read(&many(501)).is_err());
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_MAX));
        assert_eq!(read_head(endless.as_bytes(), &Method::GET).err(), Some(HeadError::TooLong));
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_never_reads_past_the_end(text in "HTTP/1\\.[01] [0-9]{3} ?[a-z]{0,3}(\r\n(Content-Length|Transfer-Encoding|Connection|a): ?[0-9a-z, ]{0,9}){0,4}(\r\n){0,2}.{0,5}") {
            if let Ok(Some(head)) = read_head(text.as_bytes(), &Method::GET) {
                prop_assert!(head.size <= text.len());
            }
        }
    }
}
