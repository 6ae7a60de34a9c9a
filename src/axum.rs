//! What only axum has.

use axum::extract::{NestedPath, OriginalUri};
use axum::response::{IntoResponseParts, ResponseParts};
use http::request::Parts;

use crate::key::TargetUri;
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

/// The target URI of a request. Inside `nest`, that is the URI that the client sent: the request's own one is what
/// `nest` leaves of it. A URI that was set by the application, for example to ask an upstream server, stays as it is.
/// Where the request's own path is another end of the client's path, either may have happened.
pub(crate) fn target_uri(request: &Parts) -> TargetUri<'_> {
    let own = &request.uri;
    let Some(OriginalUri(original)) = request.extensions.get::<OriginalUri>() else {
        return TargetUri::Known(own);
    };
    let may_be_rest = own.scheme() == original.scheme()
        && own.authority() == original.authority()
        && own.query() == original.query()
        && (own.path() == "/" || original.path().ends_with(own.path()));
    if !may_be_rest || own.path() == original.path() {
        return TargetUri::Known(own);
    }
    let nested = request.extensions.get::<NestedPath>();
    if nested.and_then(|nested| rest_of(original.path(), nested.as_str())) == Some(own.path()) {
        return TargetUri::Known(original);
    }
    TargetUri::Either(original, own)
}

/// What `nest` leaves of a path: as many segments are cut off as the nested path has.
fn rest_of<'a>(path: &'a str, nested: &str) -> Option<&'a str> {
    let segments = nested.split('/').filter(|segment| !segment.is_empty()).count();
    let mut rest = path;
    for _ in 0..segments {
        let segment = rest.strip_prefix('/')?;
        rest = &segment[segment.find('/').unwrap_or(segment.len())..];
    }
    Some(if rest.is_empty() { "/" } else { rest })
}
