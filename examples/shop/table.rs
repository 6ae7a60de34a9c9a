//! Prints a table with one line for each request.

use std::fmt::Write;

use tower_mysql_cache::status::Counts;

use crate::browser::{Answer, Ask};

pub(crate) fn heading(title: &str, look_at: &str) {
    println!("\n{title}");
    for line in look_at.lines() {
        println!("  {line}");
    }
    println!();
}

pub(crate) fn head() {
    println!("{}", line("request", "", "Cache-Status", "Age", "ms", "body"));
}

/// Prints a line for a request and its answer.
pub(crate) fn row(ask: &Ask, answer: &Answer) {
    let mut request = format!("{} {}", ask.method, ask.target);
    for (name, value) in &ask.fields {
        let _ = write!(request, " [{name}: {value}]");
    }
    let status = cache_status(answer);
    let age = answer.headers.get("age").and_then(|age| age.to_str().ok()).unwrap_or("-");
    let ms = format!("{:.1}", answer.took.as_secs_f64() * 1000.0);
    let is_picture = answer.headers.get("content-type").is_some_and(|media| media == "image/bmp");
    let body = match std::str::from_utf8(&answer.body) {
        Ok("") => "no body".to_owned(),
        Ok(text) if !is_picture => excerpt(text),
        _ => format!("{} bytes", answer.body.len()),
    };
    println!("{}", line(&request, answer.status.as_str(), &without_key(&status), age, &ms, &body));
}

fn line(
    request: &str,
    status: &str,
    cache_status: &str,
    age: &str,
    ms: &str,
    body: &str,
) -> String {
    format!("  {request:<46} {status:<3} {cache_status:<39} {age:>3} {ms:>6}  {body}")
        .trim_end()
        .to_owned()
}

/// The shop's member of `Cache-Status`, or `-`.
pub(crate) fn cache_status(answer: &Answer) -> String {
    let status = answer.headers.get("cache-status").and_then(|status| status.to_str().ok());
    status.unwrap_or("-").to_owned()
}

/// For how many seconds a hit is still fresh.
pub(crate) fn ttl(answer: &Answer) -> Option<i64> {
    let status = cache_status(answer);
    let (_, rest) = status.split_once("; ttl=")?;
    rest.split(';').next()?.parse().ok()
}

/// `Cache-Status` without its `key`, which would take half a line. (The table of rows shows the keys.)
fn without_key(status: &str) -> String {
    let Some((before, rest)) = status.split_once("; key=\"") else { return status.to_owned() };
    // no key of the shop contains a quotation mark
    let after = rest.split_once('"').map_or("", |(_, after)| after);
    format!("{before}{after}")
}

/// The first line of a text, and the brackets at its end.
fn excerpt(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    match text.trim_end().rsplit_once(" (call") {
        Some((_, call)) if !first.contains(" (call") => format!("{first} .. (call{call}"),
        _ => first.to_owned(),
    }
}

/// The counts of a cache, in a sentence.
pub(crate) fn summary(counts: &Counts) -> String {
    let Counts { hits, misses, bypassed, other_methods, stored, not_stored, .. } = *counts;
    let mut text = format!(
        "{hits} hits, {misses} misses, {bypassed} bypassed, {other_methods} other methods; \
         {stored} stored, {not_stored} not to be stored, {} invalidations",
        counts.invalidations
    );
    let failures = [
        (counts.lookup_errors, "failed lookups"),
        (counts.lookups_skipped, "lookups not made"),
        (counts.breaker_opened, "times the breaker opened"),
        (counts.breaker_closed, "times it closed"),
        (counts.write_errors, "failed writes"),
        (counts.invalidation_errors, "failed invalidations"),
    ];
    for (number, what) in failures.into_iter().filter(|(number, _)| *number > 0) {
        let _ = write!(text, ", {number} {what}");
    }
    text
}
