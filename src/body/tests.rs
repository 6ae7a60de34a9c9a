use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use http::HeaderMap;

use super::*;

/// A body that does the steps of a script.
struct Script {
    steps: VecDeque<Step>,
    /// `is_end_stream` is true after the last step, as with hyper's bodies.
    knows_its_end: bool,
}

enum Step {
    Data(&'static str),
    Wait,
    Trailers,
    Fail,
}
use Step::{Data, Fail, Trailers, Wait};

impl Body for Script {
    type Data = VecDeque<u8>; // not `Bytes`
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.steps.pop_front() {
            None => Poll::Ready(None),
            Some(Wait) => Poll::Pending,
            Some(Data(data)) => Poll::Ready(Some(Ok(Frame::data(data.bytes().collect())))),
            Some(Trailers) => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
            Some(Fail) => Poll::Ready(Some(Err("cut"))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.steps.is_empty()
    }
}

type Outcome = Arc<Mutex<Option<Result<Bytes, Abandoned>>>>;

struct Keep(Outcome);

impl Sink for Keep {
    fn complete(self: Box<Self>, body: Bytes) -> Completed {
        assert!(self.0.lock().unwrap().replace(Ok(body)).is_none());
        Completed::Accepted
    }
    fn abandon(self: Box<Self>, why: Abandoned) {
        assert!(self.0.lock().unwrap().replace(Err(why)).is_none());
    }
}

fn recorder(outcome: &Outcome, limit: usize, declared: Option<u64>) -> Recorder {
    let share = Budget::default().share(usize::MAX);
    Recorder::new(Box::new(Keep(outcome.clone())), limit, declared, share)
}

struct Run {
    seen: Result<String, &'static str>,
    outcome: Option<Result<Bytes, Abandoned>>,
    stored_at_once: bool,
    ended: bool,
}

fn run(steps: Vec<Step>, knows_its_end: bool, declared: Option<u64>, polls: usize) -> Run {
    let outcome = Outcome::default();
    let recorder = recorder(&outcome, 10, declared);
    let mut cx = Context::from_waker(Waker::noop());
    let script = Script { steps: steps.into(), knows_its_end };
    let (mut body, recorded) = CacheBody::recording(script, recorder, &mut cx);
    let stored_at_once = recorded == Recorded::Complete(Completed::Accepted);
    let mut seen = Ok(String::new());
    for _ in 0..polls {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Ok(data), Ok(seen)) = (frame.into_data(), &mut seen) {
                    seen.push_str(std::str::from_utf8(&data).unwrap());
                }
            }
            Poll::Ready(Some(Err(error))) => seen = Err(error),
            Poll::Ready(None) | Poll::Pending => {}
        }
    }
    let ended = body.is_end_stream();
    drop(body);
    let outcome = outcome.lock().unwrap().take();
    Run { seen, outcome, stored_at_once, ended }
}

#[test]
fn a_complete_body_is_stored_before_the_head_is_sent() {
    let run = run(vec![Data("hello")], true, None, 2);
    assert!(run.stored_at_once && run.ended);
    assert_eq!(run.seen.unwrap(), "hello");
    assert_eq!(run.outcome.unwrap().unwrap(), "hello");
}

#[test]
fn an_empty_body_is_complete_at_once() {
    for steps in [vec![], vec![Data("")]] {
        let run = run(steps, true, None, 2);
        assert!(run.stored_at_once);
        assert_eq!(run.outcome.unwrap().unwrap(), "");
    }
}

#[test]
fn a_streamed_body_reaches_the_store_whole() {
    let run = run(vec![Data("he"), Wait, Data("llo"), Wait], false, None, 9);
    assert!(!run.stored_at_once);
    assert_eq!(run.seen.unwrap(), "hello");
    assert_eq!(run.outcome.unwrap().unwrap(), "hello");
}

#[test]
fn a_body_of_the_declared_length_is_complete_without_a_poll() {
    let run = run(vec![Wait, Data("he"), Data("llo"), Wait], false, Some(5), 2);
    assert_eq!(run.outcome.unwrap().unwrap(), "hello");
}

#[test]
fn a_dropped_body_is_not_stored() {
    let run = run(vec![Data("he"), Data("llo")], false, None, 1);
    assert_eq!(run.outcome.unwrap().unwrap_err(), Abandoned::Dropped);
}

#[test]
fn a_failed_body_is_not_stored_and_the_client_gets_its_error() {
    for steps in [vec![Fail], vec![Data("he"), Fail], vec![Wait, Data("he"), Wait, Fail]] {
        let run = run(steps, false, None, 6);
        assert_eq!(run.seen.unwrap_err(), "cut");
        assert_eq!(run.outcome.unwrap().unwrap_err(), Abandoned::Failed);
    }
}

#[test]
fn a_body_over_the_limit_reaches_the_client_whole() {
    let run = run(vec![Data("0123456789"), Data("x"), Data("y")], false, None, 5);
    assert_eq!(run.seen.unwrap(), "0123456789xy");
    assert_eq!(run.outcome.unwrap().unwrap_err(), Abandoned::TooLarge);
}

#[test]
fn a_declared_length_over_the_limit_is_not_recorded() {
    let run = run(vec![Wait], false, Some(11), 0);
    assert_eq!(run.outcome.unwrap().unwrap_err(), Abandoned::TooLarge);
}

#[test]
fn a_body_without_its_declared_length_is_not_stored() {
    for (steps, declared) in [(vec![Data("hell")], 5), (vec![Data("hello")], 4), (vec![], 1)] {
        let run = run(steps, true, Some(declared), 3);
        assert_eq!(run.outcome.unwrap().unwrap_err(), Abandoned::WrongLength, "{declared}");
    }
}

#[test]
fn a_body_with_trailers_is_passed_on_and_not_stored() {
    let run = run(vec![Data("he"), Trailers], true, None, 4);
    assert_eq!(run.seen.unwrap(), "he");
    assert_eq!(run.outcome.unwrap().unwrap_err(), Abandoned::Trailers);
}

#[test]
fn size_hints_include_the_frame_that_was_read_ahead() {
    let mut cx = Context::from_waker(Waker::noop());
    let recorder = recorder(&Outcome::default(), 10, None);
    let full = http_body_util::Full::new(Bytes::from_static(b"hello"));
    let (body, _) = CacheBody::recording(full, recorder, &mut cx);
    assert_eq!(body.size_hint().exact(), Some(5));
    assert!(!body.is_end_stream());
    let stored = CacheBody::<Script>::stored(Bytes::from_static(b"abc"));
    assert_eq!(stored.size_hint().exact(), Some(3));
    assert!(CacheBody::<Script>::stored(Bytes::new()).is_end_stream());
}

/// The bytes that a client gets of a part, whether the recording continues after it, and the outcome of the
/// recording.
fn part(steps: Vec<Step>, part: Range<u64>) -> (Result<String, &'static str>, bool, Outcome) {
    let (outcome, rest) = (Outcome::default(), Arc::new(Mutex::new(None)));
    let recorder = recorder(&outcome, 10, Some(10));
    let mut cx = Context::from_waker(Waker::noop());
    let script = Script { steps: steps.into(), knows_its_end: true };
    let (body, _) = CacheBody::recording(script, recorder, &mut cx);
    let slot = Arc::clone(&rest);
    let mut body = body.part(part, move |future| *slot.lock().unwrap() = Some(future));
    let mut seen = String::new();
    for _ in 0..20 {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => {
                seen.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
            }
            Poll::Ready(Some(Err(error))) => return (Err(error), false, outcome),
            Poll::Ready(None) => break,
            Poll::Pending => {}
        }
    }
    let rest = rest.lock().unwrap().take();
    let goes_on = rest.is_some();
    if let Some(mut rest) = rest {
        for _ in 0..20 {
            if rest.as_mut().poll(&mut cx).is_ready() {
                break;
            }
        }
    }
    (Ok(seen), goes_on, outcome)
}

#[test]
fn any_part_is_sent_while_the_whole_body_is_recorded() {
    let whole = "0123456789";
    for (start, end) in (0..10).flat_map(|start| (start + 1..=10).map(move |end| (start, end))) {
        for width in 1..=10 {
            let frames = (0..10).step_by(width).map(|at| &whole[at..(at + width).min(10)]);
            let steps = frames.flat_map(|frame| [Wait, Data(frame)]).collect();
            let (seen, goes_on, outcome) = part(steps, start as u64..end as u64);
            assert_eq!(seen.unwrap(), whole[start..end], "{start}..{end} of {width}");
            assert!(goes_on);
            assert_eq!(outcome.lock().unwrap().take().unwrap().unwrap(), whole);
        }
    }
}

#[test]
fn a_part_of_a_failed_body_fails_and_is_not_recorded() {
    let (seen, goes_on, outcome) = part(vec![Wait, Data("0123"), Fail], 2..8);
    assert_eq!((seen.unwrap_err(), goes_on), ("cut", false));
    assert_eq!(outcome.lock().unwrap().take().unwrap().unwrap_err(), Abandoned::Failed);
    let (seen, goes_on, outcome) = part(vec![Wait, Data("0123")], 2..8);
    assert_eq!((seen.unwrap().as_str(), goes_on), ("23", false));
    assert_eq!(outcome.lock().unwrap().take().unwrap().unwrap_err(), Abandoned::WrongLength);
}

#[test]
fn recordings_share_one_budget_and_give_it_back() {
    let budget = Budget::default();
    let new = |declared| {
        let outcome = Outcome::default();
        let share = budget.share(3 * budget::OVERHEAD + 20_000);
        let recorder = Recorder::new(Box::new(Keep(outcome.clone())), 100_000, declared, share);
        (recorder, outcome)
    };
    let (mut one, first) = new(Some(10_000));
    one.push(&Bytes::from(vec![1; 4_000]));
    let (mut two, second) = new(None);
    two.push(&Bytes::from(vec![2; 9_000]));
    let (mut three, third) = new(None);
    assert!(budget.used() >= 3 * budget::OVERHEAD + 13_000, "{}", budget.used());
    three.push(&Bytes::from(vec![3; 8_000]));
    assert_eq!(third.lock().unwrap().take().unwrap().unwrap_err(), Abandoned::OverBudget);
    // the other recordings can use the bytes that it gave back
    one.push(&Bytes::from(vec![1; 6_000]));
    assert_eq!(first.lock().unwrap().take().unwrap().unwrap(), vec![1; 10_000]);
    two.end();
    assert_eq!(second.lock().unwrap().take().unwrap().unwrap(), vec![2; 9_000]);
    assert_eq!(budget.used(), 0);
    let (four, _) = new(None);
    drop(four);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_recording_does_not_start_without_budget() {
    let outcome = Outcome::default();
    let share = Budget::default().share(budget::OVERHEAD - 1);
    let recorder = Recorder::new(Box::new(Keep(outcome.clone())), 10, None, share);
    assert!(!recorder.is_open());
    assert_eq!(outcome.lock().unwrap().take().unwrap().unwrap_err(), Abandoned::OverBudget);
}

#[test]
fn a_small_frame_does_not_keep_its_large_buffer() {
    let buffer = Bytes::from(vec![7; 200_000]);
    for (length, declared, shared) in
        [(100, Some(100), false), (100, None, false), (150_000, Some(150_000), true)]
    {
        let outcome = Outcome::default();
        let mut recorder = recorder(&outcome, 200_000, declared);
        recorder.push(&buffer.slice(..length));
        recorder.end();
        let body = outcome.lock().unwrap().take().unwrap().unwrap();
        assert_eq!(body, buffer.slice(..length));
        assert_eq!(body.as_ptr() == buffer.as_ptr(), shared, "{length}");
    }
}

#[test]
fn many_tiny_frames_cost_only_their_bytes() {
    const LENGTH: usize = 100_000;
    let (budget, outcome) = (Budget::default(), Outcome::default());
    let share = budget.share(usize::MAX);
    let mut recorder = Recorder::new(Box::new(Keep(outcome.clone())), 1 << 20, None, share);
    for _ in 0..LENGTH {
        recorder.push(&Bytes::from_static(b"x"));
    }
    assert!(budget.used() <= 2 * LENGTH + budget::OVERHEAD, "{}", budget.used());
    recorder.end();
    let body = outcome.lock().unwrap().take().unwrap().unwrap();
    assert_eq!(body.len(), LENGTH);
    // no unused capacity is kept
    assert_eq!(body.try_into_mut().unwrap().capacity(), LENGTH);
}
