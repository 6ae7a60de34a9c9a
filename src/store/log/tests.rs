mod model;

use std::time::{Duration, Instant};

use super::view::{MAX_AWAITED, Reading};
use super::*;
use crate::tag::{LogPosition, Scope, Tag, Validity};

fn tag(name: &str) -> Mark {
    Mark { scope: Scope::Tag(Tag::from(name)), soft: false }
}

fn soft(name: &str) -> Mark {
    Mark { soft: true, ..tag(name) }
}

fn at(largest: u64, gaps: &[u64]) -> LogPosition {
    LogPosition { largest, gaps: gaps.iter().map(|&id| (id, id)).collect() }
}

/// A position with gaps.
fn but(largest: u64, gaps: &[(u64, u64)]) -> LogPosition {
    LogPosition { largest, gaps: gaps.to_vec() }
}

/// Limits for the gaps of a read.
fn most(ranges: usize, ids: u64, between: u64) -> Reading {
    Reading { ranges, ids, between }
}

/// No limits.
const ALL: Reading = Reading { ranges: 1_000, ids: u64::MAX, between: 0 };

/// A time after everything in a test.
fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// What a view says about a response with the tag `t`.
fn of(view: &LogView, position: &LogPosition) -> Judgement {
    view.judge(b"p:1:/x http://h", &[Tag::from("t")], position)
}

/// Nothing known, and the log table must be queried.
fn older(below: u64) -> Judgement {
    Judgement::Older { known: Validity::Valid, below }
}

const VALID: Judgement = Judgement::Known(Validity::Valid);
const OUTDATED: Judgement = Judgement::Known(Validity::Outdated);
const INVALID: Judgement = Judgement::Known(Validity::Invalid);

#[test]
fn only_rows_after_its_position_concern_a_response() {
    let mut view = LogView::new(0);
    view.absorb([(1, tag("t")), (2, tag("u")), (3, soft("t"))], Instant::now());
    assert_eq!(of(&view, &at(0, &[])), INVALID);
    assert_eq!(of(&view, &at(1, &[])), OUTDATED);
    assert_eq!(of(&view, &at(3, &[])), VALID);
    assert_eq!(of(&view, &at(4, &[])), Judgement::Ahead);
}

#[test]
fn a_late_row_concerns_responses_that_have_not_seen_it() {
    let mut view = LogView::new(0);
    let now = Instant::now();
    view.absorb([(1, tag("u")), (4, tag("u"))], now);
    let before = view.position();
    assert_eq!(*before, but(4, &[(2, 3)]));
    view.absorb([(3, tag("t"))], now);
    assert_eq!(of(&view, &before), INVALID);
    assert_eq!(*view.position(), at(4, &[2]));
    assert_eq!(of(&view, &view.position()), VALID);
    view.absorb([(3, tag("t")), (4, tag("t"))], now);
    assert_eq!(of(&view, &view.position()), VALID, "seen before");
}

#[test]
fn gaps_end_when_their_transactions_were_rolled_back() {
    let mut view = LogView::new(10);
    let now = Instant::now();
    view.absorb([(20, tag("u")), (1_000_000, tag("u"))], now);
    assert_eq!(*view.position(), but(1_000_000, &[(11, 19), (21, 999_999)]));
    assert!(view.overdue(Duration::from_secs(10), now + Duration::from_secs(9)).is_empty());
    let overdue = view.overdue(Duration::from_secs(10), now + Duration::from_secs(10));
    assert_eq!(overdue, [(11, 19), (21, 999_999)]);
    view.close(21, 999_999, later());
    assert_eq!(view.gaps_to_read(ALL), [(11, 19)]);
    view.close(12, 13, later());
    view.absorb([(16, tag("u"))], now);
    assert_eq!(*view.position(), but(1_000_000, &[(11, 11), (14, 15), (17, 19)]));
    assert_eq!(view.settled(), 10);
    view.settle(18);
    assert_eq!((view.settled(), view.position().gaps.clone()), (18, vec![(19, 19)]));
    view.close(0, u64::MAX, later());
    assert_eq!(view.settled(), 1_000_000);
}

#[test]
fn the_window_has_fewer_rows_if_they_are_long() {
    let long = |id: u64| {
        let scope = Scope::Uri(format!("p:1:/{id}{}", "x".repeat(1_000)).into());
        (id, Mark { scope, soft: false })
    };
    let mut view = LogView::new(0);
    view.absorb((1..=20_000).map(long), Instant::now());
    assert!(matches!(of(&view, &at(1, &[])), Judgement::Older { below: 5_000..15_000, .. }));
    assert_eq!(of(&view, &at(15_000, &[])), VALID);
    // short rows replace them
    view.absorb((20_001..=80_000).map(|id| (id, tag("u"))), Instant::now());
    assert_eq!(of(&view, &at(20_001, &[])), VALID);
}

#[test]
fn responses_older_than_the_window_need_the_table() {
    let mut view = LogView::new(5).with_window(3);
    assert_eq!(of(&view, &at(4, &[])), older(6));
    assert_eq!(of(&view, &at(5, &[])), VALID);
    view.absorb((6..10).map(|id| (id, tag("u"))), Instant::now());
    assert_eq!(of(&view, &at(5, &[])), older(7));
    assert_eq!(of(&view, &at(6, &[])), VALID);
    assert_eq!(of(&view, &at(8, &[2])), older(7));
    assert_eq!(of(&view, &at(9, &[])), VALID);
    view.absorb([(10, soft("t"))], Instant::now());
    assert_eq!(of(&view, &at(5, &[])), Judgement::Older { known: Validity::Outdated, below: 8 });
    view.absorb([(11, tag("t"))], Instant::now());
    assert_eq!(of(&view, &at(5, &[])), INVALID, "whatever the log says of older rows");
}

#[test]
fn a_large_gap_is_left_out_of_reads() {
    let (mut view, now) = (LogView::new(10), Instant::now());
    view.absorb([(11, tag("u")), (500, tag("t")), (503, tag("u"))], now);
    assert_eq!(view.gaps_to_read(most(4, 1_000, 0)), [(12, 499), (501, 502)]);
    assert_eq!(of(&view, &at(11, &[])), INVALID);
    let position = view.position();
    assert_eq!(of(&view, &position), VALID);
    assert_eq!(view.gaps_to_read(most(4, 100, 0)), [(501, 502)]);
    assert_eq!(of(&view, &position), older(500));
    assert_eq!(of(&view, &at(11, &[])), INVALID, "known without asking");
    view.absorb([(501, soft("t"))], now);
    assert_eq!(of(&view, &position), Judgement::Older { known: Validity::Outdated, below: 500 });
    // a row in it that is found is queried too
    view.absorb([(20, tag("t"))], now);
    assert_eq!(of(&view, &view.position()), older(500));
    assert_eq!(*view.position(), but(503, &[(12, 19), (21, 499), (502, 502)]));
    view.close(0, 499, later());
    assert_eq!(of(&view, &view.position()), VALID);
    assert_eq!(view.gaps_to_read(ALL), [(502, 502)]);
}

#[test]
fn close_gaps_are_read_as_one_range() {
    let (view, now) = (LogView::new(0), Instant::now());
    let with = |ids: &[u64]| {
        let mut view = view.clone();
        view.absorb(ids.iter().map(|&id| (id, tag("u"))), now);
        view
    };
    let mut every_third = with(&(1..=100).map(|n| 3 * n).collect::<Vec<_>>());
    assert_eq!(every_third.gaps_to_read(most(4, 1_000, 100)), [(1, 299)]);
    assert_eq!(of(&every_third, &at(0, &[])), VALID);
    // a limit for rows that are read again
    assert_eq!(every_third.gaps_to_read(most(4, 1_000, 10)).len(), 4);
    assert_eq!(of(&every_third, &at(0, &[])), older(258));
    let far = (1..=10).flat_map(|n| 100 * n..100 * n + 99).collect::<Vec<_>>();
    let mut far = with(&far);
    let gaps: Vec<(u64, u64)> = (2..=10).map(|n| (100 * n - 1, 100 * n - 1)).collect();
    assert_eq!(far.gaps_to_read(most(20, 1_000, 0))[1..], gaps);
    assert_eq!(far.gaps_to_read(most(4, 1_000, 0)), gaps[5..]);
    assert_eq!(of(&far, &at(0, &[])), older(600));
}

#[test]
fn the_number_of_gaps_is_limited() {
    let (mut view, now) = (LogView::new(0), Instant::now());
    view.absorb((1..=40_000).map(|n| (2 * n, tag("u"))), now);
    let gaps = view.overdue(Duration::ZERO, now);
    assert!(gaps.len() < 17_000, "{}", gaps.len());
    assert_eq!((gaps[0].0, gaps.last()), (1, Some(&(79_999, 79_999))));
    assert_eq!(view.position().gaps[0].0, 1, "what was seen in it counts as unseen");
    view.absorb([(2, tag("t")), (3, tag("t"))], now);
    assert!(matches!(of(&view, &view.position()), Judgement::Older { .. }));
    view.close(0, 80_000, later());
    assert_eq!(of(&view, &view.position()), VALID);
}

#[test]
fn an_own_row_is_awaited_until_it_appears_or_is_gone() {
    let mut view = LogView::new(5);
    let (now, tags) = (Instant::now(), [Tag::from("t")]);
    let grace = Duration::from_secs(1);
    assert!(view.await_row(7, tag("t"), now));
    assert!(view.awaits(b"p:1:/", &tags) && !view.awaits(b"p:1:/", &[]));
    assert_eq!(view.overdue(grace, now + grace), [(7, 7)]);
    view.absorb([(7, tag("t"))], now);
    assert!(!view.awaits(b"p:1:/", &tags));
    assert!(!view.await_row(7, tag("t"), now), "seen already");
    assert!(!view.awaits(b"p:1:/", &tags));
    assert!(view.await_row(8, tag("t"), now));
    view.close(8, 8, later());
    assert!(!view.awaits(b"p:1:/", &tags));
}

#[test]
fn an_old_answer_does_not_end_the_wait_for_a_newer_row() {
    let (now, tags) = (Instant::now(), [Tag::from("t")]);
    let second = Duration::from_secs(1);
    let mut view = LogView::new(5);
    assert!(view.await_row(6, tag("u"), now));
    // this one was queried, and a crash has undone it; then another row gets its id
    assert!(view.await_row(6, tag("t"), now + 2 * second));
    view.close(6, 6, now + second);
    assert!(view.awaits(b"p:1:/", &tags));
    view.close(6, 6, now + 3 * second);
    assert!(!view.awaits(b"p:1:/", &tags));
    // the same, with too many rows
    for id in 6..=6 + MAX_AWAITED as u64 {
        assert!(view.await_row(id, tag("t"), now + 2 * second));
    }
    view.close(0, u64::MAX, now + second);
    assert!(view.awaits(b"p:1:/", &[Tag::from("other")]));
    view.close(0, u64::MAX, now + 3 * second);
    assert!(!view.awaits(b"p:1:/", &[Tag::from("other")]) && !view.awaits(b"p:1:/", &tags));
}

#[test]
fn own_rows_are_awaited_in_any_order() {
    let uri = |target: &str| Mark { scope: Scope::uri(target.to_owned()), soft: false };
    let any_query = [Scope::any_query()];
    for (first, second, tags) in [
        (tag("t"), tag("t"), &[Tag::from("t")][..]),
        (tag("t"), soft("t"), &[Tag::from("t")]),
        (uri("p:1:/x"), uri("p:1:/x"), &[]),
        (uri("p:1:/x?a"), uri("p:1:/x?b"), &any_query),
        (
            Mark { scope: Scope::Everything, soft: false },
            Mark { scope: Scope::Everything, soft: false },
            &[],
        ),
    ] {
        let now = Instant::now();
        for order in [[7, 9], [9, 7]] {
            let mut view = LogView::new(5);
            let key = b"p:1:/x http://h";
            assert!(view.await_row(7, first.clone(), now));
            assert!(view.await_row(9, second.clone(), now));
            let marks = |id| if id == 7 { first.clone() } else { second.clone() };
            view.absorb([(order[0], marks(order[0]))], now);
            assert!(view.awaits(key, tags), "{first:?}: {} is still to come", order[1]);
            view.absorb([(order[1], marks(order[1]))], now);
            assert!(!view.awaits(key, tags), "{first:?}");
        }
        // the same id twice: a crash of the server has undone the first row
        let mut view = LogView::new(5);
        assert!(view.await_row(7, tag("other"), now));
        assert!(view.await_row(7, first.clone(), now));
        assert!(view.await_row(8, tag("u"), now));
        assert!(view.awaits(b"p:1:/x http://h", tags));
        view.absorb([(7, first)], now);
        assert!(!view.awaits(b"p:1:/x http://h", &[Tag::from("other")]));
    }
}

#[test]
fn with_too_many_own_rows_everything_is_awaited() {
    const ROWS: u64 = 20_000;
    let mut view = LogView::new(5);
    let (now, grace) = (Instant::now(), Duration::from_secs(1));
    let other = [Tag::from("other")];
    for id in 7..7 + ROWS {
        assert!(view.await_row(id, tag("t"), now));
    }
    let last = 6 + ROWS;
    assert!(view.awaits(b"p:1:/", &other), "whatever it is");
    let overdue = view.overdue(grace, now + grace);
    assert_eq!((overdue.len(), overdue[0].0, overdue[1]), (2, 7, (6, last)));
    // the last has appeared, but one of another transaction below it has not
    let mut committed = view.clone();
    committed.absorb((8..=last).map(|id| (id, tag("t"))), now);
    assert!(committed.awaits(b"p:1:/", &other));
    committed.absorb([(6, tag("t")), (7, tag("t"))], now);
    assert!(!committed.awaits(b"p:1:/", &other) && !committed.awaits(b"p:1:/", &[Tag::from("t")]));
    // rolled back
    view.close(6, last - 1, later());
    assert!(view.awaits(b"p:1:/", &other));
    view.close(7, last, later());
    assert!(view.awaits(b"p:1:/", &other), "6 may come");
    let mut copy = LogView::new(5);
    copy.take_over(view.clone());
    assert!(copy.awaits(b"p:1:/", &other));
    view.close(6, last, later());
    assert!(!view.awaits(b"p:1:/", &other) && !view.awaits(b"p:1:/", &[Tag::from("t")]));
}

#[test]
fn rows_that_could_not_be_written_count_in_this_process() {
    let mut view = LogView::new(5);
    view.set_unwritten([tag("t")].into_iter());
    assert_eq!(of(&view, &at(5, &[])), INVALID);
    view.set_unwritten([soft("t")].into_iter());
    assert_eq!(of(&view, &at(5, &[])), OUTDATED);
    view.set_unwritten([].into_iter());
    assert_eq!(of(&view, &at(5, &[])), VALID);
    // rows that are being written end in any order
    view.begin_write(&[tag("t")]);
    view.begin_write(&[soft("t"), tag("u")]);
    assert_eq!(of(&view, &at(5, &[])), INVALID);
    view.end_write(&[tag("t")]);
    assert_ne!(of(&view, &at(5, &[])), VALID);
    let mut copy = LogView::new(5);
    copy.take_over(view.clone());
    assert_ne!(of(&copy, &at(5, &[])), VALID);
    view.end_write(&[soft("t"), tag("u")]);
    assert_eq!(of(&view, &at(5, &[])), VALID);
}

#[test]
fn an_unwritten_soft_row_does_not_hide_a_hard_one() {
    let mut view = LogView::new(5);
    view.absorb([(6, tag("t"))], Instant::now());
    view.set_unwritten([soft("t")].into_iter());
    assert_eq!(of(&view, &at(5, &[])), INVALID);
    assert_eq!(of(&view, &at(6, &[])), OUTDATED);
    view.absorb([(8, tag("u"))], Instant::now());
    view.absorb([(7, tag("t"))], Instant::now());
    assert_eq!(of(&view, &at(8, &[7])), INVALID);
}

#[test]
fn every_scope_has_a_log_verdict() {
    for (scope, named) in [
        (Scope::Everything, true),
        (Scope::Prefix("p".into()), true),
        (Scope::Prefix("q".into()), false),
        (Scope::uri("p:1:/x"), true),
        (Scope::uri("p:1:/x http://h"), true),
        (Scope::uri("p:1:/x http://i"), false),
        (Scope::uri("p:1:/"), false),
        (Scope::path(b"p:1:/"), true),
        (Scope::path(b"p:1:/x"), true),
        (Scope::path(b"p:1:/y"), false),
    ] {
        let mut view = LogView::new(0);
        view.absorb([(1, Mark { scope: scope.clone(), soft: false })], Instant::now());
        let expected = if named { INVALID } else { VALID };
        assert_eq!(of(&view, &at(0, &[])), expected, "{scope:?}");
        // the same, with a gap
        view.absorb([(3, tag("u"))], Instant::now());
        view.absorb([(2, Mark { scope: scope.clone(), soft: false })], Instant::now());
        assert_eq!(of(&view, &at(3, &[2])), expected, "{scope:?}");
    }
}
