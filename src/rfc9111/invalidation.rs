//! What does an unsafe request invalidate (RFC 9111 4.4)?

use http::header::HeaderMap;
use http::{HeaderName, Method, StatusCode};

/// The methods that are safe according to the IANA HTTP Method Registry.
const SAFE: &[&str] =
    &["GET", "HEAD", "OPTIONS", "PRI", "PROPFIND", "QUERY", "REPORT", "SEARCH", "TRACE"];

/// Whether the method is registered as safe (RFC 9110 9.2.1, 16.1.1). An unknown method may change something.
pub(crate) fn is_safe(method: &Method) -> bool {
    SAFE.contains(&method.as_str())
}

/// Whether a response to this method invalidates the target URI: a response without an error (2xx or 3xx) to a method
/// that is unsafe or unknown (RFC 9111 4.4).
pub(crate) fn invalidates(method: &Method, status: StatusCode) -> bool {
    !is_safe(method) && (status.is_success() || status.is_redirection())
}

/// Whether the status leaves open what the handler has changed: a timeout, or a server error after some of the work
/// (RFC 9110 15.5.9, 15.6).
pub(crate) fn leaves_open(status: StatusCode) -> bool {
    status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
}

/// The parts of a request's URI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
}

/// Path and query of each URI in these fields that has the target's origin. RFC 9111 4.4: a URI of another origin must
/// not be invalidated. References are resolved against the target (RFC 3986 5.2); invalid ones are ignored.
pub(crate) fn same_origin_targets(
    target: Target<'_>,
    headers: &HeaderMap,
    fields: &[HeaderName],
) -> Vec<String> {
    let mut targets = Vec::new();
    for name in fields {
        for line in headers.get_all(name) {
            let reference = std::str::from_utf8(line.as_bytes()).ok().map(str::trim);
            let resolved = reference.and_then(|reference| resolve(target, reference));
            if let Some(resolved) = resolved.filter(|path| !targets.contains(path)) {
                targets.push(resolved);
            }
        }
    }
    targets
}

/// Path and query of a reference, if it has the target's origin. By hand, because `url` follows WHATWG, not RFC 3986:
/// it reads `https:a`, `///a` and `\` as paths and hosts.
fn resolve(target: Target<'_>, reference: &str) -> Option<String> {
    let reference = reference.split('#').next()?; // no fragment is part of a request
    if reference.is_empty() || reference.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    // a scheme ends at a colon that comes before any slash or question mark
    let (scheme, rest) = match reference.split_once([':', '/', '?']) {
        Some((scheme, rest)) if reference.as_bytes().get(scheme.len()) == Some(&b':') => {
            (scheme, rest)
        }
        _ => (target.scheme, reference),
    };
    if !scheme.eq_ignore_ascii_case(target.scheme) {
        return None;
    }
    if let Some(rest) = rest.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let same = origin(scheme, authority)? == origin(scheme, target.authority)?;
        return same.then(|| absolute(path));
    }
    if rest.len() != reference.len() {
        return None; // a scheme without an authority, such as "http:path"
    }
    match reference.as_bytes().first()? {
        b'/' => Some(absolute(reference)),
        b'?' => Some(absolute(&format!("{}{reference}", target.path))),
        _ => {
            let directory = target.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            Some(absolute(&format!("{directory}/{reference}")))
        }
    }
}

/// The host in lower case, and the port; if the authority has no port, the port of the scheme. An origin has no user
/// information: it stays in the host, so that the host is another one.
fn origin(scheme: &str, authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        // the last colon inside brackets is part of an IPv6 address
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    if host.is_empty() {
        return None;
    }
    let port = match (port, scheme.eq_ignore_ascii_case("https")) {
        ("", true) => 443,
        ("", false) => 80,
        (port, _) => port.parse().ok()?,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// Path and query with a leading slash and without dot segments (RFC 3986 5.2.4).
fn absolute(path_and_query: &str) -> String {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at_checked(at).unwrap_or((path_and_query, "")),
        None => (path_and_query, ""),
    };
    let mut segments = Vec::new();
    let mut rest = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            segment => segments.push(segment),
        }
    }
    format!("/{}{query}", segments.join("/"))
}

#[cfg(test)]
mod tests;
