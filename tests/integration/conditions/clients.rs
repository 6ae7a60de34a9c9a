//! Conditions of clients: who answers them.

use super::*;

on_every_store! {
    async fn a_client_with_the_stored_response_gets_a_304(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |_| {
            response(200, &[FRESH, ETAG, MODIFIED, ("vary", "x"), ("content-type", "text/plain")], "hello")
        });
        with(&app, &[]).await;
        for condition in [
            ("if-none-match", "\"1\""),
            ("if-none-match", "W/\"1\""),
            ("if-none-match", "\"0\", \"1\" , \"2\""),
            ("if-none-match", "*"),
            ("if-modified-since", "Tue, 15 Nov 1994 12:45:26 GMT"),
            ("if-modified-since", "Wednesday, 16-Nov-94 12:45:26 GMT"),
        ] {
            for method in ["GET", "HEAD"] {
                let answer = send(&app, request(method, "/", &[condition])).await;
                assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{condition:?}");
                assert!(answer.is_hit() && answer.body.is_empty());
                for name in ["cache-control", "date", "etag", "vary"] {
                    assert!(!answer.field(name).is_empty(), "{name}");
                }
                for name in ["content-length", "content-type"] {
                    assert_eq!(answer.field(name), "", "{name}");
                }
            }
        }
        for fields in [
            &[("if-none-match", "\"2\"")][..],
            &[("if-none-match", "\"2\""), ("if-modified-since", "Tue, 15 Nov 1994 12:45:26 GMT")],
            &[("if-modified-since", "Mon, 14 Nov 1994 12:45:26 GMT")],
            &[("if-modified-since", "yesterday")],
        ] {
            let answer = with(&app, fields).await;
            assert_eq!((answer.status, answer.text(), answer.is_hit()), (StatusCode::OK, "hello", true));
        }
        assert_eq!(calls.count(), 1);
    }

    async fn if_match_and_if_unmodified_since_reach_the_handler(kit: Kit) {
        let (app, seen) = scripted(&kit.layer(), vec![(200, vec![FRESH, ETAG], "x"), (412, vec![], "")]);
        with(&app, &[]).await;
        for condition in [("if-match", "\"9\""), ("if-unmodified-since", "Tue, 15 Nov 1994 12:45:26 GMT")] {
            let answer = with(&app, &[condition]).await;
            assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
            assert_eq!(answer.cache().forward(), Some(Forward::Request));
            assert_eq!(seen.last().headers[condition.0], condition.1);
        }
    }

    async fn a_first_conditional_request_fills_the_cache(kit: Kit) {
        let (app, seen) = scripted(&kit.layer(), vec![(200, vec![FRESH, ETAG], "0123456789")]);
        let first = with(&app, &[("if-none-match", "\"1\"")]).await;
        assert_eq!((first.status, first.body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(first.field("cache-status"), "test; fwd=uri-miss; fwd-status=200; stored");
        assert!(!seen.fields(0).contains_key("if-none-match"));
        let range = send(&app, get("/other", &[("range", "bytes=2-3")])).await;
        assert_eq!((range.status, range.text()), (StatusCode::PARTIAL_CONTENT, "23"));
        assert_eq!(range.field("content-range"), "bytes 2-3/10");
        assert!(with(&app, &[]).await.is_hit());
        assert!(send(&app, get("/other", &[])).await.is_hit());
    }

    async fn a_client_with_an_unstorable_response_gets_a_304_too(kit: Kit) {
        let layer = kit.layer();
        let (app, seen) = scripted(&layer, vec![(200, vec![("cache-control", "no-store"), ETAG], "x")]);
        let first = with(&app, &[("if-none-match", "\"1\"")]).await;
        assert_eq!((first.status, first.body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(first.field("cache-status"), "test; fwd=uri-miss; fwd-status=200");
        // from now on, the handler gets the conditions, because it may answer them faster
        with(&app, &[("if-none-match", "\"1\""), ("range", "bytes=0-1")]).await;
        let asked = seen.fields(1);
        assert!(asked.contains_key("if-none-match") && asked.contains_key("range"));
    }

    async fn requests_that_cannot_fill_keep_their_conditions(kit: Kit) {
        let (app, seen) = scripted(&kit.layer(), vec![(200, vec![FRESH], "page")]);
        for (name, value) in [("range", "bytes=0-1"), ("if-none-match", "\"1\"")] {
            for credentials in [("cookie", "sid=1"), ("authorization", "Bearer x")] {
                with(&app, &[(name, value), credentials]).await;
                assert!(seen.last().headers.contains_key(name), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_validator_an_unstored_response_is_never_a_304() {
    let (app, _) = cached(&in_memory(), |_| response(200, &[("cache-control", "no-store")], "x"));
    let answer =
        send(&app, get("/", &[("if-modified-since", "Tue, 15 Nov 2033 12:45:26 GMT")])).await;
    assert_eq!(answer.status, 200);
}
