//! Which compressors and decompressors are kept for the next body? A compressor takes about 300 KiB, and a process that
//! allocates one for each body spends more time on page faults than many a body takes to be compressed.

use std::sync::Mutex;

use flate2::{Compress, Compression, Decompress};

use crate::sync::lock;

/// The most that a process keeps of each kind. More of them work at the same time if there are more threads.
const MOST: usize = 8;

static COMPRESSORS: Pool<(u32, Compress)> = Pool::new();
static DECOMPRESSORS: Pool<Decompress> = Pool::new();

/// Values that are expensive to make.
pub(super) struct Pool<T>(Mutex<Vec<T>>);

impl<T> Pool<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Takes the value that was used last and is `fit`.
    pub(super) fn take(&self, fit: impl Fn(&T) -> bool) -> Option<T> {
        let mut kept = lock(&self.0);
        let at = kept.iter().rposition(fit)?;
        Some(kept.swap_remove(at))
    }

    /// Keeps a value, or drops it if there are enough.
    pub(super) fn keep(&self, value: T) {
        let mut kept = lock(&self.0);
        if kept.len() < MOST {
            kept.push(value);
        }
    }
}

/// Calls `compress` with a compressor in its first state.
pub(super) fn with_compressor<R>(level: u32, compress: impl FnOnce(&mut Compress) -> R) -> R {
    let kept = COMPRESSORS.take(|(of, _)| *of == level);
    let (_, mut zlib) =
        kept.unwrap_or_else(|| (level, Compress::new(Compression::new(level), true)));
    let result = compress(&mut zlib);
    zlib.reset();
    COMPRESSORS.keep((level, zlib));
    result
}

/// Calls `decompress` with a decompressor in its first state.
pub(super) fn with_decompressor<R>(decompress: impl FnOnce(&mut Decompress) -> R) -> R {
    let mut inflate = DECOMPRESSORS.take(|_| true).unwrap_or_else(|| Decompress::new(true));
    let result = decompress(&mut inflate);
    inflate.reset(true);
    DECOMPRESSORS.keep(inflate);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_keeps_a_limited_number_of_values() {
        let pool = Pool::new();
        for n in 0..2 * MOST {
            pool.keep(n);
        }
        assert_eq!(pool.take(|n| *n == 3), Some(3));
        assert_eq!(pool.take(|n| *n >= MOST), None);
        assert_eq!(std::iter::from_fn(|| pool.take(|_| true)).count(), MOST - 1);
    }
}
