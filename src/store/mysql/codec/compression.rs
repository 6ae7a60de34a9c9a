//! Which bodies are compressed in the table, and how?

use std::fmt;
use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use crate::stored::StoredResponse;

/// Smaller bodies are not compressed by default. That would save little, and a hit would take longer: with 1 KiB,
/// decompressing was a tenth of its CPU time.
const MIN_BYTES: usize = 4096;

/// Measured with HTML and JSON of 16 KiB: level 2 takes half of the time of level 6, and the rows are 1/20 larger.
const DEFAULT: Compression = Compression::Zlib(2);

/// How [`MySqlStoreBuilder::compression`](crate::store::MySqlStoreBuilder::compression) compresses bodies in the table. Clients
/// always get uncompressed bodies. Default: `Zlib(2)`.
///
/// The setting is for rows that are written from now on. A store reads rows of every kind that it knows, so processes with
/// different settings can share a table. A process without the feature `zstd` treats a row with zstd as a miss, and
/// replaces it.
///
/// ```
/// # use tower_mysql_cache::MySqlStore;
/// use tower_mysql_cache::store::Compression;
///
/// // faster, and larger rows
/// let store = MySqlStore::builder("mysql://app@localhost/shop")?.compression(Compression::Zlib(1));
/// # Ok::<(), tower_mysql_cache::StoreError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// All bodies are stored unchanged.
    Off,
    /// zlib, with a level from 1 (fast) to 9 (small).
    Zlib(u32),
    /// zstd, with a level from 1 (fast) to 9 (small). Level 3 makes rows about as small as `Zlib(6)` does, in less time.
    #[cfg(feature = "zstd")]
    Zstd(u32),
}

impl Compression {
    /// Whether the level exists.
    pub(in super::super) fn is_valid(self) -> bool {
        match self {
            Self::Off => true,
            Self::Zlib(level) => (1..=9).contains(&level),
            #[cfg(feature = "zstd")]
            Self::Zstd(level) => (1..=9).contains(&level),
        }
    }

    /// What a store compresses if [`compress_when`](crate::store::MySqlStoreBuilder::compress_when) is not set: bodies of 4 KiB
    /// or more without a `Content-Encoding`, if their `Content-Type` is text or another uncompressed format (JSON, XML, JavaScript,
    /// SVG, wasm, TrueType). Pictures, videos, archives and unknown types are stored unchanged.
    ///
    /// ```
    /// use http::{HeaderMap, HeaderValue};
    /// use tower_mysql_cache::store::Compression;
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
    /// assert!(Compression::is_worthwhile(&headers, 16 << 10));
    /// assert!(!Compression::is_worthwhile(&headers, 100));
    /// headers.insert("content-type", HeaderValue::from_static("image/png"));
    /// assert!(!Compression::is_worthwhile(&headers, 16 << 10));
    /// ```
    #[must_use]
    pub fn is_worthwhile(headers: &HeaderMap, bytes: usize) -> bool {
        let essence = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let essence = essence.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
        bytes >= MIN_BYTES && !is_encoded(headers) && is_text(&essence.to_ascii_lowercase())
    }
}

/// Says which bodies are compressed, from their header fields and their length in bytes.
type When = Arc<dyn Fn(&HeaderMap, usize) -> bool + Send + Sync>;

/// When and how to compress.
#[derive(Clone)]
pub(in super::super) struct Compressing {
    pub(in super::super) compression: Compression,
    pub(in super::super) when: When,
}

impl fmt::Debug for Compressing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.compression.fmt(f)
    }
}

impl Default for Compressing {
    fn default() -> Self {
        Self { compression: DEFAULT, when: Arc::new(Compression::is_worthwhile) }
    }
}

impl Compressing {
    /// How the body of this response is compressed.
    pub(super) fn of(&self, response: &StoredResponse) -> Compression {
        let (headers, bytes) = (&response.head.headers, response.body.len());
        let is_wanted = self.compression != Compression::Off
            && !is_encoded(headers)
            && (self.when)(headers, bytes);
        if is_wanted { self.compression } else { Compression::Off }
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(CONTENT_ENCODING);
    codings.iter().any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

fn is_text(essence: &[u8]) -> bool {
    const APPLICATION: [&[u8]; 14] = [
        b"javascript",
        b"x-javascript",
        b"ecmascript",
        b"json",
        b"x-ndjson",
        b"xml",
        b"wasm",
        b"x-www-form-urlencoded",
        b"graphql",
        b"manifest+json",
        b"yaml",
        b"x-yaml",
        b"rtf",
        b"vnd.ms-fontobject",
    ];
    if essence.starts_with(b"text/") || essence.ends_with(b"+json") || essence.ends_with(b"+xml") {
        return true;
    }
    let application = essence.strip_prefix(b"application/");
    application.is_some_and(|subtype| APPLICATION.contains(&subtype))
        || [&b"image/bmp"[..], b"font/ttf", b"font/otf"].contains(&essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_compressible(headers: &HeaderMap) -> bool {
        Compression::is_worthwhile(headers, MIN_BYTES)
    }

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (name.parse::<http::HeaderName>().unwrap(), HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn only_text_that_is_not_encoded_is_compressed() {
        for kind in [
            "text/html; charset=utf-8",
            "Application/JSON",
            "application/problem+json",
            "image/svg+xml",
            "application/wasm",
            "application/x-www-form-urlencoded",
        ] {
            assert!(is_compressible(&fields(&[("content-type", kind)])), "{kind}");
        }
        for kind in ["image/png", "application/zip", "video/mp4", "application/octet-stream"] {
            assert!(!is_compressible(&fields(&[("content-type", kind)])), "{kind}");
        }
        let html = ("content-type", "text/html");
        assert!(is_compressible(&fields(&[html, ("content-encoding", "Identity")])));
        assert!(!is_compressible(&fields(&[html, ("content-encoding", "gzip")])));
        assert!(!is_compressible(&fields(&[html, ("content-encoding", "identity, br")])));
        assert!(!is_compressible(&HeaderMap::new()));
    }
}
