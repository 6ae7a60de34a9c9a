//! Parts of stored responses, and heads without their bodies.

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;

use super::*;

on_every_store! {
    async fn ranges_are_served_from_a_stored_response(kit: Kit) {
        let (app, calls) = cached(&kit.layer(), |_| {
            response(200, &[FRESH, ETAG, ("content-type", "text/plain")], "0123456789")
        });
        with(&app, &[]).await;
        for (range, part, text) in [
            ("bytes=0-0", "bytes 0-0/10", "0"),
            ("bytes=2-4", "bytes 2-4/10", "234"),
            ("bytes=7-", "bytes 7-9/10", "789"),
            ("bytes=-3", "bytes 7-9/10", "789"),
            ("bytes=-99", "bytes 0-9/10", "0123456789"),
            ("bytes=8-99999999999999999999999", "bytes 8-9/10", "89"),
        ] {
            let answer = with(&app, &[("range", range)]).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::PARTIAL_CONTENT, text), "{range}");
            assert_eq!(answer.field("content-range"), part);
            assert_eq!(answer.field("content-length"), text.len().to_string());
            assert_eq!(answer.field("etag"), "\"1\"");
            assert!(answer.is_hit() && !answer.field("age").is_empty());
        }
        let beyond = with(&app, &[("range", "bytes=10-")]).await;
        assert_eq!((beyond.status, beyond.body.len()), (StatusCode::RANGE_NOT_SATISFIABLE, 0));
        assert_eq!(beyond.field("content-range"), "bytes */10");
        for fields in [
            &[("range", "lines=1-2")][..],
            &[("range", "bytes=5-2")],
            &[("range", "bytes=0-1"), ("if-range", "\"2\"")],
            &[("range", "bytes=0-1"), ("if-range", "W/\"1\"")],
            &[("if-range", "\"1\"")],
        ] {
            let whole = with(&app, fields).await;
            assert_eq!((whole.status, whole.text()), (StatusCode::OK, "0123456789"), "{fields:?}");
        }
        let cut = with(&app, &[("range", "bytes=0-1"), ("if-range", "\"1\"")]).await;
        assert_eq!((cut.status, cut.text()), (StatusCode::PARTIAL_CONTENT, "01"));
        let head = send(&app, request("HEAD", "/", &[("range", "bytes=0-1")])).await;
        assert_eq!((head.status, head.field("content-length").as_str()), (StatusCode::OK, "10"));
        assert_eq!(calls.count(), 1);
    }

    async fn several_ranges_are_served_as_multipart(kit: Kit) {
        let (app, _) = cached(&kit.layer(), |_| {
            response(200, &[FRESH, ("content-type", "text/plain")], "0123456789")
        });
        with(&app, &[]).await;
        let answer = with(&app, &[("range", "bytes=0-1, 5-5, -1")]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(answer.field("content-range"), "");
        let media = answer.field("content-type");
        let boundary = media.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let expected = [("bytes 0-1/10", "01"), ("bytes 5-5/10", "5"), ("bytes 9-9/10", "9")]
            .map(|(range, text)| format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: {range}\r\n\r\n{text}"));
        assert_eq!(answer.text(), format!("{}\r\n--{boundary}--\r\n", expected.concat()));
    }

    async fn a_part_has_no_digest_of_the_whole(kit: Kit) {
        let digest = ("content-digest", "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:");
        let repr = ("repr-digest", digest.1);
        let fields = vec![FRESH, digest, repr];
        let (app, _) = scripted(&kit.layer(), vec![(200, fields, "0123456789")]);
        with(&app, &[]).await;
        for range in ["bytes=0-1", "bytes=0-1,5-6", "bytes=90-"] {
            let part = with(&app, &[("range", range)]).await;
            assert!(part.status == 206 || part.status == 416);
            assert_eq!((part.field("content-digest"), part.field("repr-digest")), (String::new(), repr.1.to_owned()));
        }
        assert_eq!(with(&app, &[]).await.field("content-digest"), digest.1);
    }
}

/// Damages the body in the table, so that a response whose body is read is no hit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_is_read_only_if_it_is_needed() {
    let database = support::database().await;
    let store = MySqlStore::connect(database.url()).await.unwrap();
    store.migrate().await.unwrap();
    let layer = over(store).with_policy(MINUTE);
    let body: String =
        (0..200_000_u32).map(|n| char::from((n.wrapping_mul(2_654_435_761) >> 25) as u8)).collect();
    let length = body.len().to_string();
    let (app, calls) = cached(&layer, move |_| response(200, &[FRESH, ETAG, MODIFIED], &body));
    with(&app, &[]).await;
    layer.handle().flush().await.unwrap();
    let whole = with(&app, &[]).await;
    assert!(whole.is_hit());
    let mut connection = database.connection().await;
    let damage = "UPDATE cache_entries SET value = CONCAT('?', SUBSTRING(value, 2))";
    sqlx::query(damage).execute(&mut connection).await.unwrap();
    for condition in
        [("if-none-match", "\"1\""), ("if-modified-since", "Tue, 15 Nov 1994 12:45:26 GMT")]
    {
        let answer = with(&app, &[condition]).await;
        assert_eq!((answer.status, answer.is_hit()), (StatusCode::NOT_MODIFIED, true));
        assert_eq!((answer.field("etag"), answer.body.len()), ("\"1\"".to_owned(), 0));
        assert_eq!(answer.field("content-length"), "");
    }
    let head = send(&app, request("HEAD", "/", &[])).await;
    assert!(head.is_hit() && head.body.is_empty());
    assert_eq!(head.field("content-length"), length);
    for name in ["etag", "last-modified", "cache-control", "cache-status"] {
        let [head, whole] = [&head, &whole].map(|answer| answer.field(name));
        assert_eq!(head.split(';').next(), whole.split(';').next(), "{name}");
    }
    assert_eq!(calls.count(), 1);
    // a condition that does not hold needs the body, so the damage is noticed
    let answer = with(&app, &[("if-none-match", "\"2\"")]).await;
    assert_eq!((answer.status, answer.is_hit()), (StatusCode::OK, false));
    layer.handle().flush().await.unwrap();
    let answer = with(&app, &[("if-none-match", "\"2\"")]).await;
    assert!(answer.is_hit() && answer.body == whole.body, "it has been mended");
    // an invalid response is not served, with or without its body
    layer.handle().invalidate_uri("/").await.unwrap();
    assert!(!send(&app, request("HEAD", "/", &[])).await.is_hit());
    layer.handle().invalidate_uri("/").await.unwrap();
    assert!(!with(&app, &[("if-none-match", "\"1\"")]).await.is_hit());
}

#[tokio::test]
async fn stripped_cookies_reach_the_first_client_of_a_range() {
    let (app, _) = cached(&in_memory().with_policy(MINUTE.strip_set_cookies(&["seen"])), |_| {
        response(200, &[("set-cookie", "seen=1")], "0123")
    });
    assert_eq!(send(&app, get("/", &[("range", "bytes=0-1")])).await.field("set-cookie"), "seen=1");
}

#[tokio::test]
async fn an_unsatisfiable_range_has_no_lifetime() {
    let fields = [("cache-control", "public, max-age=86400"), ("content-encoding", "gzip")];
    let (app, _) = cached(&in_memory(), move |_| response(200, &fields, "0123"));
    send(&app, get("/", &[])).await;
    let answer = send(&app, get("/", &[("range", "bytes=99-")])).await;
    let kept = ["cache-control", "content-encoding"].map(|name| answer.field(name));
    assert_eq!((answer.status.as_u16(), kept), (416, [String::new(), String::new()]));
}

#[tokio::test]
async fn ranges_of_variants_over_the_limit_reach_the_handler() {
    let seen = Seen::default();
    let record = seen.clone();
    let layer = in_memory().with_policy(MINUTE.max_body_bytes(3));
    let app = layer.layer(tower::service_fn(move |request: Request<()>| {
        record.add(request);
        let parts = ["01", "23"].map(|part| Ok::<_, Infallible>(Frame::data(Bytes::from(part))));
        let body = StreamBody::new(futures_util::stream::iter(parts));
        let response = Response::builder().header("vary", "accept-encoding").body(body);
        async move { Ok::<_, Infallible>(response.unwrap()) }
    }));
    for _ in 0..2 {
        send(&app, get("/", &[("range", "bytes=0-0")])).await;
    }
    let asked = [0, 1].map(|request| seen.fields(request).contains_key("range"));
    assert_eq!(asked, [false, true]);
}
