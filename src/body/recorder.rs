//! Copies the data of a body while it streams, and passes the copy to a [`Sink`] when the body is complete.

use bytes::Bytes;

use super::budget::{OVERHEAD, Share};
use crate::reason::Reason;

/// A body in one frame of this size or more is not copied. A smaller frame may be a slice of a much larger buffer,
/// for example a connection's read buffer, and would keep this buffer in memory.
const WORTH_SHARING: usize = 64 << 10;

/// The minimum capacity of a copy, in bytes.
const GROWTH: usize = 4 << 10;

/// Receives a recorded body.
pub(crate) trait Sink: Send {
    /// The body is complete.
    fn complete(self: Box<Self>, body: Bytes) -> Completed;
    /// `false` if the recording can stop, because the response will not be stored.
    fn is_wanted(&self) -> bool {
        true
    }
    /// The body will never be complete.
    fn abandon(self: Box<Self>, why: Abandoned);
}

/// What the sink did with a complete body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completed {
    Accepted,
    Refused,
    /// The body is stored after a guard has seen the final head.
    Held,
}

/// Why a recording was abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// Dropped before its end, for example because the client disconnected.
    Dropped,
    /// The body failed.
    Failed,
    /// Larger than the limit.
    TooLarge,
    /// The body has trailers, which cannot be stored.
    Trailers,
    /// Shorter or longer than its `Content-Length`.
    WrongLength,
    /// The sink no longer needs the body.
    CalledOff,
    /// All recordings together would hold more than `recording_bytes`.
    OverBudget,
}

impl Abandoned {
    /// Why the response is not stored.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Dropped => Reason::Aborted,
            Self::Failed => Reason::BodyError,
            Self::TooLarge => Reason::TooLarge,
            Self::Trailers => Reason::Trailers,
            Self::WrongLength => Reason::Incomplete,
            Self::CalledOff => Reason::CalledOff,
            Self::OverBudget => Reason::RecordingBudget,
        }
    }
}

pub(crate) struct Recorder {
    /// `None` once the outcome is known.
    sink: Option<Box<dyn Sink>>,
    /// The only frame so far, if it is large enough not to be copied.
    whole: Option<Bytes>,
    copy: Vec<u8>,
    length: usize,
    limit: usize,
    declared: Option<u64>,
    completed: Option<Completed>,
    abandoned: Option<Abandoned>,
    share: Share,
}

impl Recorder {
    /// `limit` in bytes; `declared` is the response's Content-Length, if it has one.
    pub(crate) fn new(
        sink: Box<dyn Sink>,
        limit: usize,
        declared: Option<u64>,
        share: Share,
    ) -> Self {
        let mut recorder = Self {
            sink: Some(sink),
            whole: None,
            copy: Vec::new(),
            length: 0,
            limit,
            declared,
            completed: None,
            abandoned: None,
            share,
        };
        if declared.is_some_and(|declared| declared > limit as u64) {
            recorder.abandon(Abandoned::TooLarge);
        } else if !recorder.share.hold(OVERHEAD) {
            recorder.abandon(Abandoned::OverBudget);
        }
        recorder
    }

    pub(crate) fn push(&mut self, data: &Bytes) {
        let Some(sink) = &self.sink else { return };
        if !sink.is_wanted() {
            return self.abandon(Abandoned::CalledOff);
        }
        if data.is_empty() {
            return;
        }
        self.length = self.length.saturating_add(data.len());
        let length = self.length as u64;
        let declared = self.declared;
        match declared {
            _ if self.length > self.limit => self.abandon(Abandoned::TooLarge),
            Some(declared) if length > declared => self.abandon(Abandoned::WrongLength),
            declared if self.keep(data) => {
                if declared == Some(length) {
                    self.end();
                }
            }
            _ => self.abandon(Abandoned::OverBudget),
        }
    }

    /// Adds data to the recording. `false` if the budget or the memory is exhausted.
    fn keep(&mut self, data: &Bytes) -> bool {
        match self.whole.take() {
            None if self.copy.is_empty() && data.len() >= WORTH_SHARING => {
                self.whole = Some(data.clone());
                self.share.hold(OVERHEAD + data.len())
            }
            None => self.copy(data),
            Some(first) => self.copy(&first) && self.copy(data),
        }
    }

    fn copy(&mut self, data: &Bytes) -> bool {
        let length = self.copy.len() + data.len();
        if length > self.copy.capacity() {
            // never more than the whole body can need
            let most = self.declared.and_then(|declared| usize::try_from(declared).ok());
            let most = most.unwrap_or(self.limit);
            let capacity = (2 * self.copy.capacity()).max(GROWTH).min(most).max(length);
            if !self.share.hold(OVERHEAD + capacity)
                || self.copy.try_reserve_exact(capacity - self.copy.len()).is_err()
            {
                return false;
            }
        }
        self.copy.extend_from_slice(data);
        true
    }

    /// To be called when the body has ended. Calls after the first do nothing.
    pub(crate) fn end(&mut self) {
        // a body without its declared length is incomplete (RFC 9111 3.3)
        if self.declared.is_some_and(|declared| declared != self.length as u64) {
            return self.abandon(Abandoned::WrongLength);
        }
        let Some(sink) = self.sink.take() else { return };
        let body = self.recorded();
        self.completed = Some(sink.complete(body));
        self.share.hold(0);
    }

    /// Ends the recording without a body. Calls after the first do nothing.
    pub(crate) fn abandon(&mut self, why: Abandoned) {
        (self.whole, self.copy) = (None, Vec::new());
        self.share.hold(0);
        if let Some(sink) = self.sink.take() {
            self.abandoned = Some(why);
            sink.abandon(why);
        }
    }

    /// `true` while the body is neither complete nor abandoned.
    pub(crate) fn is_open(&self) -> bool {
        self.sink.is_some()
    }

    pub(crate) fn abandoned(&self) -> Option<Abandoned> {
        self.abandoned
    }

    pub(crate) fn completed(&self) -> Option<Completed> {
        self.completed
    }

    fn recorded(&mut self) -> Bytes {
        self.whole.take().unwrap_or_else(|| {
            let mut copy = std::mem::take(&mut self.copy);
            copy.shrink_to_fit();
            Bytes::from(copy)
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.abandon(Abandoned::Dropped);
    }
}
