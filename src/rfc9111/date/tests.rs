use http::header::{DATE, EXPIRES};
use proptest::prelude::*;

use super::super::testing::field_bytes;
use super::*;

/// 2026-01-15 00:00:00
const NOW_MS: u64 = 1_768_435_200_000;

fn read(text: &str) -> Option<u64> {
    parse(&HeaderValue::from_str(text).unwrap(), NOW_MS).map(|ms| ms / 1000)
}

// RFC 9110 5.6.7
#[test]
fn all_three_forms_are_read() {
    for text in [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "  Sun, 06 Nov 1994 08:49:37 GMT\t",
    ] {
        assert_eq!(read(text), Some(784_111_777), "{text}");
    }
    assert_eq!(read("Thu Aug 18 02:01:18 2050"), read("Thu, 18 Aug 2050 02:01:18 GMT"));
    assert_eq!(read("Thursday, 18-Aug-50 02:01:18 GMT"), read("Thu, 18 Aug 2050 02:01:18 GMT"));
    for (day, weekday) in (7_u64..).zip(LONG_DAYS) {
        let text = format!("{weekday}, {day:02}-Nov-94 08:49:37 GMT");
        assert_eq!(read(&text), Some(784_111_777 + (day - 6) * 86_400), "{text}");
    }
}

// RFC 9110 5.6.7
#[test]
fn weekday_month_and_zone_are_read_in_any_case() {
    for text in [
        "THU, 18 Aug 2050 02:01:18 GMT",
        "Thu, 18 AUG 2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18 gMT",
        "thu, 18 aug 2050 02:01:18 gmt",
        "THURSDAY, 18-AUG-50 02:01:18 Gmt",
        "thu aug 18 02:01:18 2050",
    ] {
        assert_eq!(read(text), Some(2_544_400_878), "{text}");
    }
}

// RFC 9111 5.3, RFC 9110 5.6.7
#[test]
fn what_is_nearly_a_date_is_none() {
    for text in [
        "",
        "0",
        "-1",
        "2544401678",
        "Thu, 18 Aug 2050 02:01:18 UTC",
        "Thu, 18 Aug 2050 02:01:18 AEST",
        "Thu, 18 Aug 2050 02:01:18 +0000",
        "Thu, 18 Aug 2050 02:01:18 GMT+1",
        "Thu, 18 Aug 2050 02:01:18 GMTx",
        "Thu, 18 Aug 2050 02:01:18 Z",
        "Thu, 18 Aug 2050 02:01:18",
        "Thu, 18 Aug 2050 02:01:18 ",
        "Thu, 18 Aug 50 02:01:18 GMT",
        "Thu, 18 Aug 02050 02:01:18 GMT",
        "Thu, 18 Aug 12050 02:01:18 GMT",
        "Thu 18 Aug 2050 02:01:18 GMT",
        "Thu,18 Aug 2050 02:01:18 GMT",
        "18 Aug 2050 02:01:18 GMT",
        "Thu, 18  Aug  2050 02:01:18 GMT",
        "Thu,  18 Aug 2050 02:01:18 GMT",
        "Thu, 18 Aug 2050  02:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18  GMT",
        "Thu, 18-Aug-2050 02:01:18 GMT",
        "Thu, 18-Aug-50 02:01:18 GMT",
        "Thursday, 18-Aug-2050 02:01:18 GMT",
        "Thursday, 18 Aug 2050 02:01:18 GMT",
        "Thursday, 8-Aug-50 02:01:18 GMT",
        "Thu, 18 Aug 2050 02.01.18 GMT",
        "Thu, 18 Aug 2050 2:01:18 GMT",
        "Thu, 18 Aug 2050 02:1:18 GMT",
        "Thu, 18 Aug 2050 02:01 GMT",
        "Thu, 18 Aug 2050 02:01:18.5 GMT",
        "Thu, 8 Aug 2050 02:01:18 GMT",
        "Thu, +8 Aug 2050 02:01:18 GMT",
        "Thu, 18 August 2050 02:01:18 GMT",
        "Thu, 18 08 2050 02:01:18 GMT",
        "Xyz, 18 Aug 2050 02:01:18 GMT",
        "Thu, 18 Xyz 2050 02:01:18 GMT",
        "Thu, 00 Aug 2050 02:01:18 GMT",
        "Thu, 32 Aug 2050 02:01:18 GMT",
        "Fri, 18 Aug 2050 02:01:18 GMT",    // a Thursday
        "Saturday, 18-Aug-50 02:01:18 GMT", // a Thursday, or a Friday in 1950
        "Fri Aug 18 02:01:18 2050",
        "Sun, 31 Dec 1969 23:59:59 GMT",
        "Wed, 31 Dec +969 23:59:59 GMT",
        "Wed, 32 Dec 1969 23:59:59 GMT",
        "Sat, 29 Feb 2025 02:01:18 GMT",
        "Sat, 29 Feb 2100 02:01:18 GMT",
        "Tue, 31 Jun 2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 24:01:18 GMT",
        "Thu, 18 Aug 2050 02:60:18 GMT",
        "Thu, 18 Aug 2050 02:01:61 GMT",
        "Thu Aug 18 02:01:18 2050 GMT",
        "Thu Aug 18 02:01:18 50",
        "Thu Aug 8 02:01:18 2050",
        "Thu Aug  18 02:01:18 2050",
        "Thu, Aug 18 02:01:18 2050",
        "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
        "\"Thu, 18 Aug 2050 02:01:18 GMT\"",
        "2050-08-18T02:01:18Z",
    ] {
        assert_eq!(read(text), None, "{text:?}");
    }
}

// RFC 9110 5.6.7
#[test]
fn a_two_digit_year_lies_at_most_50_years_ahead() {
    for (text, four_digits) in [
        ("Thursday, 15-Jan-26 00:00:00 GMT", "Thu, 15 Jan 2026 00:00:00 GMT"),
        ("Tuesday, 14-Jan-76 00:00:00 GMT", "Tue, 14 Jan 2076 00:00:00 GMT"),
        ("Friday, 16-Jan-76 00:00:00 GMT", "Fri, 16 Jan 1976 00:00:00 GMT"),
        ("Friday, 01-Jan-99 00:00:00 GMT", "Fri, 01 Jan 1999 00:00:00 GMT"),
        ("Saturday, 01-Jan-00 00:00:00 GMT", "Sat, 01 Jan 2000 00:00:00 GMT"),
        ("Tuesday, 29-Feb-00 00:00:00 GMT", "Tue, 29 Feb 2000 00:00:00 GMT"),
        ("Sunday, 29-Feb-76 00:00:00 GMT", "Sun, 29 Feb 1976 00:00:00 GMT"),
    ] {
        assert_eq!(read(text), read(four_digits), "{text}");
    }
    // seen from 2090, "10" is twenty years ahead
    let from_2090 =
        parse(&HeaderValue::from_static("Wednesday, 01-Jan-10 00:00:00 GMT"), 3_786_912_000_000);
    assert_eq!(from_2090.map(|ms| ms / 1000), read("Wed, 01 Jan 2110 00:00:00 GMT"));
}

#[test]
fn dates_reach_beyond_2038_and_back_before_1970() {
    for (text, seconds) in [
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", 0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
        ("Sat, 01 Jan 0000 00:00:00 GMT", 0),
        ("Wed Dec 31 23:59:60 1969", 0),
        ("Tue, 19 Jan 2038 03:14:08 GMT", 2_147_483_648),
        ("Sun, 07 Feb 2106 06:28:16 GMT", 4_294_967_296),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LAST_SECS),
        ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800), // a leap second
    ] {
        assert_eq!(read(text), Some(seconds), "{text}");
    }
}

// RFC 9111 4.2.1, 5.3
#[test]
fn two_lines_are_no_date() {
    let mut headers = HeaderMap::new();
    assert_eq!(single(&headers, EXPIRES, NOW_MS), DateField::Absent);
    headers.append(EXPIRES, HeaderValue::from_static("Thu, 18 Aug 2050 02:01:18 GMT"));
    assert!(single(&headers, EXPIRES, NOW_MS).at().is_some());
    headers.append(EXPIRES, HeaderValue::from_static("Thu, 18 Aug 2050 02:01:18 GMT"));
    assert_eq!(single(&headers, EXPIRES, NOW_MS), DateField::Invalid);
    headers.insert(DATE, HeaderValue::from_static("now"));
    assert_eq!(single(&headers, DATE, NOW_MS), DateField::Invalid);
}

#[test]
fn dates_are_written_in_the_preferred_form() {
    assert_eq!(format(784_111_777_999), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(format(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(format(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
}

proptest! {
    #[test]
    fn a_written_date_is_read_back(ms in 0..=LAST_SECS * 1000, now_ms: u64) {
        prop_assert_eq!(parse(&format(ms), now_ms), Some(ms / 1000 * 1000));
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        bytes in prop_oneof![
            field_bytes(40),
            "[A-Z][a-z]{2}(day|sday)?,? ?[0-9 ]{1,2}[ -][A-Z][a-z]{2}[ -][0-9]{2,4} [0-9:]{8} (GMT)?"
                .prop_map(String::into_bytes),
            "(Sun|Monday), ?[0-9]{2}[ -](Jan|feb)[ -][0-9]{2,4} [0-9]{2}:[0-5][0-9]:[0-5][0-9] GMT"
                .prop_map(String::into_bytes),
        ],
        now_ms: u64,
    ) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let Some(ms) = parse(&value, now_ms) else { return Ok(()) };
        let text = value.to_str().unwrap().trim();
        // httpdate finds the same moment, if it finds one; its rule for centuries is another one
        if !text.contains('-')
            && let Ok(theirs) = httpdate::parse_http_date(text)
        {
            prop_assert_eq!(format(ms), httpdate::fmt_http_date(theirs));
        }
    }
}
