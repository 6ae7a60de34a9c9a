//! What only axum has.

use axum::extract::OriginalUri;
use axum::response::{IntoResponseParts, ResponseParts};
use http::Uri;
use http::request::Parts;

use crate::overrides::CacheOverride;

impl IntoResponseParts for CacheOverride {
    type Error = std::convert::Infallible;

    fn into_response_parts(
        self,
        mut response: ResponseParts,
    ) -> Result<ResponseParts, Self::Error> {
        response.extensions_mut().insert(self);
        Ok(response)
    }
}

/// The URI as it was before a `nest` took its prefix off.
pub(crate) fn original_uri(request: &Parts) -> Option<&Uri> {
    request.extensions.get::<OriginalUri>().map(|OriginalUri(uri)| uri)
}
