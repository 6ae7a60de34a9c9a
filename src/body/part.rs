//! Passes on one part of a body while the whole body is recorded.

use std::ops::Range;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame};

use super::{Bytes, Recording};

/// Takes over the body after the part, to record the remaining bytes.
type Rest<B> = Box<dyn FnOnce(Recording<B>) + Send>;

pub(super) struct Part<B> {
    /// `None` after the part, or after an error.
    whole: Option<(Recording<B>, Rest<B>)>,
    /// Remaining bytes before the part.
    skip: u64,
    /// Remaining bytes of the part.
    left: u64,
}

impl<B> Part<B> {
    pub(super) fn new(recording: Recording<B>, part: Range<u64>, rest: Rest<B>) -> Self {
        let left = part.end.saturating_sub(part.start);
        Self { whole: Some((recording, rest)), skip: part.start, left }
    }

    /// Bytes of the part that the client has not received yet.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// If the body ends before the part, the part ends early too. Then it is shorter than its `Content-Length`, so
    /// the client notices.
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
            // `skip` is less than the length of the data here, so the conversion cannot fail
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
