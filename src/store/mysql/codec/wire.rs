//! How are numbers and bytes encoded? Lengths as LEB128, integers little-endian, and a CRC-32 at the end.

use bytes::{Buf, BufMut, Bytes};
use crc32fast::Hasher;

/// Length of a checksum in bytes.
pub(super) const CRC_BYTES: usize = 4;

/// CRC-32 over several pieces, as if they were one.
pub(super) fn crc32(pieces: &[&[u8]]) -> u32 {
    let mut crc = Hasher::new();
    for piece in pieces {
        crc.update(piece);
    }
    crc.finalize()
}

/// Appends a length or count, seven bits in a byte, the lowest first.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    let mut rest = len;
    while rest >= 0x80 {
        out.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Appends bytes, after their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Reads fields from the front. Every method returns `None` if the input is too short. A length in the input never
/// causes a larger allocation than the input itself.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16_le().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32_le().ok()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }

    /// A length of at most four bytes of LEB128 in its shortest form: 28 bits, because a head has less than 16 MiB.
    pub(super) fn len(&mut self) -> Option<usize> {
        let mut len = 0_usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            len |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return (byte != 0 || shift == 0).then_some(len);
            }
        }
        None
    }

    /// A count of items of at least `min_bytes` each, if the input is long enough for them.
    pub(super) fn count(&mut self, min_bytes: usize) -> Option<usize> {
        let count = self.len()?;
        (count.checked_mul(min_bytes)? <= self.0.len()).then_some(count)
    }

    /// Bytes after their length, without a copy.
    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        let len = self.len()?;
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    /// 16 bytes.
    pub(super) fn hash(&mut self) -> Option<[u8; 16]> {
        let mut hash = [0; 16];
        self.0.try_copy_to_slice(&mut hash).ok()?;
        Some(hash)
    }

    /// Fails if bytes are left over.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_back_and_have_one_form() {
        for len in [0, 1, 127, 128, 300, 16_383, 16_384, (1 << 28) - 1] {
            let mut out = Vec::new();
            put_len(&mut out, len);
            let mut reader = Reader(out.into());
            assert_eq!(reader.len(), Some(len));
            assert_eq!(reader.end(), Some(()));
        }
        assert_eq!(Reader(Bytes::from_static(&[0x80, 0x00])).len(), None, "a longer form of 0");
        assert_eq!(Reader(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x01])).len(), None);
    }

    #[test]
    fn a_length_beyond_the_input_is_refused() {
        assert_eq!(Reader(Bytes::from_static(&[5, 1, 2])).bytes(), None);
        assert_eq!(Reader(Bytes::from_static(&[2, 1, 2, 3])).count(2), None);
        assert_eq!(Reader(Bytes::from_static(&[1, 1, 2, 3])).count(2), Some(1));
    }

    #[test]
    fn the_checksum_is_the_common_crc_32() {
        // SELECT CRC32('123456789')
        assert_eq!(crc32(&[b"1234", b"", b"56789"]), 0xcbf4_3926);
    }
}
