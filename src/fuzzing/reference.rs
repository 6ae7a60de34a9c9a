//! Second implementations of the readers of header fields, for comparison. They follow the grammar byte by byte and
//! accept nothing else.

use http::header::HeaderName;

/// A directive: its name in lower case, and its argument without quotes.
pub(super) type Directive = (String, Option<Vec<u8>>);

/// 2^31 (RFC 9111 1.2.2).
const MAX_SECS: u128 = 1 << 31;

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip(&mut self, bytes: &[u8]) {
        while self.peek().is_some_and(|byte| bytes.contains(&byte)) {
            self.at += 1;
        }
    }

    fn token(&mut self) -> Option<Vec<u8>> {
        let start = self.at;
        while self.peek().is_some_and(is_tchar) {
            self.at += 1;
        }
        (self.at > start).then(|| self.text[start..self.at].to_vec())
    }

    /// RFC 9110 5.6.4.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        self.at += 1;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(plain),
                b'\\' => {
                    plain.push(self.peek()?);
                    self.at += 1;
                }
                _ => plain.push(byte),
            }
        }
    }
}

/// One line of `Cache-Control` by the grammar of RFC 9111 5.2, `None` if it does not follow the grammar.
pub(super) fn directives(line: &[u8]) -> Option<Vec<Directive>> {
    let mut found = Vec::new();
    let mut reader = Reader { text: line, at: 0 };
    loop {
        reader.skip(b" \t,"); // empty members are ignored (RFC 9110 5.6.1.2)
        if reader.peek().is_none() {
            return Some(found);
        }
        let name = String::from_utf8(reader.token()?).ok()?.to_ascii_lowercase();
        let argument = match reader.peek() {
            Some(b'=') => {
                reader.at += 1;
                match reader.peek()? {
                    b'"' => Some(reader.quoted()?),
                    _ => Some(reader.token()?),
                }
            }
            _ => None,
        };
        found.push((name, argument));
        reader.skip(b" \t");
        if !matches!(reader.peek(), None | Some(b',')) {
            return None;
        }
    }
}

/// A number of seconds, written in digits only. The result is at most 2^31.
pub(super) fn seconds(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok()?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    let seconds = if digits.len() > 30 { MAX_SECS } else { format!("0{digits}").parse().ok()? };
    u64::try_from(seconds.min(MAX_SECS)).ok()
}

/// The arguments of all directives with this name.
pub(super) fn arguments<'a>(
    found: &'a [Directive],
    name: &'a str,
) -> impl Iterator<Item = Option<&'a [u8]>> {
    found.iter().filter(move |(found, _)| found == name).map(|(_, argument)| argument.as_deref())
}

/// The lifetime that a strict reader finds if a directive occurs several times: the first value, or 0 if a later one is
/// shorter.
pub(super) fn lifetime(found: &[Directive], name: &str) -> Option<u64> {
    let values: Vec<_> =
        arguments(found, name).map(|argument| argument.and_then(seconds).unwrap_or(0)).collect();
    let first = *values.first()?;
    Some(if values.iter().all(|&value| value >= first) { first } else { 0 })
}

/// The shortest of all values.
pub(super) fn shortest(found: &[Directive], name: &str) -> Option<u64> {
    arguments(found, name).map(|argument| argument.and_then(seconds).unwrap_or(0)).min()
}

/// The field names in an argument, `None` if it is no list of names.
pub(super) fn names(argument: &[u8]) -> Option<Vec<HeaderName>> {
    let members = argument.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let names = members.filter(|name| !name.is_empty());
    let names: Vec<_> =
        names.map(|name| HeaderName::from_bytes(name).ok()).collect::<Option<_>>()?;
    (!names.is_empty()).then_some(names)
}

/// A weight (RFC 9110 12.4.2) in thousandths.
fn weight(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || !matches!(whole, "0" | "1") {
        return None;
    }
    let sum = format!("{whole}{fraction:0<3}").parse().ok()?;
    (sum <= 1000).then_some(sum)
}

/// One line of `Accept-Encoding` or `Accept-Language` as sorted pairs of value and weight, `None` if it does not follow
/// the grammar.
pub(super) fn preferences(line: &[u8]) -> Option<Vec<(String, u32)>> {
    let line = std::str::from_utf8(line).ok()?;
    let blank = [' ', '\t'];
    let mut wanted = Vec::new();
    for member in line.split(',').map(|member| member.trim_matches(blank)) {
        if member.is_empty() {
            continue;
        }
        let (coding, rest) = member.split_once(';').unwrap_or((member, "q=1"));
        let coding = coding.trim_matches(blank);
        let rest = rest.trim_matches(blank);
        let rest = rest.strip_prefix(['q', 'Q'])?.strip_prefix('=')?;
        if coding.is_empty() || !coding.bytes().all(is_tchar) {
            return None;
        }
        wanted.push((coding.to_ascii_lowercase(), weight(rest)?));
    }
    wanted.sort_unstable();
    wanted.dedup();
    Some(wanted)
}

/// The byte ranges of a `Range` field within a body of this length (RFC 9110 14.1.2), `None` if the field is no set of
/// byte ranges.
pub(super) fn byte_ranges(value: &str, len: u64) -> Option<Vec<(u64, u64)>> {
    let (unit, set) = value.split_once('=')?;
    if !unit.trim_start().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let mut ranges = Vec::new();
    let mut some = false;
    for member in set.split(',').map(|member| member.trim_matches([' ', '\t'])) {
        if member.is_empty() {
            continue;
        }
        some = true;
        let (first, last) = member.split_once('-')?;
        match (first.is_empty(), last.is_empty()) {
            (true, _) => {
                let bytes = number(last)?.min(len);
                if bytes > 0 {
                    ranges.push((len - bytes, len - 1));
                }
            }
            (false, open) => {
                let first = number(first)?;
                let last = if open { u64::MAX } else { number(last)? };
                if first > last {
                    return None;
                }
                if first < len {
                    ranges.push((first, last.min(len - 1)));
                }
            }
        }
    }
    some.then_some(ranges)
}

/// The entity tags of a list by the grammar of RFC 9110 8.8.3, `None` if it does not follow the grammar.
pub(super) fn entity_tags(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut tags = Vec::new();
    let mut reader = Reader { text: line, at: 0 };
    loop {
        reader.skip(b" \t,");
        if reader.peek().is_none() {
            return Some(tags);
        }
        if line[reader.at..].starts_with(b"W/") {
            reader.at += 2;
        }
        if reader.peek() != Some(b'"') {
            return None;
        }
        let start = reader.at + 1;
        let length = line[start..].iter().position(|&byte| byte == b'"')?;
        let tag = &line[start..start + length];
        if tag.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
            return None;
        }
        tags.push(tag.to_vec());
        reader.at = start + length + 1;
        reader.skip(b" \t");
        if !matches!(reader.peek(), None | Some(b',')) {
            return None;
        }
    }
}

/// A list of strings (RFC 9651 3.1, 3.3.3), `None` if it has parameters or other items.
pub(super) fn strings(line: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = line.trim_matches(' ');
    if rest.is_empty() {
        return Some(found);
    }
    loop {
        let mut plain = String::new();
        let mut chars = rest.strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => plain.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
                c @ ' '..='~' => plain.push(c),
                _ => return None,
            }
        }
        found.push(plain);
        rest = chars.as_str().trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return Some(found);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches([' ', '\t']);
    }
}
