//! The layer's response body: from the store, passed through, or recorded while it streams to the client.

mod budget;
mod part;
mod recorder;

use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

pub(crate) use budget::Budget;
use part::Part;
pub(crate) use recorder::{Abandoned, Completed, Recorder, Sink};

use crate::reason::Reason;

/// The body of a response of a [`CacheService`](crate::service::CacheService). `B` is the body type of the inner service.
///
/// It yields the same bytes as the inner service's body, and never delays them.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_mysql_cache::service::CacheBody;
/// use tower_mysql_cache::{CacheLayer, MemoryStore};
///
/// let inner = service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from("hello")))
/// });
/// let service = CacheLayer::new(MemoryStore::new()).layer(inner);
/// let response: Response<CacheBody<_>> = service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
/// # });
/// ```
#[pin_project]
pub struct CacheBody<B> {
    #[pin]
    kind: Kind<B>,
}

#[pin_project(project = KindProjection)]
enum Kind<B> {
    Stored(Option<Bytes>),
    Passthrough(#[pin] B),
    Recording(Recording<B>),
    Part(Part<B>),
}

/// An inner body and its recorder. The body is boxed because it is polled once before the response is returned, and
/// the response is moved after that.
struct Recording<B> {
    body: Pin<Box<B>>,
    first: First,
    recorder: Recorder,
}

/// The result of the first poll, which the client has not received yet.
enum First {
    Nothing,
    Frame(Frame<Bytes>),
    End,
    /// The body's own error.
    Error(Option<Box<dyn Any + Send>>),
}

/// The state of a recording when the head is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    Complete(Completed),
    Abandoned(Abandoned),
    /// The handler is still producing the body.
    Streaming,
}

impl Recorded {
    /// Why the response is not stored yet. `None` if it is stored.
    pub(crate) fn reason(self) -> Option<Reason> {
        match self {
            Self::Complete(Completed::Accepted) => None,
            Self::Complete(Completed::Refused) => Some(Reason::Refused),
            Self::Complete(Completed::Held) => Some(Reason::Guarded),
            Self::Abandoned(why) => Some(why.reason()),
            Self::Streaming => Some(Reason::Streamed),
        }
    }
}

impl<B> CacheBody<B> {
    /// A complete body.
    pub(crate) fn stored(body: Bytes) -> Self {
        Self { kind: Kind::Stored(Some(body).filter(|body| !body.is_empty())) }
    }

    /// A body that is not recorded.
    pub(crate) fn passthrough(body: B) -> Self {
        Self { kind: Kind::Passthrough(body) }
    }
}

impl<B> CacheBody<B>
where
    B: Body<Error: Send> + 'static,
{
    /// A body that is recorded while the client reads it, and the state of the recording.
    ///
    /// Polls the body once without waiting. Most bodies are complete by then, so they are stored before the head is
    /// sent.
    pub(crate) fn recording(body: B, recorder: Recorder, cx: &mut Context<'_>) -> (Self, Recorded) {
        let mut recording = Recording { body: Box::pin(body), first: First::Nothing, recorder };
        if recording.body.is_end_stream() {
            recording.recorder.end();
            recording.first = First::End;
        } else if let Poll::Ready(first) = recording.body.as_mut().poll_frame(cx) {
            recording.first = match first {
                None => {
                    recording.recorder.end();
                    First::End
                }
                Some(Ok(frame)) => First::Frame(recording.record_frame(frame)),
                Some(Err(error)) => {
                    recording.recorder.abandon(Abandoned::Failed);
                    First::Error(Some(Box::new(error)))
                }
            };
        }
        let recorder = &recording.recorder;
        let recorded = match (recorder.abandoned(), recorder.completed()) {
            (Some(why), _) => Recorded::Abandoned(why),
            (None, Some(completed)) => Recorded::Complete(completed),
            (None, None) => Recorded::Streaming,
        };
        (Self { kind: Kind::Recording(recording) }, recorded)
    }
}

impl<B> CacheBody<B>
where
    B: Body<Error: Send> + Send + 'static,
{
    /// Reads the body only to record it. Drops the body as soon as it is not recorded, or no longer.
    pub(crate) async fn record(self) {
        if let Kind::Recording(recording) = self.kind {
            recording.record().await;
        }
    }

    /// Passes on only the bytes in `part` (a half-open range) while the whole body is recorded. After the part,
    /// `rest` gets a future that records the remaining bytes. A body that is not recorded is passed on whole.
    pub(crate) fn part(
        self,
        part: Range<u64>,
        rest: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + 'static,
    ) -> Self {
        match self.kind {
            Kind::Recording(recording) => {
                let rest = |recording: Recording<B>| rest(Box::pin(recording.record()));
                Self { kind: Kind::Part(Part::new(recording, part, Box::new(rest))) }
            }
            kind => Self { kind },
        }
    }
}

impl<B> Recording<B>
where
    B: Body<Error: Send> + Send + 'static,
{
    async fn record(mut self) {
        while self.recorder.is_open() {
            match poll_fn(|cx| self.poll(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}

impl<B: Body> Recording<B> {
    /// Records a frame and passes it on.
    fn record_frame(&mut self, frame: Frame<B::Data>) -> Frame<Bytes> {
        // for `Bytes` this copies no data
        let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
        match frame.data_ref() {
            Some(data) => {
                self.recorder.push(data);
                // hyper stops polling after the declared length, or when the body says that it has ended:
                // it never gets the `None` at the end
                if self.body.is_end_stream() {
                    self.recorder.end();
                }
            }
            // a stored response has no trailers (RFC 9111 3.1, RFC 9110 6.5)
            None => self.recorder.abandon(Abandoned::Trailers),
        }
        frame
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>>
    where
        B: 'static,
    {
        match std::mem::replace(&mut self.first, First::Nothing) {
            First::Nothing => {}
            First::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
            First::End => {
                self.first = First::End;
                return Poll::Ready(None);
            }
            First::Error(error) => {
                self.first = First::End;
                let error = error.and_then(|error| error.downcast::<B::Error>().ok());
                return Poll::Ready(error.map(|error| Err(*error)));
            }
        }
        Poll::Ready(match ready!(self.body.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(self.record_frame(frame))),
            Some(Err(error)) => {
                self.recorder.abandon(Abandoned::Failed);
                Some(Err(error))
            }
            None => {
                self.recorder.end();
                None
            }
        })
    }
}

impl<B> Body for CacheBody<B>
where
    B: Body + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Stored(body) => {
                Poll::Ready(body.take().map(|body| Ok(Frame::data(body))))
            }
            KindProjection::Passthrough(body) => {
                let frame = ready!(body.poll_frame(cx));
                let owned = |mut data: B::Data| data.copy_to_bytes(data.remaining());
                Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(owned))))
            }
            KindProjection::Recording(recording) => recording.poll(cx),
            KindProjection::Part(part) => part.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Stored(body) => body.is_none(),
            Kind::Passthrough(body) => body.is_end_stream(),
            Kind::Recording(Recording { body, first, .. }) => match first {
                First::Nothing => body.is_end_stream(),
                First::End => true,
                First::Frame(_) | First::Error(_) => false,
            },
            Kind::Part(part) => part.left() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Stored(body) => SizeHint::with_exact(body.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Passthrough(body) => body.size_hint(),
            Kind::Recording(Recording { body, first, .. }) => {
                let ahead = match first {
                    First::Frame(frame) => frame.data_ref().map_or(0, |data| data.len() as u64),
                    _ => 0,
                };
                let rest = body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(ahead));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(ahead));
                }
                hint
            }
            Kind::Part(part) => SizeHint::with_exact(part.left()),
        }
    }
}

impl<B> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Stored(_) => "CacheBody::Stored",
            Kind::Passthrough(_) => "CacheBody::Passthrough",
            Kind::Recording(_) => "CacheBody::Recording",
            Kind::Part(_) => "CacheBody::Part",
        })
    }
}

#[cfg(test)]
mod tests;
