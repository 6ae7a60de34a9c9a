//! Keeps handles on a body's data as it passes, and hands them over when the body is complete.

use bytes::{Bytes, BytesMut};

/// Where a recorded body goes.
pub(crate) trait Sink: Send {
    /// The body is complete.
    fn complete(self: Box<Self>, body: Bytes) -> Completed;
    /// Whether the rest of the body is still of use.
    fn is_wanted(&self) -> bool {
        true
    }
    /// The body will never be complete.
    fn abandon(self: Box<Self>, why: Abandoned);
}

/// What became of a complete body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completed {
    Accepted,
    Refused,
    /// It waits for a guard outside.
    Held,
}

/// Why a recording came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// Dropped before its end: the client left.
    Dropped,
    /// The body failed.
    Failed,
    /// Larger than the limit.
    TooLarge,
    /// Trailers follow, which a stored response would lose.
    Trailers,
    /// Shorter or longer than its Content-Length.
    WrongLength,
    /// Not wanted any more.
    CalledOff,
}

impl Abandoned {
    /// The name of the reason.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "aborted",
            Self::Failed => "body-error",
            Self::TooLarge => "too-large",
            Self::Trailers => "trailers",
            Self::WrongLength => "incomplete",
            Self::CalledOff => "called-off",
        }
    }
}

pub(crate) struct Recorder {
    /// `None` once the outcome is known.
    sink: Option<Box<dyn Sink>>,
    chunks: Vec<Bytes>,
    length: usize,
    limit: usize,
    declared: Option<u64>,
    completed: Option<Completed>,
    abandoned: Option<Abandoned>,
}

impl Recorder {
    /// `limit` in bytes; `declared` is the response's Content-Length, if it has one.
    pub(crate) fn new(sink: Box<dyn Sink>, limit: usize, declared: Option<u64>) -> Self {
        let mut recorder = Self {
            sink: Some(sink),
            chunks: Vec::new(),
            length: 0,
            limit,
            declared,
            completed: None,
            abandoned: None,
        };
        if declared.is_some_and(|declared| declared > limit as u64) {
            recorder.abandon(Abandoned::TooLarge);
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
        match self.declared {
            _ if self.length > self.limit => self.abandon(Abandoned::TooLarge),
            Some(declared) if length > declared => self.abandon(Abandoned::WrongLength),
            declared => {
                self.chunks.push(data.clone());
                if declared == Some(length) {
                    self.end();
                }
            }
        }
    }

    /// The body has ended. Calls after the first do nothing.
    pub(crate) fn end(&mut self) {
        // RFC 9111 3.3: a body that is not as long as declared is incomplete
        if self.declared.is_some_and(|declared| declared != self.length as u64) {
            return self.abandon(Abandoned::WrongLength);
        }
        let Some(sink) = self.sink.take() else { return };
        let body = self.joined();
        self.completed = Some(sink.complete(body));
    }

    /// The body will not be complete. Calls after the first do nothing.
    pub(crate) fn abandon(&mut self, why: Abandoned) {
        self.chunks = Vec::new();
        if let Some(sink) = self.sink.take() {
            self.abandoned = Some(why);
            sink.abandon(why);
        }
    }

    /// Whether the outcome is not known yet.
    pub(crate) fn is_open(&self) -> bool {
        self.sink.is_some()
    }

    /// Why the recording has come to nothing already.
    pub(crate) fn abandoned(&self) -> Option<Abandoned> {
        self.abandoned
    }

    /// What became of it, once it was complete.
    pub(crate) fn completed(&self) -> Option<Completed> {
        self.completed
    }

    /// One chunk is handed over as it is; several are copied together once.
    fn joined(&mut self) -> Bytes {
        let mut chunks = std::mem::take(&mut self.chunks);
        if chunks.len() <= 1 {
            return chunks.pop().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(self.length);
        for chunk in chunks {
            joined.extend_from_slice(&chunk);
        }
        joined.freeze()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.abandon(Abandoned::Dropped);
    }
}
