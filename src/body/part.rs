//! One part of a body, while the whole is recorded.

use std::ops::Range;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame};

use super::{Bytes, Recording};

/// Goes on with a body of which the client has all that it wants.
type Rest<B> = Box<dyn FnOnce(Recording<B>) + Send>;

/// Passes one part of a body on.
pub(super) struct Part<B> {
    /// The body, and what becomes of it after the part.
    whole: Option<(Recording<B>, Rest<B>)>,
    /// Bytes before the part, and in it.
    skip: u64,
    left: u64,
}

impl<B> Part<B> {
    pub(super) fn new(recording: Recording<B>, part: Range<u64>, rest: Rest<B>) -> Self {
        let left = part.end.saturating_sub(part.start);
        Self { whole: Some((recording, rest)), skip: part.start, left }
    }

    /// Bytes that the client has not seen yet.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// A body that ends before the part does ends it early: it is shorter than its Content-Length then.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>>
    where
        B: Body + 'static,
    {
        while let Some((recording, _)) = &mut self.whole {
            let frame = match ready!(recording.poll(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.whole = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.whole = None;
                    break;
                }
            };
            let Ok(mut data) = frame.into_data() else { continue };
            let length = data.len() as u64;
            if length <= self.skip {
                self.skip -= length;
                continue;
            }
            // both are less than the length of the data
            let _ = data.split_to(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip = 0;
            data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= data.len() as u64;
            if self.left == 0
                && let Some((recording, rest)) = self.whole.take()
            {
                rest(recording);
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(None)
    }
}
