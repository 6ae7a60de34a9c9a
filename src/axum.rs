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
        self.add_to(response.extensions_mut());
        Ok(response)
    }
}

/// The URI that the client sent, where the request's own URI is what `nest` leaves of that: the scheme, the
/// authority and the query are the same, and the path is the end of the client's path, or `/` where `nest`
/// took all of it. Any other URI was set by the application, for example to ask an upstream server.
pub(crate) fn original_uri(request: &Parts) -> Option<&Uri> {
    let OriginalUri(original) = request.extensions.get::<OriginalUri>()?;
    let own = &request.uri;
    let nested = own.scheme() == original.scheme()
        && own.authority() == original.authority()
        && own.query() == original.query()
        && (own.path() == "/" || original.path().ends_with(own.path()));
    nested.then_some(original)
}
