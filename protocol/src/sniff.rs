//! The type of an answer that names none, guessed from its first bytes.
//!
//! In: at least the first 512 bytes of a body. Out: a media type.
//! Source: the WHATWG MIME sniffing standard as Go's `http.DetectContentType` implements it, whose order decides.

/// How many bytes are looked at.
const LOOK_MAX: usize = 512;

const HTML_TAGS: [&[u8]; 17] = [
    b"<!DOCTYPE HTML",
    b"<HTML",
    b"<HEAD",
    b"<SCRIPT",
    b"<IFRAME",
    b"<H1",
    b"<DIV",
    b"<FONT",
    b"<TABLE",
    b"<A",
    b"<STYLE",
    b"<TITLE",
    b"<B",
    b"<BODY",
    b"<BR",
    b"<P",
    b"<!--",
];

/// Prefixes in their order; `.` stands for any byte.
const PATTERNS: [(&[u8], &str); 33] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xfe\xff", "text/plain; charset=utf-16be"),
    (b"\xff\xfe", "text/plain; charset=utf-16le"),
    (b"\xef\xbb\xbf", "text/plain; charset=utf-8"),
    (b"\0\0\x01\0", "image/x-icon"),
    (b"\0\0\x02\0", "image/x-icon"),
    (b"BM", "image/bmp"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"RIFF....WEBPVP", "image/webp"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"FORM....AIFF", "audio/aiff"),
    (b"ID3", "audio/mpeg"),
    (b"OggS\0", "application/ogg"),
    (b"MThd\0\0\0\x06", "audio/midi"),
    (b"RIFF....AVI ", "video/avi"),
    (b"RIFF....WAVE", "audio/wave"),
    (b"", MP4),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"..................................LP", "application/vnd.ms-fontobject"),
    (b"\0\x01\0\0", "font/ttf"),
    (b"OTTO", "font/otf"),
    (b"ttcf", "font/collection"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"Rar!\x1a\x07\0", "application/x-rar-compressed"),
    (b"Rar!\x1a\x07\x01\0", "application/x-rar-compressed"),
    (b"\0\x61\x73\x6d", "application/wasm"),
    (b"", TEXT),
];
/// Marks the place in the order where the boxes of MP4 are looked at.
const MP4: &str = "video/mp4";
/// Marks the place in the order where everything without control characters is text.
const TEXT: &str = "text/plain; charset=utf-8";

/// Guesses the type of `body`.
pub fn content_type(body: &[u8]) -> &'static str {
    let data = &body[..body.len().min(LOOK_MAX)];
    let blank = |b: &u8| matches!(b, b'\t' | b'\n' | b'\x0c' | b'\r' | b' ');
    let text = &data[data.iter().position(|b| !blank(b)).unwrap_or(data.len())..];
    if HTML_TAGS.iter().any(|tag| is_tag(text, tag)) {
        return "text/html; charset=utf-8";
    }
    if text.starts_with(b"<?xml") {
        return "text/xml; charset=utf-8";
    }
    let matches = |(pattern, name): &&(&[u8], &'static str)| match *name {
        MP4 => is_mp4(data),
        TEXT if pattern.is_empty() => {
            !text.iter().any(|b| matches!(b, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f))
        }
        _ => {
            data.len() >= pattern.len()
                && pattern.iter().zip(data).all(|(p, b)| *p == b'.' || p == b)
        }
    };
    PATTERNS.iter().find(matches).map_or("application/octet-stream", |(_, name)| name)
}

fn is_tag(text: &[u8], tag: &[u8]) -> bool {
    let Some((head, rest)) = text.split_at_checked(tag.len()) else { return false };
    head.eq_ignore_ascii_case(tag) && rest.first().is_some_and(|b| matches!(b, b' ' | b'>'))
}

/// An `ftyp` box one of whose brands begins with `mp4`.
fn is_mp4(data: &[u8]) -> bool {
    let Some(size) = data.first_chunk::<4>().map(|size| u32::from_be_bytes(*size) as usize) else {
        return false;
    };
    if data.len() < 12 || data.len() < size || size % 4 != 0 || &data[4..8] != b"ftyp" {
        return false;
    }
    // The third word is a version, not a brand.
    (8..size).step_by(4).filter(|at| *at != 12).any(|at| data.get(at..at + 3) == Some(b"mp4"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_guessed_as_go_guesses_them() {
        for (body, name) in [
            (&b"hello"[..], TEXT),
            (b"{\"a\":1}", TEXT),
            (b"  \n<html>", "text/html; charset=utf-8"),
            (b"<htmlx>", TEXT),
            (b"<!-- x", "text/html; charset=utf-8"),
            (b"<p>", "text/html; charset=utf-8"),
            (b" <?xml version", "text/xml; charset=utf-8"),
            (b" %PDF-1.4", TEXT),
            (b"%PDF-1.4", "application/pdf"),
            (b"\x89PNG\r\n\x1a\n..", "image/png"),
            (b"RIFF\x01\x02\x03\x04WEBPVP8", "image/webp"),
            (b"RIFF\x01\x02\x03\x04WAVE", "audio/wave"),
            (b"\0\0\0\x14ftypisom\0\0\0\0mp41", "video/mp4"),
            (b"\x1f\x8b\x08\0", "application/x-gzip"),
            (b"\x01\x02", "application/octet-stream"),
            (b"\x1b[0m", TEXT),
            (b"\xef\xbb\xbfx", TEXT),
            (b"0123456789012345678901234567890123LP", "application/vnd.ms-fontobject"),
            (b"GIF89a", "image/gif"),
        ] {
            assert_eq!(content_type(body), name, "{}", body.escape_ascii());
        }
    }
}
