//! Which of several stored responses is selected, and what the handler and the client get, seen from outside: `Vary`,
//! content codings, conditions.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tower_mysql_cache::CachePolicy;
use tower_mysql_cache::status::Forward;

use crate::kit::{Kit, cached, gated, get, on_every_store, patient, response, scripted, send};

const FRESH: (&str, &str) = ("cache-control", "max-age=600");
const STALE: (&str, &str) = ("cache-control", "max-age=0");
const ETAG: (&str, &str) = ("etag", "\"1\"");

fn date(seconds_ago: u64) -> String {
    httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds_ago))
}

/// Whether the second of two requests gets the response to the first. Each request has these lines of fields, and the
/// response has these lines of `Vary`.
async fn alike(
    kit: &Kit,
    uri: &str,
    vary: &[&str],
    one: &[(&str, &str)],
    other: &[(&str, &str)],
) -> bool {
    let vary: Vec<_> = vary.iter().map(|line| (*line).to_owned()).collect();
    let (app, _) = cached(&kit.layer(), move |_| {
        let mut fields = vec![FRESH];
        fields.extend(vary.iter().map(|line| ("vary", line.as_str())));
        response(200, &fields, "x")
    });
    send(&app, get(uri, one)).await;
    send(&app, get(uri, other)).await.is_hit()
}

on_every_store! {
    // RFC 9111 4.1, RFC 9110 12.5.5: one list, without order, over all lines
    async fn vary_is_one_list_and_its_order_does_not_matter(kit: Kit) {
        let ab = [("x-a", "1"), ("x-b", "2")];
        let cases: [(&[&str], &[(&str, &str)], bool); 9] = [
            (&["x-a, x-b"], &[("x-b", "2"), ("x-a", "1")], true),
            (&["X-B,x-a"], &ab, true),
            (&["x-a", "x-b"], &[("x-a", "1"), ("x-b", "3")], false),
            (&["x-b", ",, ,x-a,"], &[("x-a", "2"), ("x-b", "2")], false),
            (&["x-a, x-a", "X-A"], &[("x-a", "1")], true),
            (&["", ","], &[], true),
            (&["x-a, *"], &ab, false),
            (&[",*"], &ab, false),
            // not a field name: the cache cannot know what the response varies on
            (&["x-a, \"x b\""], &ab, false),
        ];
        for (i, (vary, other, expected)) in cases.into_iter().enumerate() {
            let found = alike(&kit, &format!("/{i}"), vary, &ab, other).await;
            assert_eq!(found, expected, "{vary:?} {other:?}");
        }
    }

    // RFC 9111 4.1, RFC 9110 5.3, 12.5
    async fn values_are_compared_by_their_syntax(kit: Kit) {
        let cases: [(&str, &[&str], &[&str], bool); 22] = [
            ("x-a", &["1, 2"], &["1,\t 2"], true),
            ("x-a", &["1", "2"], &["1, 2"], true),
            ("x-a", &["1, 2"], &["2, 1"], false),
            ("x-a", &["a"], &["A"], false),
            ("x-a", &["\"1, 2\""], &["\"1,2\""], false),
            ("x-a", &["1"], &[], false),
            ("x-a", &[""], &[], false),
            ("accept-encoding", &["gzip, br"], &["BR,GZip;q=1.000"], true),
            ("accept-encoding", &["gzip;q=0.5"], &["gzip ; Q=0.50"], true),
            ("accept-encoding", &["gzip"], &["gzip;q=0"], false),
            ("accept-encoding", &["gzip;q=0.001"], &["gzip;q=0"], false),
            ("accept-encoding", &["gzip"], &["gzip, br"], false),
            ("accept-encoding", &["gzip"], &["*"], false),
            ("accept-encoding", &[""], &[], false),
            ("accept-language", &["de, en;q=0.8"], &["EN;q=0.8 , de"], true),
            ("accept-language", &["de", "en"], &["en,,de"], true),
            ("accept-language", &["de-AT"], &["de"], false),
            ("accept", &["text/html;level=1"], &["Text/HTML; level=1"], true),
            ("accept", &["text/html;level=1"], &["text/html;level=2"], false),
            ("user-agent", &["a,  b"], &["a, b"], false),
            ("referer", &["http://h/a,b"], &["http://h/a, b"], false),
            ("accept-encoding", &["gzip;q=2"], &["gzip"], false),
        ];
        for (i, (name, one, other, expected)) in cases.into_iter().enumerate() {
            let fields = |lines: &[&'static str]| lines.iter().map(|line| (name, *line)).collect::<Vec<_>>();
            let found = alike(&kit, &format!("/{i}"), &[name], &fields(one), &fields(other)).await;
            assert_eq!(found, expected, "{name}: {one:?} {other:?}");
        }
    }

    // RFC 9111 4, 4.1: two processes, one of which learns late what the target varies on
    async fn of_two_matching_variants_the_newest_date_answers(kit: Kit) {
        for (uri, first_ago, second_ago, expected) in [("/new", 300, 100, "second"), ("/old", 100, 300, "first")] {
            let (first, second) = (date(first_ago), date(second_ago));
            let here = kit.layer();
            let (here_app, calls) = cached(&here, move |_| {
                response(200, &[FRESH, ("vary", "x-a"), ("date", &first)], "first")
            });
            let asked = [("x-a", "1"), ("x-b", "1")];
            send(&here_app, get(uri, &asked)).await;
            kit.settle(&here.handle()).await;
            let there = patient(kit.neighbour().await).with_policy(CachePolicy::rfc9111());
            let (there_app, _) = cached(&there, move |_| {
                response(200, &[FRESH, ("vary", "x-b"), ("date", &second)], "second")
            });
            let again = [asked[0], asked[1], ("cache-control", "no-cache")];
            assert_eq!(send(&there_app, get(uri, &again)).await.text(), "second");
            kit.settle(&there.handle()).await;
            let found = send(&here_app, get(uri, &asked)).await;
            // a front is a cache too: it serves what it has, if that is fresh and valid
            let expected = if kit.has_front { "first" } else { expected };
            assert_eq!((found.is_hit(), found.text()), (true, expected), "{uri}");
            assert_eq!(calls.count(), 1);
        }
    }

    // RFC 9111 4.1: a response without Vary is not selected if there are variants, even if it is newer
    async fn a_variant_is_preferred_to_a_response_without_vary(kit: Kit) {
        let uri = "/sometimes";
        let (older, newer) = (date(300), date(0));
        let here = kit.layer();
        let (here_app, _) = cached(&here, move |_| {
            response(200, &[FRESH, ("vary", "x-a"), ("date", &older)], "for 1")
        });
        let there = patient(kit.neighbour().await);
        let (app, _, gate) = gated(&there, move |_, _| {
            Ok(response(200, &[FRESH, ("date", &newer)], "for all"))
        });
        // while the handler runs, the other process learns that the target varies
        let meanwhile = async {
            gate.arrival().await;
            send(&here_app, get(uri, &[("x-a", "1")])).await;
            here.handle().flush().await.unwrap();
            gate.let_pass(1);
        };
        let (made, ()) = tokio::join!(send(&app, get(uri, &[("x-a", "2")])), meanwhile);
        assert_eq!(made.text(), "for all");
        there.handle().flush().await.unwrap();
        let found = send(&here_app, get(uri, &[("x-a", "1")])).await;
        assert_eq!((found.is_hit(), found.text()), (true, "for 1"));
    }

    // RFC 9110 12.5.3: even if the handler does not send Vary
    async fn no_client_gets_a_coding_that_it_did_not_accept(kit: Kit) {
        for (path, vary) in [("/says", "Accept-Encoding"), ("/forgets", "x-other")] {
            let (app, calls) = cached(&kit.layer(), move |request| {
                let wanted = request.headers().get("accept-encoding").map_or("", |v| v.to_str().unwrap());
                let wanted = wanted.to_ascii_lowercase();
                match wanted.contains("br") && !wanted.contains("br;q=0") {
                    true => response(200, &[FRESH, ("vary", vary), ("content-encoding", "br")], "\x1b\x04"),
                    false => response(200, &[FRESH, ("vary", vary)], "plain"),
                }
            });
            let clients: [(&[(&str, &str)], bool); 8] = [
                (&[("accept-encoding", "br")], true),
                (&[], false),
                (&[("accept-encoding", "gzip, BR")], true),
                (&[("accept-encoding", "gzip, br;q=0")], false),
                (&[("accept-encoding", "identity")], false),
                (&[("accept-encoding", "")], false),
                (&[("accept-encoding", "gzip"), ("accept-encoding", "br")], true),
                (&[("accept-encoding", "*;q=0")], false),
            ];
            for round in 0..2 {
                for (fields, coded) in clients {
                    let answer = send(&app, get(path, fields)).await;
                    if !coded {
                        assert_eq!(answer.field("content-encoding"), "", "{path} {round} {fields:?}");
                        assert_eq!(answer.text(), "plain");
                    } else if answer.field("content-encoding") == "br" {
                        assert_eq!(answer.text(), "\x1b\x04", "the bytes are the handler's");
                    }
                }
            }
            assert!(calls.count() <= clients.len(), "{path}: the second round comes out of the store");
        }
    }

    // RFC 9111 4.3.1
    async fn a_revalidation_has_the_fields_that_vary_names(kit: Kit) {
        let (app, seen) = scripted(&kit.layer(), vec![
            (200, vec![STALE, ETAG, ("vary", "x-a, Accept-Language")], "x"),
            (304, vec![ETAG], ""),
        ]);
        let asked = [("x-a", "1"), ("x-a", "2"), ("accept-language", "de;q=0.5, EN")];
        send(&app, get("/", &asked)).await;
        let validated = send(&app, get("/", &asked)).await;
        assert_eq!(validated.field("cache-status"), "test; fwd=stale; fwd-status=304");
        let asked = seen.fields(1);
        assert_eq!(asked["if-none-match"], "\"1\"");
        assert_eq!(asked.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(asked["accept-language"], "de;q=0.5, EN");
        // a request for another variant does not revalidate this one
        let other = send(&app, get("/", &[("x-a", "3")])).await;
        assert_eq!(other.cache().forward(), Some(Forward::VaryMiss));
    }

    // RFC 9111 4.3.2
    async fn without_last_modified_the_stored_date_is_compared(kit: Kit) {
        let made = date(1_000);
        let stored = made.clone();
        let (app, calls) = cached(&kit.layer(), move |_| {
            response(200, &[("cache-control", "max-age=50000"), ("date", &stored)], "x")
        });
        send(&app, get("/", &[])).await;
        let [later, earlier] = [date(900), date(1_100)];
        for (since, status) in [
            (made.as_str(), StatusCode::NOT_MODIFIED),
            (&later, StatusCode::NOT_MODIFIED),
            (&earlier, StatusCode::OK),
            ("0", StatusCode::OK),
        ] {
            let answer = send(&app, get("/", &[("if-modified-since", since)])).await;
            assert_eq!((answer.status, answer.is_hit()), (status, true), "{since}");
        }
        assert_eq!(calls.count(), 1);
    }

    // RFC 9110 13.2.1
    async fn conditions_are_ignored_for_unsuccessful_responses(kit: Kit) {
        for status in [301, 404, 410, 500, 503] {
            let modified = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
            let (app, calls) = cached(&kit.layer(), move |_| response(status, &[FRESH, ETAG, modified], "gone"));
            let uri = format!("/{status}");
            for condition in [
                ("if-none-match", "\"1\""),
                ("if-none-match", "*"),
                ("if-modified-since", "Sun Nov  6 08:49:37 1994"),
                ("range", "bytes=0-1"),
            ] {
                let answer = send(&app, get(&uri, &[condition])).await;
                assert_eq!((answer.status.as_u16(), answer.text()), (status, "gone"), "{condition:?}");
            }
            assert_eq!(calls.count(), 1);
        }
    }
}
