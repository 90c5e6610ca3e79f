//! The content type of a file by its extension.
//!
//! In: a file's name; the type tables of the image, where it has any. Out: a type, or nothing, which leaves it to the bytes.
//! Always: as in Go, `/usr/share/mime/globs2` and its kin only add to what is built in, while an Apache `mime.types`, read
//! where there are none of them, comes first.
//! Touches: those files, once at start.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most bytes read of one table; the common ones have less than 100 KB.
const TABLE_MAX: u64 = 1 << 20;
/// Tables of shared-mime-info; all that exist are read.
const GLOBS: [&str; 2] = ["/usr/local/share/mime/globs2", "/usr/share/mime/globs2"];
/// Read only where there is none of [`GLOBS`].
const TYPES: [&str; 4] = [
    "/etc/mime.types",
    "/etc/apache2/mime.types",
    "/etc/apache/mime.types",
    "/etc/httpd/conf/mime.types",
];

/// Types known in every image, extensions in lower case; those of Go.
const BUILT_IN: [(&str, &str); 61] = [
    ("ai", "application/postscript"),
    ("apk", "application/vnd.android.package-archive"),
    ("apng", "image/apng"),
    ("avif", "image/avif"),
    ("bin", "application/octet-stream"),
    ("bmp", "image/bmp"),
    ("com", "application/octet-stream"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("ehtml", "text/html"),
    ("eps", "application/postscript"),
    ("exe", "application/octet-stream"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ics", "text/calendar"),
    ("jfif", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("m4a", "audio/mp4"),
    ("mjs", "text/javascript"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("pjp", "image/jpeg"),
    ("pjpeg", "image/jpeg"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("ps", "application/postscript"),
    ("rtf", "application/rtf"),
    ("shtml", "text/html"),
    ("svg", "image/svg+xml"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("txt", "text/plain"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("xbl", "text/xml"),
    ("xbm", "image/x-xbitmap"),
    ("xht", "application/xhtml+xml"),
    ("xhtml", "application/xhtml+xml"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "text/xml"),
    ("xsl", "text/xml"),
    ("zip", "application/zip"),
];

/// Extensions and their types.
#[derive(Debug, Default)]
pub(super) struct Media(HashMap<String, String>);

impl Media {
    /// Reads the image's tables, each opened by `open`.
    pub(super) fn load(open: impl Fn(&Path) -> Option<File>) -> Self {
        let read = |path: &&str| {
            let file = open(Path::new(path))?;
            let mut bytes = Vec::new();
            file.take(TABLE_MAX + 1).read_to_end(&mut bytes).ok()?;
            String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= TABLE_MAX)
        };
        let mut media = Self::default();
        let globs: Vec<String> = GLOBS.iter().filter_map(read).collect();
        globs.iter().for_each(|table| media.add_globs(table));
        if globs.is_empty() {
            TYPES.iter().filter_map(read).for_each(|table| media.add_types(&table));
        }
        media
    }

    /// The type for a file called `name`.
    pub(super) fn of(&self, name: &str) -> Option<String> {
        let (_, extension) = name.rsplit_once('.')?;
        let lower = extension.to_ascii_lowercase();
        let own = self.0.get(extension).or_else(|| self.0.get(&lower)).map(String::as_str);
        let built_in = || BUILT_IN.iter().find(|(known, _)| *known == lower).map(|(_, kind)| *kind);
        own.or_else(built_in).map(with_charset)
    }

    /// Lines `50:text/css:*.css`, the best one first.
    fn add_globs(&mut self, table: &str) {
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let mut fields = line.split(':').skip(1);
            let (Some(kind), Some(glob)) = (fields.next(), fields.next()) else { continue };
            let Some(extension) = glob.strip_prefix("*.") else { continue };
            if !extension.contains(['.', '*', '?', '[']) && built_in(extension).is_none() {
                self.0.entry(extension.to_owned()).or_insert_with(|| kind.to_owned());
            }
        }
    }

    /// Lines `text/css css`, the last one wins.
    fn add_types(&mut self, table: &str) {
        for line in table.lines() {
            let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
            let Some(kind) = words.next() else { continue };
            for extension in words {
                self.0.insert(extension.to_owned(), kind.to_owned());
            }
        }
    }
}

fn built_in(extension: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == extension).map(|(_, kind)| *kind)
}

fn with_charset(kind: &str) -> String {
    let needs = kind.starts_with("text/") && !kind.contains("charset=");
    if needs { format!("{kind}; charset=utf-8") } else { kind.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_tell_the_type_in_any_case() {
        let none = Media::default();
        assert_eq!(none.of("a.b.CSS").as_deref(), Some("text/css; charset=utf-8"));
        assert_eq!(none.of("x.json").as_deref(), Some("application/json"));
        assert_eq!((none.of("x.conf"), none.of("css"), none.of("x.")), (None, None, None));
    }

    #[test]
    fn the_images_tables_are_used() {
        let mut media = Media::default();
        media.add_globs("# c\n50:a/css:*.css\n50:text/x-go:*.go\n40:a/b:*.go\n50:a/b:*.tar.gz\nx");
        assert_eq!(media.of("a.css").as_deref(), Some("text/css; charset=utf-8"));
        assert_eq!(media.of("a.go").as_deref(), Some("text/x-go; charset=utf-8"));
        assert_eq!(media.of("a.tar.gz").as_deref(), Some("application/gzip"));
        media.add_types("# c\napplication/x-zip zip z # old\nlonely");
        assert_eq!(media.of("a.zip").as_deref(), Some("application/x-zip"));
    }
}
