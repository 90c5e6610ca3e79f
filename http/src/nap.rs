//! Connections that wait for a request keep no buffers: their stream is lent to hyper only while it has something to do.
//!
//! In: a stream. Out: the same stream, lent as a [`Lent`]; it comes back when [`Traffic::is_idle`] and hyper has let it go.
//! Always: it is taken back only when no request is open, all that was written has been sent, and nothing of meaning that was
//! read is still in hyper's buffer; when that is uncertain, it stays where it is.
//! Why: hyper keeps 8 KiB to read into and 8 KiB to write from for as long as a connection lives, whether it is used or not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// What ends the head of a message, and a chunked body.
const BLANK: &[u8] = b"\r\n\r\n";

/// Waits for the first byte of a request; `None` when the peer has closed.
///
/// # Errors
/// Of the stream.
pub(crate) async fn first_byte(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok((stream.read(&mut byte).await? == 1).then_some(byte[0]))
}

/// What is under way on a connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Bodies of requests and answers that are not over, and answers that are awaited.
    open: AtomicUsize,
    is_recalled: AtomicBool,
    tally: Mutex<Tally>,
}

impl Traffic {
    /// A request begins, whose body has `length` bytes if that is known.
    pub(crate) fn begin(self: &Arc<Self>, length: Option<u64>) -> Open {
        self.tally().length = length;
        Open::new(self)
    }

    /// How often something was read; equal numbers mean that nothing has come in between.
    pub(crate) fn reads(&self) -> u64 {
        self.tally().reads
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0 && self.tally().is_over()
    }

    /// From now on the stream comes back when hyper lets it go, instead of being closed; until then nothing is read.
    pub(crate) fn recall(&self) {
        self.is_recalled.store(true, Ordering::Release);
    }

    fn is_recalled(&self) -> bool {
        self.is_recalled.load(Ordering::Acquire)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that is not over yet.
#[derive(Debug)]
pub(crate) struct Open(Arc<Traffic>);

impl Open {
    fn new(traffic: &Arc<Traffic>) -> Self {
        traffic.open.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(traffic))
    }
}

impl Clone for Open {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What has passed over a connection.
#[derive(Debug, Default)]
struct Tally {
    reads: u64,
    /// Whether the last that was read ended in an empty line.
    ends_blank: bool,
    /// Bytes behind the first empty line of the requests since the connection was idle.
    behind: Option<u64>,
    /// Length of the newest request's body.
    length: Option<u64>,
    /// Whether something was written that may not have been sent.
    is_unsent: bool,
}

impl Tally {
    /// `bytes` were read, while a request was open or not.
    fn read(&mut self, bytes: &[u8], is_open: bool) {
        self.reads += 1;
        self.ends_blank = bytes.ends_with(BLANK);
        if is_open {
            self.behind = self.behind.map(|behind| behind + bytes.len() as u64);
        } else {
            let end = bytes.windows(BLANK.len()).position(|window| window == BLANK);
            self.behind = end.map(|end| (bytes.len() - end - BLANK.len()) as u64);
        }
    }

    /// Whether nothing was read that a request which is over does not account for.
    ///
    /// What is left in a parser behind whole messages is the beginning of a head. One that ends in an empty line would be whole,
    /// or is nothing but empty lines, which mean nothing. And when exactly a body's length has come behind a head, the head was
    /// that body's and nothing followed.
    fn is_over(&self) -> bool {
        let is_exact = self.behind.is_some() && self.behind == self.length;
        !self.is_unsent && (self.ends_blank || is_exact)
    }
}

/// A stream that is lent to hyper, with the byte that was read before.
#[derive(Debug)]
pub(crate) struct Lent<S> {
    stream: Option<S>,
    first: Option<u8>,
    traffic: Arc<Traffic>,
    back: Option<oneshot::Sender<S>>,
}

impl<S> Lent<S> {
    /// `stream`, which has brought `first`; the receiver gets it back if it was recalled by then.
    pub(crate) fn new(stream: S, first: u8, traffic: Arc<Traffic>) -> (Self, oneshot::Receiver<S>) {
        let (back, returned) = oneshot::channel();
        (Self { stream: Some(stream), first: Some(first), traffic, back: Some(back) }, returned)
    }
}

impl<S: Unpin> Lent<S> {
    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(self.stream.as_mut().expect("given back at the end only"))
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        if self.traffic.is_recalled()
            && let (Some(stream), Some(back)) = (self.stream.take(), self.back.take())
        {
            // Nobody waits any more when the server ends; the stream is closed then.
            drop(back.send(stream));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.traffic.is_recalled() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        let first = self.first.take();
        if let Some(first) = first {
            into.put_slice(&[first]);
        }
        match self.stream().poll_read(cx, into) {
            // What failed behind a byte fails again.
            Poll::Pending | Poll::Ready(Err(_)) if first.is_some() => {}
            read => ready!(read)?,
        }
        let is_open = self.traffic.open.load(Ordering::Acquire) > 0;
        self.traffic.tally().read(&into.filled()[before..], is_open);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.traffic.tally().is_unsent = true;
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.traffic.tally().is_unsent = true;
        self.stream().poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    /// hyper flushes once all it has was written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream().poll_flush(cx))?;
        self.traffic.tally().is_unsent = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.traffic.is_recalled() {
            return Poll::Ready(Ok(()));
        }
        self.stream().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a connection is over after reading these pieces; those behind a `|` come while a request is open, and a number
    /// is the length of the body that the newest request announced.
    fn is_over(pieces: &[&str], length: Option<u64>) -> bool {
        let mut tally = Tally::default();
        for piece in pieces {
            match piece.strip_prefix('|') {
                Some(piece) => tally.read(piece.as_bytes(), true),
                None => tally.read(piece.as_bytes(), false),
            }
        }
        tally.length = length;
        tally.is_over()
    }

    #[test]
    fn a_whole_request_and_nothing_more_is_over() {
        const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        const POST: &str = "POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n";
        assert!(is_over(&[GET], Some(0)));
        assert!(is_over(&[GET, GET], Some(0)), "one after the other");
        assert!(is_over(&[&format!("{GET}{GET}")], Some(0)), "two at once");
        assert!(is_over(&["GET / HTTP/1.1\r\nho", "st: a\r\n\r\n"], Some(0)), "in pieces");
        assert!(is_over(&[&format!("{POST}body")], Some(4)));
        assert!(is_over(&[POST, "|bo", "|dy"], Some(4)));
        assert!(is_over(&[POST, "|4\r\nbody\r\n0\r\n\r\n"], None), "chunked");
    }

    #[test]
    fn the_beginning_of_another_request_is_not_over() {
        const POST: &str = "POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n";
        for pieces in [
            &["GET / HTTP/1.1\r\n\r\nGET"] as &[&str],
            &["GET / HTTP/1.1\r\n\r\n", "|GET /"],
            &["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n"],
        ] {
            assert!(!is_over(pieces, Some(0)), "{pieces:?}");
        }
        assert!(!is_over(&[&format!("{POST}body{POST}body")], Some(4)), "over, but not surely");
        assert!(!is_over(&[&format!("{POST}bodyPOST")], Some(4)));
        assert!(!is_over(&[POST, "|body", "|POST"], Some(4)));
        assert!(!is_over(&[POST, "|body", "POST"], Some(4)));
        assert!(!is_over(&[], None), "nothing has come");
    }

    #[test]
    fn what_was_written_has_to_be_sent() {
        let mut tally = Tally::default();
        tally.read(b"\r\n\r\n", false);
        tally.is_unsent = true;
        assert!(!tally.is_over());
    }
}
