//! Requests and responses in one line.

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tower::{Service, ServiceExt};

use super::Answer;

/// `GET uri` with these fields.
pub(crate) fn get(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
    request("GET", uri, fields)
}

pub(crate) fn request<B: Default>(method: &str, uri: &str, fields: &[(&str, &str)]) -> Request<B> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a field value");
        request = request.header(*name, value);
    }
    request.body(B::default()).expect("a request")
}

/// A response with these fields.
pub(crate) fn response(status: u16, fields: &[(&str, &str)], body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(Full::from(body.to_owned())).expect("a response")
}

/// Sends one request through a clone of a service, and reads the response.
pub(crate) async fn send<S, A, B>(service: &S, request: Request<A>) -> Answer
where
    S: Service<Request<A>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    Answer::of(service.clone().oneshot(request).await.expect("an answer")).await
}
