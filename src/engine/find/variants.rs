//! Which variant of a target a request selects (RFC 9111 4.1).

use http::{HeaderMap, HeaderName};

use crate::key::{CacheKey, variant_key};
use crate::rfc9111;
use crate::stored::VariantIndex;

/// The key of the variant that a request selects.
pub(in crate::engine) fn variant_of(
    base: &CacheKey,
    index: &VariantIndex,
    request: &HeaderMap,
) -> CacheKey {
    variant_key(base, &selected(&index.names, request))
}

/// The hash that tells a request's variant from others.
pub(in crate::engine) fn selected(names: &[HeaderName], request: &HeaderMap) -> [u8; 16] {
    rfc9111::secondary_key(&rfc9111::select(names, request))
}
