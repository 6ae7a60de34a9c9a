//! The layer's own fields on a response.

use http::header::{AGE, CONTENT_LENGTH};
use http::{HeaderValue, Response, StatusCode};

use super::Route;
use crate::body::CacheBody;
use crate::key::CacheKey;
use crate::overrides::CacheOverride;
use crate::rfc9111::{age_field, remaining_secs};
use crate::status::{CACHE_STATUS, CacheStatus, StatusField};
use crate::stored::StoredResponse;

/// What is left to do with the response of a request that was not cached.
#[derive(Debug)]
pub(crate) struct Finish {
    pub(crate) field: Option<HeaderValue>,
    pub(crate) status: CacheStatus,
}

impl Finish {
    pub(crate) fn new(route: &Route, status: CacheStatus) -> Self {
        let field = field(route, &status, None);
        Self { field, status }
    }

    /// A response that nothing is stored of.
    pub(crate) fn apply<RB>(self, response: Response<RB>) -> Response<CacheBody<RB>> {
        self.wrap(response.map(CacheBody::passthrough))
    }

    pub(super) fn wrap<RB>(self, mut response: Response<CacheBody<RB>>) -> Response<CacheBody<RB>> {
        response.extensions_mut().remove::<CacheOverride>();
        if let Some(value) = self.field {
            response.headers_mut().append(CACHE_STATUS, value);
        }
        response.extensions_mut().insert(self.status);
        response
    }
}

/// This cache's member of the `Cache-Status` list, if the route shows one.
pub(super) fn field(
    route: &Route,
    status: &CacheStatus,
    key: Option<&CacheKey>,
) -> Option<HeaderValue> {
    match route.status_field {
        StatusField::Off => None,
        StatusField::On => status.field(route.name(), None, false),
        StatusField::Debug => status.field(route.name(), key.map(CacheKey::as_bytes), true),
    }
}

/// A stored response on its way out again.
pub(super) fn serve<RB>(
    route: &Route,
    key: &CacheKey,
    stored: StoredResponse,
    head_only: bool,
    now_ms: u64,
) -> Response<CacheBody<RB>> {
    let StoredResponse { head, body } = stored;
    let mut headers = head.headers.clone();
    // RFC 9110 8.6: no Content-Length beside 204
    if head.status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    if route.age_field {
        headers.insert(AGE, age_field(&head, now_ms)); // RFC 9111 5.1
    }
    let status = CacheStatus::hit(remaining_secs(&head, now_ms));
    if let Some(value) = field(route, &status, Some(key)) {
        headers.append(CACHE_STATUS, value);
    }
    // RFC 9110 9.3.2: the fields of a GET without its body
    let body = if head_only { Default::default() } else { body };
    let mut response = Response::new(CacheBody::stored(body));
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    response.extensions_mut().insert(status);
    response
}
