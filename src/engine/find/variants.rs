//! Which variant of a target does a request select (RFC 9111 4.1)?

use http::{HeaderMap, HeaderName};

use crate::key::{CacheKey, variant_key};
use crate::rfc9111;
use crate::stored::VariantIndex;

pub(in crate::engine) fn variant_of(
    base: &CacheKey,
    index: &VariantIndex,
    request: &HeaderMap,
) -> CacheKey {
    variant_key(base, &selected(&index.names, request))
}

/// A hash of the request's selecting fields.
pub(in crate::engine) fn selected(names: &[HeaderName], request: &HeaderMap) -> [u8; 16] {
    rfc9111::secondary_key(&rfc9111::select(names, request))
}
