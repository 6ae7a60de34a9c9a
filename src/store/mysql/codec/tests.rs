//! Rows are decoded as they were encoded, and damaged rows are unreadable.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

use super::rows::read;
use super::*;
use crate::key::hex;
use crate::stored::{SelectingField, VariantIndex};
use crate::tag::{LogPosition, Tag};

const NOW: u64 = 1_000;
const EXPIRES: u64 = 2_000;

/// Compresses also small bodies.
fn with(compression: Compression) -> Compressing {
    Compressing { compression, when: Arc::new(|_, bytes| bytes >= 64) }
}

fn zlib() -> Compressing {
    with(Compression::Zlib(6))
}

fn sample() -> StoredHead {
    let mut headers = HeaderMap::new();
    headers.append("content-type", HeaderValue::from_static("text/html"));
    headers.append("link", HeaderValue::from_static("</a>"));
    headers.append("link", HeaderValue::from_static("</b>"));
    headers.append("x-bytes", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    StoredHead {
        status: StatusCode::NOT_FOUND,
        headers,
        requested_ms: 900,
        received_ms: 950,
        initial_age_ms: 7,
        fresh_until_ms: 1_500,
        gen_ms: 50,
        shared: true,
        vary: vec![
            SelectingField { name: HeaderName::from_static("accept"), value: Some([7; 16]) },
            SelectingField { name: HeaderName::from_static("dnt"), value: None },
        ],
        tags: vec![Tag::new("a"), Tag::new(&b"\x00\xff"[..])],
        position: LogPosition { largest: 9, gaps: vec![(3, 3), (5, 7)] },
        stale_while_revalidate_ms: None,
        stale_if_error_ms: None,
    }
}

fn entry(head: StoredHead, body: &[u8]) -> Entry {
    let response = StoredResponse::new(head, Bytes::copy_from_slice(body));
    Entry {
        key: CacheKey::new("p:1:/x http://h"),
        stored: Stored::Response(response),
        expires_ms: EXPIRES,
    }
}

fn variants() -> Entry {
    let names = vec![HeaderName::from_static("accept"), HeaderName::from_static("x-tenant")];
    Entry {
        key: CacheKey::new("p:1:/x"),
        stored: Stored::Variants(Arc::new(VariantIndex {
            names,
            variants: vec![[9; 16]],
            search: Some("key-order".into()),
        })),
        expires_ms: EXPIRES,
    }
}

/// The row as the database returns it.
fn raw(row: &Row) -> RawRow {
    RawRow {
        key: row.key.clone(),
        value_type: row.value_type.as_bytes()[0],
        expires_ms: row.expires_ms,
        head: Some(row.head.clone().into()),
        value: row.value.to_bytes(),
    }
}

fn samples() -> Vec<Entry> {
    let text = "one line of many, and again\n".repeat(20);
    vec![
        entry(sample(), b"short"),
        entry(sample(), text.as_bytes()),
        entry(sample(), b""),
        variants(),
    ]
}

/// The samples and their rows, in each way of compression.
fn sample_rows() -> Vec<(Entry, RawRow)> {
    let ways = [
        Compression::Off,
        Compression::Zlib(6),
        #[cfg(feature = "zstd")]
        Compression::Zstd(3),
    ];
    let all = ways.iter().flat_map(|way| samples().into_iter().map(|entry| (*way, entry)));
    all.map(|(way, entry)| {
        let row = raw(&encode(&entry, &with(way), NOW).unwrap());
        (entry, row)
    })
    .collect()
}

#[test]
fn what_goes_in_comes_out() {
    for (entry, row) in sample_rows() {
        assert_eq!(read(&entry.key, row, NOW), Reading::Found(entry.stored));
    }
}

/// A row as `encode` wrote it with `Zstd(3)`.
#[test]
fn a_zstd_row_is_read_only_with_its_feature() {
    let text = "one line of many, and again\n".repeat(20);
    let entry = entry(sample(), text.as_bytes());
    let frame = "28b52ffd603001250100e06f6e65206c696e65206f66206d616e792c20616e6420616761696e0a010044f86a3a01\
                 300200000385db72f9";
    let row = RawRow {
        value_type: b'Z',
        value: unhex(frame),
        ..raw(&encode(&entry, &zlib(), NOW).unwrap())
    };
    let expected = match cfg!(feature = "zstd") {
        true => Reading::Found(entry.stored),
        false => Reading::Unreadable,
    };
    assert_eq!(read(&entry.key, row, NOW), expected);
}

fn unhex(hex: &str) -> Bytes {
    let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap());
    digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
}

#[test]
fn version_1_keeps_its_bytes() {
    let row = encode(&entry(sample(), b"hello"), &zlib(), NOW).unwrap();
    assert_eq!(row.value_type, "r");
    assert_eq!(
        hex(&row.head),
        "0101d0070000000000009401018403000000000000b6030000000000000700000000000000dc0500000000\
         000032000000040c636f6e74656e742d7479706509746578742f68746d6c046c696e6b043c2f613e046c69\
         6e6b043c2f623e07782d627974657304636166e90206616363657074010707070707070707070707070707\
         070703646e740002016102\
         00ff0900000000000000020300000000000000030000000000000005000000000000000700000000000000d96c6408"
    );
    assert_eq!(hex(&row.value.to_bytes()), "68656c6c6f0500000001f2032c6f");
    let windows = StoredHead {
        stale_while_revalidate_ms: Some(1_500),
        stale_if_error_ms: Some(0),
        ..sample()
    };
    let row = encode(&entry(windows, b"hello"), &zlib(), NOW).unwrap();
    let (flags, end) = (&row.head[12], &row.head[row.head.len() - 20..row.head.len() - 4]);
    assert_eq!((*flags, hex(end).as_str()), (7, "dc050000000000000000000000000000"));
    let row = encode(&variants(), &zlib(), NOW).unwrap();
    assert_eq!((row.value_type, row.value.len()), ("v", 0));
    assert_eq!(
        hex(&row.head),
        "0102d007000000000000020661636365707408782d74656e616e74010909090909090909090909090909090901096b65792d6f72646572908a29a4"
    );
}

#[test]
fn columns_say_what_people_ask_for() {
    let row = encode(&entry(sample(), &[b'x'; 500]), &zlib(), NOW).unwrap();
    assert_eq!(row.value_type, "R");
    assert_eq!((row.status, row.gen_ms), (Some(404), Some(50)));
    assert_eq!((row.born_ms, row.fresh_until_ms), (950, Some(1_500)));
    assert_eq!(row.size as usize, row.key.len() + row.head.len() + row.value.len());
    let index = encode(&variants(), &zlib(), NOW).unwrap();
    assert_eq!((index.born_ms, index.status), (NOW, None));
}

#[test]
fn every_flipped_bit_is_found() {
    for (entry, row) in sample_rows() {
        let head = row.head.clone().unwrap();
        for (at, bit) in (0..head.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bad = head.to_vec();
            bad[at] ^= 1 << bit;
            let bad = RawRow { head: Some(bad.into()), ..row.clone() };
            assert_eq!(read(&entry.key, bad, NOW), Reading::Unreadable, "head {at}.{bit}");
        }
        for (at, bit) in (0..row.value.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bad = row.value.to_vec();
            bad[at] ^= 1 << bit;
            let bad = RawRow { value: bad.into(), ..row.clone() };
            assert_eq!(read(&entry.key, bad, NOW), Reading::Unreadable, "value {at}.{bit}");
        }
        for bit in 0..8 {
            let bad = RawRow { value_type: row.value_type ^ (1 << bit), ..row.clone() };
            assert_eq!(read(&entry.key, bad, NOW), Reading::Unreadable, "type {bit}");
        }
    }
}

#[test]
fn every_truncation_and_every_tail_is_found() {
    for (entry, row) in sample_rows() {
        let head = row.head.clone().unwrap();
        for len in 0..head.len() {
            let bad = RawRow { head: Some(head.slice(..len)), ..row.clone() };
            assert_eq!(read(&entry.key, bad, NOW), Reading::Unreadable, "head of {len}");
        }
        for len in 0..row.value.len() {
            let bad = RawRow { value: row.value.slice(..len), ..row.clone() };
            assert_eq!(read(&entry.key, bad, NOW), Reading::Unreadable, "value of {len}");
        }
        let longer = |bytes: &Bytes| Bytes::from([bytes, &[0][..]].concat());
        let bad = RawRow { head: Some(longer(&head)), ..row.clone() };
        assert_eq!(read(&entry.key, bad, NOW), Reading::Unreadable);
        let bad = RawRow { value: longer(&row.value), ..row.clone() };
        assert_eq!(read(&entry.key, bad, NOW), Reading::Unreadable);
        let bad = RawRow { head: None, ..row };
        assert_eq!(read(&entry.key, bad, NOW), Reading::Unreadable);
    }
}

/// A head with a correct checksum over these fields.
fn sealed(key: &CacheKey, fields: &[u8]) -> Bytes {
    let crc = wire::crc32(&[key.as_bytes(), fields]);
    Bytes::from([fields, &crc.to_le_bytes()].concat())
}

#[test]
fn an_unknown_version_and_wrong_fields_are_unreadable_even_with_a_right_checksum() {
    let entry = entry(sample(), b"short");
    let row = raw(&encode(&entry, &zlib(), NOW).unwrap());
    let head = row.head.clone().unwrap();
    let fields = &head[..head.len() - 4];
    let with = |fields: &[u8]| {
        let bad = RawRow { head: Some(sealed(&entry.key, fields)), ..row.clone() };
        read(&entry.key, bad, NOW)
    };
    assert!(matches!(with(fields), Reading::Found(_)));
    // version, kind, status, flags, number of fields, first letter of a name
    for (at, value) in [(0, 2), (0, 0), (1, 3), (11, 0xff), (12, 2), (49, 0x7f), (51, b'C')] {
        let mut bad = fields.to_vec();
        assert_ne!(bad[at], value);
        bad[at] = value;
        assert_eq!(with(&bad), Reading::Unreadable, "{at}: {value}");
    }
    assert_eq!(with(&[fields, &[0]].concat()), Reading::Unreadable, "something after the end");
    for len in 0..fields.len() {
        assert_eq!(with(&fields[..len]), Reading::Unreadable, "cut at {len}");
    }
}

#[test]
fn any_change_under_a_right_checksum_is_read_without_a_panic() {
    let entry = entry(sample(), b"short");
    let row = raw(&encode(&entry, &zlib(), NOW).unwrap());
    let head = row.head.clone().unwrap();
    let fields = &head[..head.len() - 4];
    for at in 0..fields.len() {
        for value in 0..=255 {
            let mut bad = fields.to_vec();
            bad[at] = value;
            let bad = RawRow { head: Some(sealed(&entry.key, &bad)), ..row.clone() };
            let _ = read(&entry.key, bad, NOW);
        }
    }
}

#[test]
fn another_keys_row_is_absent_and_its_columns_are_unreadable() {
    let entry = entry(sample(), b"short");
    let row = raw(&encode(&entry, &zlib(), NOW).unwrap());
    let other = CacheKey::new("p:1:/y http://h");
    assert_eq!(read(&other, row.clone(), NOW), Reading::Absent);
    let moved = RawRow { key: other.to_bytes(), ..row };
    assert_eq!(read(&other, moved, NOW), Reading::Unreadable);
}

#[test]
fn the_moment_of_expiry_is_dead_and_the_column_only_shortens() {
    let entry = entry(sample(), b"short");
    let row = raw(&encode(&entry, &zlib(), NOW).unwrap());
    assert!(matches!(read(&entry.key, row.clone(), EXPIRES - 1), Reading::Found(_)));
    assert_eq!(read(&entry.key, row.clone(), EXPIRES), Reading::Absent);
    let longer = RawRow { expires_ms: u64::MAX, ..row.clone() };
    assert_eq!(read(&entry.key, longer, EXPIRES), Reading::Absent);
    let shorter = RawRow { expires_ms: 0, ..row };
    assert_eq!(read(&entry.key, shorter, NOW), Reading::Absent);
}

#[test]
fn a_new_head_goes_with_the_old_body() {
    let entry = entry(sample(), b"short");
    let row = raw(&encode(&entry, &zlib(), NOW).unwrap());
    let fresher = StoredHead { received_ms: 1_900, ..sample() };
    let head = encode_head(&entry.key, &fresher, 3_000).unwrap();
    let row = RawRow { head: Some(head.into()), expires_ms: 3_000, ..row };
    let Reading::Found(Stored::Response(found)) = read(&entry.key, row, EXPIRES) else {
        panic!("not found");
    };
    assert_eq!((&*found.head, &found.body[..]), (&fresher, &b"short"[..]));
}

prop_compose! {
    fn any_head()(
        status in 100_u16..1000,
        fields in prop::collection::vec(("[a-z][a-z0-9-]{0,20}", "[ -~\u{80}-\u{ff}]{0,40}"), 0..40),
        times: [u64; 4],
        gen_ms: u32,
        shared: bool,
        vary in prop::collection::vec(("[a-z]{1,20}", any::<Option<[u8; 16]>>()), 0..5),
        tags: Vec<Vec<u8>>,
        largest: u64,
        gaps in prop::collection::vec(any::<(u64, u64)>(), 0..=64),
        windows: [Option<u64>; 2],
    ) -> StoredHead {
        let header = |(name, value): (String, String)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.into_iter().map(header) {
            headers.append(name, value);
        }
        let [requested_ms, received_ms, initial_age_ms, fresh_until_ms] = times;
        StoredHead {
            status: StatusCode::from_u16(status).unwrap(),
            headers, requested_ms, received_ms, initial_age_ms, fresh_until_ms, gen_ms, shared,
            vary: vary
                .into_iter()
                .map(|(name, value)| SelectingField { name: name.parse().unwrap(), value })
                .collect(),
            tags: tags.into_iter().map(Tag::new).collect(),
            position: LogPosition { largest, gaps },
            stale_while_revalidate_ms: windows[0],
            stale_if_error_ms: windows[1],
        }
    }
}

proptest! {
    #[test]
    fn any_response_comes_back(head in any_head(), body: Vec<u8>) {
        let entry = entry(head, &body);
        let row = encode(&entry, &zlib(), NOW).unwrap();
        prop_assert_eq!(read(&entry.key, raw(&row), NOW), Reading::Found(entry.stored));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(head: Vec<u8>, value: Vec<u8>, value_type: u8) {
        let key = CacheKey::new("p:1:/x");
        let row = RawRow {
            key: key.to_bytes(),
            value_type,
            expires_ms: EXPIRES,
            head: Some(sealed(&key, &head)),
            value: value.into(),
        };
        prop_assert_eq!(read(&key, row, NOW), Reading::Unreadable);
    }
}
