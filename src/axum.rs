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
/// `nest` leaves of it. A URI of another server was set by the application, to ask that server, and stays as it is.
///
/// If the application has changed the rest inside `nest`, for example its query or a slash at its end, what is left
/// may be the same for two nests. The same holds for a path that is another end of the client's path: middleware may
/// have cut it.
pub(crate) fn target_uri(request: &Parts) -> TargetUri<'_> {
    let own = &request.uri;
    let Some(OriginalUri(original)) = request.extensions.get::<OriginalUri>() else {
        return TargetUri::Known(own);
    };
    // over HTTP/2 the client's URI has an authority, and a new path alone has none
    let is_other_server = own.authority().is_some() && own.authority() != original.authority();
    if is_other_server || own.path() == original.path() {
        return TargetUri::Known(own);
    }
    if let Some(nested) = request.extensions.get::<NestedPath>() {
        let is_rest = rest_of(original.path(), nested.as_str()) == Some(own.path())
            && own.query() == original.query()
            && own.authority() == original.authority()
            && own.scheme() == original.scheme();
        return match is_rest {
            true => TargetUri::Known(original),
            false => TargetUri::Either(original, own),
        };
    }
    match own.path() == "/" || original.path().ends_with(own.path()) {
        true => TargetUri::Either(original, own),
        false => TargetUri::Known(own),
    }
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
