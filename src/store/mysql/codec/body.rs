//! What is in the `value` column? The body, and then nine bytes that show whether it is complete.
//!
//! | bytes | meaning |
//! |---|---|
//! | any | the body, unchanged (format 1) or as a zlib stream (format 2) |
//! | u32 | length of the uncompressed body, in bytes |
//! | u8 | format |
//! | u32 | CRC-32 over the cache key and all bytes before |
//!
//! The nine bytes are at the end, so that SQL can read a plain body: `LEFT(value, LENGTH(value) - 9)`. They are not
//! in the head, so that a head can be replaced without reading or moving the body.

use bytes::{BufMut, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use super::wire::{CRC_BYTES, Reader, crc32};

/// Bytes after the body.
pub(super) const TRAILER_BYTES: usize = 4 + 1 + CRC_BYTES;

/// Bodies of this size or more are compressed and decompressed outside the async threads: zlib takes about a
/// millisecond for 64 KiB.
pub(super) const BLOCKING_BYTES: usize = 64 * 1024;

/// The largest ratio of a zlib stream (1032:1). A row that claims more is damaged.
const ZLIB_MAX_RATIO: usize = 1032;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Zlib,
}

impl Format {
    const fn byte(self) -> u8 {
        match self {
            Self::Plain => 1,
            Self::Zlib => 2,
        }
    }
}

/// The value column of a body. It is compressed at `level`, if there is a level and if that saves enough.
pub(super) fn encode(key: &[u8], body: &[u8], level: Option<u32>) -> Option<(Format, Vec<u8>)> {
    let raw_len = u32::try_from(body.len()).ok()?;
    let zlib = level.and_then(|level| compress(body, level));
    let (format, mut out) = match zlib {
        Some(zlib) => (Format::Zlib, zlib),
        None => {
            let mut out = Vec::with_capacity(body.len() + TRAILER_BYTES);
            out.extend_from_slice(body);
            (Format::Plain, out)
        }
    };
    out.put_u32_le(raw_len);
    out.put_u8(format.byte());
    let crc = crc32(&[key, &out]);
    out.put_u32_le(crc);
    Some((format, out))
}

/// Whether decoding this column is too slow for an async thread.
pub(super) fn is_slow(format: Format, column: &Bytes) -> bool {
    format == Format::Zlib && raw_len(column).is_some_and(|len| len >= BLOCKING_BYTES)
}

/// The length of the uncompressed body, as the column says.
pub(super) fn raw_len(column: &Bytes) -> Option<usize> {
    let at = column.len().checked_sub(TRAILER_BYTES)?;
    usize::try_from(Reader(column.slice(at..)).u32()?).ok()
}

/// Decodes a value column. `None` if it is damaged, or not in this format.
pub(super) fn decode(key: &[u8], mut column: Bytes, format: Format) -> Option<Bytes> {
    let stored_len = column.len().checked_sub(TRAILER_BYTES)?;
    let crc_at = column.len().checked_sub(CRC_BYTES)?;
    let crc = Reader(column.split_off(crc_at)).u32()?;
    if crc32(&[key, &column]) != crc {
        return None;
    }
    let mut trailer = Reader(column.split_off(stored_len));
    let raw_len = usize::try_from(trailer.u32()?).ok()?;
    if trailer.u8()? != format.byte() {
        return None;
    }
    match format {
        Format::Plain => (column.len() == raw_len).then_some(column),
        Format::Zlib => decompress(&column, raw_len),
    }
}

/// A zlib stream of `body`, if it is smaller by at least a tenth.
fn compress(body: &[u8], level: u32) -> Option<Vec<u8>> {
    let worth = body.len().checked_sub(body.len().div_ceil(10))?;
    // the buffer ends where compression does not save enough
    let mut out = Vec::with_capacity(worth + TRAILER_BYTES);
    let mut zlib = Compress::new(Compression::new(level), true);
    let status = zlib.compress_vec(body, &mut out, FlushCompress::Finish).ok()?;
    (status == Status::StreamEnd && out.len() <= worth).then_some(out)
}

/// Decompresses exactly `raw_len` bytes. `None` if the stream has more, fewer, or bytes after its end.
fn decompress(zlib: &[u8], raw_len: usize) -> Option<Bytes> {
    if raw_len > zlib.len().saturating_mul(ZLIB_MAX_RATIO) {
        return None;
    }
    let mut out = Vec::new();
    // one byte more than announced, to notice a stream that has more
    out.try_reserve_exact(raw_len.checked_add(1)?).ok()?;
    let mut inflate = Decompress::new(true);
    let status = inflate.decompress_vec(zlib, &mut out, FlushDecompress::Finish).ok()?;
    let whole = status == Status::StreamEnd
        && out.len() == raw_len
        && usize::try_from(inflate.total_in()) == Ok(zlib.len());
    whole.then(|| Bytes::from(out))
}

/// Whether a body with these fields is uncompressed text.
pub(super) fn is_compressible(headers: &HeaderMap) -> bool {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"));
    let essence = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = essence.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    !encoded && is_text(&essence.to_ascii_lowercase())
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
    use proptest::prelude::*;

    const KEY: &[u8] = b"p:1:/";

    fn text(len: usize) -> Vec<u8> {
        b"<li>one of many lines, not quite the same 0</li>\n"
            .iter()
            .cycle()
            .take(len)
            .copied()
            .collect()
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
    fn a_plain_body_stands_first_in_the_column() {
        let (format, column) = encode(KEY, b"hello", None).unwrap();
        assert_eq!(format, Format::Plain);
        assert_eq!(&column[..column.len() - TRAILER_BYTES], b"hello");
    }

    #[test]
    fn text_shrinks_and_comes_back() {
        let body = text(100_000);
        let (format, column) = encode(KEY, &body, Some(6)).unwrap();
        assert_eq!(format, Format::Zlib);
        assert!(column.len() < 5_000, "{}", column.len());
        assert_eq!(decode(KEY, column.into(), format).unwrap(), body);
    }

    #[test]
    fn bodies_that_shrink_too_little_are_not_compressed() {
        use rand::{RngExt, SeedableRng};
        let mut noise = vec![0_u8; 10_000];
        rand::rngs::StdRng::seed_from_u64(1).fill(&mut noise[..]);
        assert_eq!(encode(KEY, &noise, Some(9)).unwrap().0, Format::Plain);
        assert_eq!(encode(KEY, b"", Some(9)).unwrap().0, Format::Plain);
        assert_eq!(encode(KEY, b"x", Some(9)).unwrap().0, Format::Plain);
    }

    #[test]
    fn a_decompression_bomb_is_unreadable() {
        let mut zlib = compress(&vec![0; 1_000_000], 9).unwrap();
        zlib.put_u32_le(1_000); // claims less than it holds
        zlib.put_u8(Format::Zlib.byte());
        let crc = crc32(&[KEY, &zlib]);
        zlib.put_u32_le(crc);
        assert_eq!(decode(KEY, zlib.into(), Format::Zlib), None);

        let mut empty = vec![1, 2, 3];
        empty.put_u32_le(u32::MAX); // claims more than zlib can hold
        empty.put_u8(Format::Zlib.byte());
        let crc = crc32(&[KEY, &empty]);
        empty.put_u32_le(crc);
        assert_eq!(decode(KEY, empty.into(), Format::Zlib), None);
    }

    #[test]
    fn a_stream_of_another_length_is_unreadable() {
        let body = text(5_000);
        for wrong in [4_999_u32, 5_001] {
            let mut zlib = compress(&body, 6).unwrap();
            zlib.put_u32_le(wrong);
            zlib.put_u8(Format::Zlib.byte());
            let crc = crc32(&[KEY, &zlib]);
            zlib.put_u32_le(crc);
            assert_eq!(decode(KEY, zlib.into(), Format::Zlib), None, "{wrong}");
        }
    }

    #[test]
    fn another_keys_body_is_unreadable() {
        let (format, column) = encode(KEY, b"mine", None).unwrap();
        assert_eq!(decode(b"p:1:/other", column.into(), format), None);
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

    proptest! {
        #[test]
        fn any_body_comes_back(body: Vec<u8>, level in 0_u32..=9) {
            let level = (level > 0).then_some(level);
            let (format, column) = encode(KEY, &body, level).unwrap();
            prop_assert_eq!(decode(KEY, column.into(), format).unwrap(), body);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(column: Vec<u8>) {
            let column = Bytes::from(column);
            prop_assert_eq!(decode(KEY, column.clone(), Format::Plain), None);
            prop_assert_eq!(decode(KEY, column, Format::Zlib), None);
        }
    }
}
