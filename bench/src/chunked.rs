//! Where a chunked body ends. In: its bytes, in pieces. Out: a [`Step`]. Nothing is kept.

/// After a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The body goes on.
    More,
    /// The body ended after so many bytes of the piece.
    End(usize),
    /// Not a chunked body.
    Garbage,
}

/// The place within a body.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chunked {
    state: State,
    /// Of the current chunk: its size while that is read, then what is left of it.
    left: u64,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Size,
    /// Up to the line feed that ends the size's line.
    Extension,
    Data,
    /// The line end behind a chunk's data.
    DataEnd,
    /// A line behind the last chunk, with its length so far.
    Trailer(usize),
}

/// Largest size of a chunk, so that digits cannot overflow.
const CHUNK_MAX: u64 = 1 << 40;

impl Chunked {
    /// Goes through `piece`.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Step {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            at += 1;
            match self.state {
                State::Size => match (char::from(byte).to_digit(16), byte) {
                    (Some(digit), _) if self.left < CHUNK_MAX => {
                        self.left = self.left * 16 + u64::from(digit);
                    }
                    (None, b'\r' | b';' | b' ' | b'\t') => self.state = State::Extension,
                    _ => return Step::Garbage,
                },
                State::Extension if byte == b'\n' => {
                    self.state = if self.left == 0 { State::Trailer(0) } else { State::Data };
                }
                State::Extension => {}
                State::Data => {
                    let here = usize::try_from(self.left).unwrap_or(usize::MAX);
                    let taken = here.min(piece.len() - at + 1);
                    at += taken - 1;
                    self.left -= taken as u64;
                    if self.left == 0 {
                        self.state = State::DataEnd;
                    }
                }
                State::DataEnd if byte == b'\n' => self.state = State::Size,
                State::DataEnd if byte == b'\r' => {}
                State::DataEnd => return Step::Garbage,
                State::Trailer(0) if byte == b'\n' => return Step::End(at),
                State::Trailer(_) if byte == b'\n' => self.state = State::Trailer(0),
                State::Trailer(_) if byte == b'\r' => {}
                State::Trailer(length) => self.state = State::Trailer(length + 1),
            }
        }
        Step::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"5\r\nhello\r\n1a;note=1\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX-T: 1\r\n\r\n";

    #[test]
    fn a_body_ends_at_the_same_place_however_it_is_cut() {
        for size in 1..=BODY.len() {
            let mut chunked = Chunked::default();
            let steps = BODY.chunks(size).map(|piece| chunked.feed(piece)).collect::<Vec<_>>();
            let (last, before) = steps.split_last().unwrap();
            assert!(before.iter().all(|step| *step == Step::More), "pieces of {size}");
            assert!(matches!(last, Step::End(_)), "pieces of {size}");
        }
        let longer = [BODY, b"HTTP/1.1"].concat();
        assert_eq!(Chunked::default().feed(&longer), Step::End(BODY.len()));
    }

    #[test]
    fn what_is_no_chunk_is_garbage() {
        for text in ["x\r\n", "1\r\nab\r\n", "fffffffffffffffff\r\n"] {
            assert_eq!(Chunked::default().feed(text.as_bytes()), Step::Garbage, "{text:?}");
        }
    }
}
