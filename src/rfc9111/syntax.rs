//! How are the parts of a field's syntax read that several rules share (RFC 9110 5.6)?

use std::borrow::Cow;

use http::header::{AsHeaderName, HeaderMap};

/// The largest number of seconds: 2^31. RFC 9111 1.2.2 asks for it if a value is too large, or a sum overflows.
pub(crate) const DELTA_MAX_SECS: u64 = 1 << 31;

/// [`DELTA_MAX_SECS`] in milliseconds.
pub(crate) const DELTA_MAX_MS: u64 = DELTA_MAX_SECS * 1000;

/// Delta-seconds: only digits, at most [`DELTA_MAX_SECS`] (RFC 9111 1.2.2).
pub(crate) fn delta_seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0, |sum: u64, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some((sum * 10 + digit).min(DELTA_MAX_SECS))
    })
}

/// Whether `byte` is allowed in a token (RFC 9110 5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Splits at each `separator` outside quoted strings (RFC 9110 5.6.4). An unfinished quoted string ends with `text`.
pub(crate) fn split_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |&byte| {
        if escaped {
            escaped = false;
            return false;
        }
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => escaped = true,
            _ => {}
        }
        byte == separator && !quoted
    })
}

/// The members of a list field, from all lines in order, trimmed, without empty ones (RFC 9110 5.6.1.2).
pub(crate) fn members(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|line| split_unquoted(line.as_bytes(), b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// An argument in either form, token or quoted string (RFC 9110 5.6.6); `None` if it is neither.
pub(crate) fn argument(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    match text {
        [b'"', inner @ .., b'"'] => unescape(inner),
        [] => None,
        token => token.iter().all(|&byte| is_token_byte(byte)).then_some(Cow::Borrowed(token)),
    }
}

/// The content of a quoted string; `None` if it holds a quote or a backslash that is not part of an escape.
fn unescape(inner: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !inner.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
        return Some(Cow::Borrowed(inner));
    }
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'"' => return None,
            b'\\' => *bytes.next()?,
            _ => byte,
        });
    }
    Some(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delta_seconds_are_digits_only() {
        for (text, seconds) in [
            ("0", Some(0)),
            ("3600", Some(3600)),
            ("003600", Some(3600)),
            ("2147483647", Some(DELTA_MAX_SECS - 1)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.0", None),
            (" 1", None),
            ("1e3", None),
            ("\u{661}", None), // a digit, but not an ASCII one
        ] {
            assert_eq!(delta_seconds(text.as_bytes()), seconds, "{text:?}");
        }
    }

    // RFC 9111 1.2.2
    #[test]
    fn delta_seconds_too_large_count_as_2_to_the_31() {
        for text in ["2147483648", "4294967296", "18446744073709551616", &"9".repeat(400)] {
            assert_eq!(delta_seconds(text.as_bytes()), Some(DELTA_MAX_SECS), "{text}");
        }
    }

    #[test]
    fn commas_in_quotes_do_not_split() {
        let split = |text| split_unquoted(text, b',').collect::<Vec<_>>();
        assert_eq!(split(br#"a,"b,c",d"#), [&b"a"[..], br#""b,c""#, b"d"]);
        assert_eq!(split(br#""a\",b",c"#), [&br#""a\",b""#[..], b"c"]);
        assert_eq!(split(br#"a,"b,c"#), [&b"a"[..], br#""b,c"#]);
        assert_eq!(split(br"a\,b"), [&br"a\"[..], b"b"]);
    }

    #[test]
    fn arguments_are_tokens_or_quoted_strings() {
        for (text, plain) in [
            (&b"abc"[..], Some(&b"abc"[..])),
            (br#""abc""#, Some(b"abc")),
            (br#""""#, Some(b"")),
            (br#""a\"b\\c""#, Some(br#"a"b\c"#)),
            (br#"""#, None),
            (br#""a"b""#, None),
            (br#""a\""#, None),
            (b"a b", None),
            (b"", None),
            (b"a\xe9", None),
        ] {
            assert_eq!(argument(text).as_deref(), plain, "{}", text.escape_ascii());
        }
    }
}
