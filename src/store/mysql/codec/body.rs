//! What is in the `value` column? The body, and then nine bytes that show whether it is complete.
//!
//! | bytes | meaning |
//! |---|---|
//! | any | the body, unchanged (format 1), as a zlib stream (format 2) or as zstd frames (format 3) |
//! | u32 | length of the uncompressed body, in bytes |
//! | u8 | format |
//! | u32 | CRC-32 over the cache key and all bytes before |
//!
//! The nine bytes are at the end, so that SQL can read a plain body: `LEFT(value, LENGTH(value) - 9)`. They are not
//! in the head, so that a head can be replaced without reading or moving the body.

use bytes::Bytes;
use flate2::{FlushCompress, FlushDecompress, Status};

use super::compression::Compression;
use super::pool::{with_compressor, with_decompressor};
use super::value::Value;
use super::wire::{CRC_BYTES, Reader, crc32};
#[cfg(feature = "zstd")]
use super::zstd;

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
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Format {
    const fn byte(self) -> u8 {
        match self {
            Self::Plain => 1,
            Self::Zlib => 2,
            #[cfg(feature = "zstd")]
            Self::Zstd => 3,
        }
    }
}

/// The value column of a body. It is compressed if that saves enough.
pub(super) fn encode(
    key: &[u8],
    body: &Bytes,
    compression: Compression,
) -> Option<(Format, Value)> {
    let raw_len = u32::try_from(body.len()).ok()?;
    let (format, body) = match compress(body, compression) {
        Some((format, compressed)) => (format, Bytes::from(compressed)),
        None => (Format::Plain, body.clone()),
    };
    let mut trailer = [0; TRAILER_BYTES];
    let (fields, seal) = trailer.split_at_mut(TRAILER_BYTES - CRC_BYTES);
    let (length, mark) = fields.split_at_mut(4);
    length.copy_from_slice(&raw_len.to_le_bytes());
    mark.fill(format.byte());
    seal.copy_from_slice(&crc32(&[key, &body, fields]).to_le_bytes());
    Some((format, Value { body, trailer: Some(trailer) }))
}

/// Whether decoding this column is too slow for an async thread.
pub(super) fn is_slow(format: Format, column: &Bytes) -> bool {
    format != Format::Plain && raw_len(column).is_some_and(|len| len >= BLOCKING_BYTES)
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
        Format::Zlib => inflate(&column, raw_len).map(Bytes::from),
        #[cfg(feature = "zstd")]
        Format::Zstd => zstd::decompress(&column, raw_len).map(Bytes::from),
    }
}

/// `body` compressed, if that makes it smaller by at least a tenth.
fn compress(body: &[u8], compression: Compression) -> Option<(Format, Vec<u8>)> {
    let worth = body.len().checked_sub(body.len().div_ceil(10))?;
    match compression {
        Compression::Off => None,
        Compression::Zlib(level) => deflate(body, level, worth).map(|zlib| (Format::Zlib, zlib)),
        #[cfg(feature = "zstd")]
        Compression::Zstd(level) => {
            zstd::compress(body, level, worth).map(|frame| (Format::Zstd, frame))
        }
    }
}

/// A zlib stream of `body`, if it has at most `worth` bytes.
fn deflate(body: &[u8], level: u32, worth: usize) -> Option<Vec<u8>> {
    // the buffer ends where compression does not save enough
    let mut out = Vec::with_capacity(worth);
    let status = with_compressor(level, |zlib| {
        zlib.compress_vec(body, &mut out, FlushCompress::Finish).ok()
    })?;
    (status == Status::StreamEnd && out.len() <= worth).then_some(out)
}

/// Decompresses exactly `raw_len` bytes. `None` if the stream has more, fewer, or bytes after its end.
fn inflate(zlib: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    if raw_len > zlib.len().saturating_mul(ZLIB_MAX_RATIO) {
        return None;
    }
    let mut out = Vec::new();
    // one byte more than announced, to notice a stream that has more
    out.try_reserve_exact(raw_len.checked_add(1)?).ok()?;
    let (status, read) = with_decompressor(|inflate| {
        let status = inflate.decompress_vec(zlib, &mut out, FlushDecompress::Finish).ok()?;
        Some((status, inflate.total_in()))
    })?;
    let whole = status == Status::StreamEnd
        && out.len() == raw_len
        && usize::try_from(read) == Ok(zlib.len());
    whole.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;
    use proptest::prelude::*;

    const OFF: Compression = Compression::Off;
    const ZLIB: Compression = Compression::Zlib(6);
    const KEY: &[u8] = b"p:1:/";

    fn text(len: usize) -> Vec<u8> {
        b"<li>one of many lines, not quite the same 0</li>\n"
            .iter()
            .cycle()
            .take(len)
            .copied()
            .collect()
    }

    fn ways() -> Vec<Compression> {
        let mut ways: Vec<_> = (1..=9).map(Compression::Zlib).collect();
        ways.push(Compression::Off);
        #[cfg(feature = "zstd")]
        ways.extend((1..=9).map(Compression::Zstd));
        ways
    }

    /// Each compressor is used again after one that failed.
    #[test]
    fn a_compressor_is_reused_without_traces() {
        use rand::{RngExt, SeedableRng};
        let mut noise = vec![0_u8; 100_000];
        rand::rngs::StdRng::seed_from_u64(2).fill(&mut noise[..]);
        let (noise, body) = (Bytes::from(noise), Bytes::from(text(3_000)));
        for compression in ways() {
            let (format, first) = encode(KEY, &body, compression).unwrap();
            assert_eq!(encode(KEY, &noise, compression).unwrap().0, Format::Plain);
            assert_eq!(decode(KEY, first.to_bytes().slice(..20), format), None);
            let (_, again) = encode(KEY, &body, compression).unwrap();
            assert_eq!(first.to_bytes(), again.to_bytes());
            assert_eq!(decode(KEY, again.to_bytes(), format).unwrap(), body);
        }
    }

    #[test]
    fn a_plain_body_stands_first_in_the_column() {
        let (format, column) = encode(KEY, &Bytes::from_static(b"hello"), OFF).unwrap();
        assert_eq!(format, Format::Plain);
        let column = column.to_bytes();
        assert_eq!(&column[..column.len() - TRAILER_BYTES], b"hello");
    }

    #[test]
    fn text_shrinks_and_comes_back() {
        let body = Bytes::from(text(100_000));
        let (format, column) = encode(KEY, &body, ZLIB).unwrap();
        assert_eq!(format, Format::Zlib);
        assert!(column.len() < 5_000, "{}", column.len());
        assert_eq!(decode(KEY, column.to_bytes(), format).unwrap(), body);
        #[cfg(feature = "zstd")]
        {
            let (format, column) = encode(KEY, &body, Compression::Zstd(3)).unwrap();
            assert_eq!(format, Format::Zstd);
            assert!(column.len() < 5_000, "{}", column.len());
            assert_eq!(decode(KEY, column.to_bytes(), format).unwrap(), body);
        }
    }

    #[test]
    fn bodies_that_shrink_too_little_are_not_compressed() {
        use rand::{RngExt, SeedableRng};
        let mut noise = vec![0_u8; 10_000];
        rand::rngs::StdRng::seed_from_u64(1).fill(&mut noise[..]);
        for body in [Bytes::from(noise), Bytes::new(), Bytes::from_static(b"x")] {
            for compression in ways() {
                assert_eq!(encode(KEY, &body, compression).unwrap().0, Format::Plain);
            }
        }
    }

    #[test]
    fn a_decompression_bomb_is_unreadable() {
        let mut zlib = deflate(&vec![0; 1_000_000], 9, 1_000_000).unwrap();
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
        #[cfg(feature = "zstd")]
        {
            let body = text(5_000);
            let frame = zstd::compress(&body, 3, body.len()).unwrap();
            let longer = [&frame[..], &[0]].concat();
            assert_eq!(zstd::decompress(&frame, 5_000), Some(body));
            assert_eq!(zstd::decompress(&frame, 4_999), None);
            assert_eq!(zstd::decompress(&frame, 5_001), None);
            assert_eq!(zstd::decompress(&longer, 5_000), None);
            assert_eq!(zstd::decompress(&frame, usize::MAX >> 1), None);
        }
        let body = text(5_000);
        for wrong in [4_999_u32, 5_001] {
            let mut zlib = deflate(&body, 6, body.len()).unwrap();
            zlib.put_u32_le(wrong);
            zlib.put_u8(Format::Zlib.byte());
            let crc = crc32(&[KEY, &zlib]);
            zlib.put_u32_le(crc);
            assert_eq!(decode(KEY, zlib.into(), Format::Zlib), None, "{wrong}");
        }
    }

    #[test]
    fn another_keys_body_is_unreadable() {
        let (format, column) = encode(KEY, &Bytes::from_static(b"mine"), OFF).unwrap();
        assert_eq!(decode(b"p:1:/other", column.to_bytes(), format), None);
    }

    proptest! {
        #[test]
        fn any_body_comes_back(body: Vec<u8>, times in 1_usize..9) {
            let body = Bytes::from(body.repeat(times));
            for compression in ways() {
                let (format, column) = encode(KEY, &body, compression).unwrap();
                prop_assert_eq!(decode(KEY, column.to_bytes(), format).unwrap(), body.clone());
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(column: Vec<u8>) {
            let column = Bytes::from(column);
            prop_assert_eq!(decode(KEY, column.clone(), Format::Plain), None);
            #[cfg(feature = "zstd")]
            prop_assert_eq!(decode(KEY, column.clone(), Format::Zstd), None);
            prop_assert_eq!(decode(KEY, column, Format::Zlib), None);
        }
    }
}
