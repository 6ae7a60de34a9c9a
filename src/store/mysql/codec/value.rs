//! How does a value column get into a statement? In two parts, so that a body that is stored unchanged is not copied.

use bytes::{BufMut, Bytes};
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySql, MySqlTypeInfo};
use sqlx::types::Type;

use super::body::TRAILER_BYTES;

/// A value column: the body, which is shared with others that use it, and what follows it.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Value {
    pub(super) body: Bytes,
    pub(super) trailer: Option<[u8; TRAILER_BYTES]>,
}

impl Value {
    pub(in super::super) fn len(&self) -> usize {
        self.body.len() + self.trailer().len()
    }

    fn trailer(&self) -> &[u8] {
        self.trailer.as_ref().map_or(&[], |trailer| &trailer[..])
    }

    #[cfg(test)]
    pub(in super::super) fn of(body: &[u8]) -> Self {
        Self { body: Bytes::copy_from_slice(body), trailer: None }
    }

    /// The column in one piece.
    #[cfg(any(test, fuzzing))]
    pub(super) fn to_bytes(&self) -> Bytes {
        [&self.body[..], self.trailer()].concat().into()
    }
}

impl Type<MySql> for Value {
    fn type_info() -> MySqlTypeInfo {
        <[u8] as Type<MySql>>::type_info()
    }
}

impl Encode<'_, MySql> for Value {
    fn encode_by_ref(&self, out: &mut Vec<u8>) -> Result<IsNull, BoxDynError> {
        put_length(out, self.len());
        out.reserve(self.len());
        out.extend_from_slice(&self.body);
        out.extend_from_slice(self.trailer());
        Ok(IsNull::No)
    }
}

/// A length in the protocol of the server: one byte, or a mark and two, three or eight bytes.
fn put_length(out: &mut Vec<u8>, length: usize) {
    let bytes = (length as u64).to_le_bytes();
    let (mark, used) = match length {
        0..=250 => (None, 1),
        251..=0xffff => (Some(0xfc), 2),
        0x1_0000..=0xff_ffff => (Some(0xfd), 3),
        _ => (Some(0xfe), 8),
    };
    mark.into_iter().for_each(|mark| out.put_u8(mark));
    out.extend(bytes.into_iter().take(used));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_encoded_as_one_slice_is() {
        let trailer = Some([7; TRAILER_BYTES]);
        for length in [0, 1, 241, 242, 250, 0xffff - 9, 0xffff, 0xff_ffff - 9, 0xff_ffff] {
            let value = Value { body: vec![1; length].into(), trailer };
            let (mut parts, mut whole) = (Vec::new(), Vec::new());
            let _ = value.encode_by_ref(&mut parts).unwrap();
            let _ = Encode::<MySql>::encode_by_ref(&&value.to_bytes()[..], &mut whole).unwrap();
            assert!(parts == whole, "{length}");
        }
    }
}
