//! Responses that have been read to the end.

use std::fmt::Debug;

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use tower_mysql_cache::CacheStatus;

/// A response whose body has been read to the end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    cache: Option<CacheStatus>,
}

impl Answer {
    pub(crate) async fn of<B>(response: Response<B>) -> Self
    where
        B: http_body::Body,
        B::Error: Debug,
    {
        let (parts, body) = response.into_parts();
        let cache = parts.extensions.get().cloned();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Self { status: parts.status, headers: parts.headers, body, cache }
    }

    /// What the cache says of the response, inside the process.
    #[track_caller]
    pub(crate) fn cache(&self) -> &CacheStatus {
        self.cache.as_ref().expect("a CacheStatus")
    }

    /// Whether the response was stored. Over a socket, only the field says so.
    pub(crate) fn is_hit(&self) -> bool {
        match &self.cache {
            Some(cache) => cache.is_hit(),
            None => self.field("cache-status").contains("; hit"),
        }
    }

    /// Why the handler was called, or a stale response served.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        self.cache.as_ref()?.reason().map(|reason| reason.as_str())
    }

    /// The lines of the field, joined.
    pub(crate) fn field(&self, name: &str) -> String {
        let lines = self.headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("?"));
        lines.collect::<Vec<_>>().join(" | ")
    }

    pub(crate) fn cookies(&self) -> usize {
        self.headers.get_all(SET_COOKIE).iter().count()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}
