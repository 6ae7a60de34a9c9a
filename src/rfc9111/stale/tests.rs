use proptest::prelude::*;

use super::super::testing::{NOW_MS, head, headers};
use super::*;

const S: u64 = 1_000;
/// The moment at which `head` becomes stale.
const END_MS: u64 = NOW_MS + 60 * S;

fn directives(cache_control: &str) -> ResponseDirectives {
    ResponseDirectives::parse(&headers(&[("cache-control", cache_control)]))
}

fn own(cache_control: &str) -> Windows {
    Windows::of(Given::default(), &directives(cache_control), Given::default())
}

fn asking(windows: Windows) -> Asking<'static> {
    Asking { windows, request: None, disconnected: false, invalidated: false }
}

fn given(seconds: u64) -> Given {
    let window = Some(Duration::from_secs(seconds));
    Given { while_revalidate: window, if_error: window }
}

const ERRORS: [Cause; 3] = [Cause::ErrorStatus, Cause::Error, Cause::Timeout];

/// RFC 5861 3.
#[test]
fn stale_while_revalidate_permits_for_its_time_and_no_longer() {
    let asking = asking(own("max-age=60, stale-while-revalidate=10"));
    let may = |now_ms| may_serve_stale(&head(&[]), &asking, Cause::Revalidating, now_ms);
    assert!(may(END_MS) && may(END_MS + 10 * S));
    assert!(!may(END_MS + 10 * S + 1));
    for cause in ERRORS {
        assert!(!may_serve_stale(&head(&[]), &asking, cause, END_MS), "{cause:?}");
    }
}

/// RFC 5861 4.
#[test]
fn stale_if_error_permits_for_its_time_and_no_longer() {
    let asking = asking(own("max-age=60, stale-if-error=10"));
    for cause in ERRORS {
        let may = |now_ms| may_serve_stale(&head(&[]), &asking, cause, now_ms);
        assert!(may(END_MS) && may(END_MS + 10 * S), "{cause:?}");
        assert!(!may(END_MS + 10 * S + 1), "{cause:?}");
    }
    assert!(!may_serve_stale(&head(&[]), &asking, Cause::Revalidating, END_MS));
}

/// RFC 9111 4.2.4.
#[test]
fn without_permission_nothing_stale_is_served() {
    for cache_control in ["max-age=60", "max-age=60, stale-while-revalidate=0, stale-if-error=0"] {
        for cause in [Cause::Revalidating, Cause::ErrorStatus, Cause::Error, Cause::Timeout] {
            let may = may_serve_stale(&head(&[]), &asking(own(cache_control)), cause, END_MS);
            assert!(!may, "{cache_control} {cause:?}");
        }
    }
}

/// RFC 9111 4.2.4, 5.2.2.10.
#[test]
fn four_directives_forbid_it_whoever_permits_it() {
    let wanted = RequestDirectives::parse(&headers(&[("cache-control", "stale-if-error=600")]));
    for forbidding in ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=60"] {
        let said = format!("{forbidding}, stale-while-revalidate=600, stale-if-error=600");
        let windows = Windows::of(given(600), &directives(&said), given(600));
        let asking = Asking { request: Some(&wanted), disconnected: true, ..asking(windows) };
        for cause in [Cause::Revalidating, Cause::ErrorStatus, Cause::Error, Cause::Timeout] {
            assert!(!may_serve_stale(&head(&[]), &asking, cause, END_MS), "{said} {cause:?}");
        }
        assert_eq!(windows.longest_ms(), 0);
    }
    // a field that `no-cache` names is not stored; the rest may be served
    assert!(!own("no-cache=\"x\", stale-if-error=9").forbidden);
}

#[test]
fn the_override_goes_before_the_response_and_that_before_the_policy() {
    let said = directives("stale-while-revalidate=20");
    let windows = |overrides| Windows::of(overrides, &said, given(30));
    assert_eq!(windows(Given::default()).while_revalidate_ms, 20 * S);
    assert_eq!(windows(Given::default()).if_error_ms, 30 * S);
    assert_eq!(windows(given(10)).while_revalidate_ms, 10 * S);
    assert_eq!(windows(given(0)).if_error_ms, 0, "zero is a window too");
}

/// RFC 5861 4, RFC 9111 5.2.1.
#[test]
fn a_request_can_permit_stale_in_place_of_an_error_and_can_want_newer() {
    let may = |said: &str, windows, cause| {
        let wanted = RequestDirectives::parse(&headers(&[("cache-control", said)]));
        let asking = Asking { request: Some(&wanted), ..asking(windows) };
        may_serve_stale(&head(&[]), &asking, cause, END_MS + 5 * S)
    };
    assert!(may("stale-if-error=5", Windows::default(), Cause::Error));
    assert!(!may("stale-if-error=4", Windows::default(), Cause::Error));
    assert!(!may("stale-if-error=5", Windows::default(), Cause::Revalidating));
    let both = own("stale-while-revalidate=60, stale-if-error=60");
    for newer in ["no-cache", "max-age=0", "max-age=64", "min-fresh=1"] {
        assert!(!may(newer, both, Cause::Revalidating), "{newer}");
        assert!(!may(newer, both, Cause::Error), "{newer}");
    }
    assert!(may("max-age=65, min-fresh=0", both, Cause::Revalidating));
}

/// RFC 9111 4.2.4.
#[test]
fn an_inner_service_that_cannot_be_reached_permits_in_the_strict_mode() {
    let asking = Asking { disconnected: true, ..asking(Windows::default()) };
    let may = |cause| may_serve_stale(&head(&[]), &asking, cause, END_MS + 3600 * S);
    assert!(may(Cause::Error));
    assert!(!may(Cause::ErrorStatus) && !may(Cause::Timeout) && !may(Cause::Revalidating));
}

/// RFC 9111 4.4.
#[test]
fn a_hard_invalidation_is_never_revived_and_a_soft_one_counts_as_stale() {
    let windows = own("stale-while-revalidate=60, stale-if-error=60");
    for cause in [Cause::Revalidating, Cause::ErrorStatus, Cause::Error, Cause::Timeout] {
        let may = |invalidated, now_ms| {
            let asking = Asking { disconnected: true, invalidated, ..asking(windows) };
            may_serve_stale(&head(&[]), &asking, cause, now_ms)
        };
        assert!(!may(true, NOW_MS) && !may(true, END_MS), "{cause:?}");
        assert!(may(false, NOW_MS) && may(false, END_MS), "{cause:?}");
    }
}

#[test]
fn four_statuses_are_failures() {
    let failures = (100..600).filter_map(|code| StatusCode::from_u16(code).ok());
    let failures: Vec<_> = failures.filter(|code| is_failure(*code)).collect();
    assert_eq!(failures, [500, 502, 503, 504].map(|code| StatusCode::from_u16(code).unwrap()));
}

#[test]
fn an_early_refresh_is_likelier_near_the_end_and_after_a_slow_handler() {
    let mut head = head(&[]);
    head.gen_ms = 1_000;
    // -ln(1/e) is 1: a second before the end
    let chance = (-1.0_f64).exp();
    assert!(refreshes_early(&head, 1.0, chance * 0.999, END_MS - 1_000));
    assert!(!refreshes_early(&head, 1.0, chance, END_MS - 1_100));
    assert!(refreshes_early(&head, 2.0, chance, END_MS - 1_900));
    assert!(!refreshes_early(&head, 1.0, 1.0, END_MS - 1), "the luckiest does nothing early");
    assert!(refreshes_early(&head, 1.0, 1.0, END_MS));
    head.gen_ms = 0;
    assert!(!refreshes_early(&head, 1.0, 0.0, END_MS - 1), "what costs nothing is not made early");
}

proptest! {
    #[test]
    fn a_window_that_permits_permits_at_every_earlier_moment(
        window in 0..1_000_000_u64, later in 0..1_000_000_u64, earlier in 0..1_000_000_u64,
    ) {
        let (earlier, later) = (earlier.min(later), earlier.max(later));
        let windows = own(&format!("stale-while-revalidate={window}, stale-if-error={window}"));
        for cause in [Cause::Revalidating, Cause::ErrorStatus, Cause::Error, Cause::Timeout] {
            let may = |s| may_serve_stale(&head(&[]), &asking(windows), cause, END_MS + s * S);
            prop_assert!(!may(later) || may(earlier));
            prop_assert_eq!(may(later), later <= window && window > 0);
        }
    }

    #[test]
    fn an_early_refresh_never_panics(
        gen_ms in any::<u32>(), beta in any::<f32>(), chance in any::<f64>(), now_ms in any::<u64>(),
    ) {
        let mut head = head(&[]);
        head.gen_ms = gen_ms;
        refreshes_early(&head, beta, chance, now_ms);
    }
}
