//! How are bodies compressed with zstd?

use zstd::bulk::{Compressor, Decompressor};

use super::pool::Pool;

/// The largest ratio of a frame: 128 KiB from a block of four bytes. A row that claims more is damaged.
const MAX_RATIO: usize = 32 * 1024;

static COMPRESSORS: Pool<(u32, Compressor<'static>)> = Pool::new();
static DECOMPRESSORS: Pool<Decompressor<'static>> = Pool::new();

/// A frame of `body`, if it has at most `worth` bytes.
pub(super) fn compress(body: &[u8], level: u32, worth: usize) -> Option<Vec<u8>> {
    let mut compressor = match COMPRESSORS.take(|(of, _)| *of == level) {
        Some((_, kept)) => kept,
        None => Compressor::new(i32::try_from(level).ok()?).ok()?,
    };
    let mut out = Vec::with_capacity(worth);
    let done = compressor.compress_to_buffer(body, &mut out);
    COMPRESSORS.keep((level, compressor));
    (done.is_ok() && out.len() <= worth).then_some(out)
}

/// Decompresses exactly `raw_len` bytes. `None` if the frame has more, fewer, or bytes after its end.
pub(super) fn decompress(frame: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    if raw_len > frame.len().saturating_mul(MAX_RATIO) {
        return None;
    }
    let mut decompressor = match DECOMPRESSORS.take(|_| true) {
        Some(kept) => kept,
        None => Decompressor::new().ok()?,
    };
    let mut out = Vec::new();
    out.try_reserve_exact(raw_len).ok()?;
    let done = decompressor.decompress_to_buffer(frame, &mut out);
    DECOMPRESSORS.keep(decompressor);
    (done.is_ok() && out.len() == raw_len).then_some(out)
}
