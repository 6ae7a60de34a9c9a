//! Many requests in several processes.

use super::*;

/// Waits until the others have been refused the lease, and the process that has it has called the handler: this is the
/// only new call.
async fn one_leads(layers: &[CacheLayer<MySqlStore>], refused: u64, calls: &Calls, made: usize) {
    eventually("the others are refused the lease", async || {
        layers.iter().map(|layer| layer.handle().counts().lease_waits).sum::<u64>() >= refused
    })
    .await;
    eventually("the handler is called", async || calls.count() >= made).await;
    assert_eq!(calls.count(), made, "one call for all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_three_processes_cause_one_handler_call() {
    let database = migrated().await;
    let (calls, gate) = gate(0);
    let (mut layers, mut waiting) = (Vec::new(), Crowd::new());
    for _ in 0..3 {
        let layer = layer(store(&database).await, CLUSTER.collapse_wait(30 * SECOND));
        let app = app(&layer, &calls, &gate, |_| response(200, &[FRESH], "hello"));
        waiting.send(&app, requests(100));
        layers.push(layer);
    }
    one_leads(&layers, 6, &calls, 1).await;
    gate.let_pass(300);
    let answers = waiting.answers().await;
    assert_eq!(calls.count(), 1);
    assert!(answers.iter().all(|answer| answer.text() == "hello"));
    let counts: Vec<_> = layers.iter().map(|layer| layer.handle().counts()).collect();
    assert_eq!(counts.iter().map(|counts| counts.misses).sum::<u64>(), 1);
    assert_eq!(counts.iter().map(|counts| counts.collapse_timeouts).sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unshareable_response_releases_followers_everywhere() {
    let database = migrated().await;
    let (calls, gate) = gate(0);
    let (mut layers, mut waiting) = (Vec::new(), Crowd::new());
    for _ in 0..3 {
        let layer = layer(store(&database).await, CLUSTER.collapse_wait(30 * SECOND));
        let private =
            |call: usize| response(200, &[("cache-control", "private")], &call.to_string());
        waiting.send(&app(&layer, &calls, &gate, private), requests(10));
        layers.push(layer);
    }
    one_leads(&layers, 2, &calls, 1).await;
    gate.let_pass(1);
    eventually("the handler runs for all of them", async || calls.count() == 30).await;
    gate.let_pass(29);
    let mut seen: Vec<usize> =
        waiting.answers().await.iter().map(|answer| answer.text().parse().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=30).collect::<Vec<_>>(), "each got its own");
    // a process that does not know of it yet does not wait either
    let other = layer(store(&database).await, CLUSTER);
    gate.let_pass(1);
    let app = self::app(&other, &calls, &gate, |_| response(200, &[FRESH], "x"));
    let answer = send(&app, get("/", &[]));
    assert_eq!(answer.await.text(), "x");
    assert_eq!(other.handle().counts().leases, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_handler_is_called_twice_per_process() {
    let database = migrated().await;
    let (calls, gate) = gate(0);
    let (mut layers, mut apps, mut waiting) = (Vec::new(), Vec::new(), Crowd::new());
    let is_up = Arc::new(AtomicBool::new(false));
    for _ in 0..3 {
        let layer = layer(store(&database).await, CLUSTER.collapse_wait(30 * SECOND));
        let up = Arc::clone(&is_up);
        let app = app(&layer, &calls, &gate, move |_| match up.load(Ordering::SeqCst) {
            false => response(503, &[], "down"),
            true => response(200, &[FRESH], "up"),
        });
        waiting.send(&app, requests(10));
        apps.push(app);
        layers.push(layer);
    }
    one_leads(&layers, 2, &calls, 1).await;
    gate.let_pass(200);
    assert!(waiting.answers().await.iter().all(|answer| answer.text() == "down"));
    let before = calls.count();
    assert!(before <= 12, "{before} calls");
    // the key is not marked as unshareable
    is_up.store(true, Ordering::SeqCst);
    let mut waiting = Crowd::new();
    apps.iter().for_each(|app| waiting.send(app, requests(10)));
    assert!(waiting.answers().await.iter().all(|answer| answer.text() == "up"));
    assert_eq!(calls.count() - before, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gets_the_response_of_another_process() {
    let database = migrated().await;
    let policy = CLUSTER.lease(SECOND).collapse_wait(30 * SECOND);
    let slow = layer(store(&database).await, policy);
    let body = || {
        // a client that does not read an endless body
        let stream = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        Response::builder()
            .header(FRESH.0, FRESH.1)
            .header("content-length", "3")
            .body(StreamBody::new(stream))
    };
    let calls = Calls::default();
    let counted = calls.clone();
    let first = slow.layer(tower::service_fn(move |_: Request<()>| {
        counted.add();
        async move { Ok::<_, Infallible>(body().unwrap()) }
    }));
    let _leads = first.clone().oneshot(get("/", &[])).await.unwrap();
    let (others, gate) = gate(0);
    let other = layer(store(&database).await, policy);
    let second = app(&other, &others, &gate, |_| response(200, &[FRESH], "new"));
    let waiting = start(&second, 1);
    eventually("the lease has passed on", async || others.count() == 1).await;
    let follower = tokio::spawn(async move { send(&first, get("/", &[])).await });
    eventually("it is denied", async || slow.handle().counts().lease_waits > 0).await;
    gate.let_pass(1);
    assert_eq!(waiting.answers().await[0].text(), "new");
    let answer = tokio::time::timeout(20 * SECOND, follower).await.expect("soon").unwrap();
    assert_eq!((answer.text(), calls.count() + others.count()), ("new", 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_anonymous_clients_have_separate_leases() {
    let database = migrated().await;
    let (calls, gate) = gate(0);
    let policy = CLUSTER.cookies(tower_mysql_cache::Cookies::Bypass).collapse_wait(30 * SECOND);
    let (one, two) = (layer(store(&database).await, policy), layer(store(&database).await, policy));
    let who = |layer: &CacheLayer<MySqlStore>| {
        gated_by(layer, &calls, &gate, |_, request| {
            let who = request.headers().get("cookie").map_or("all", |who| who.to_str().unwrap());
            Ok(response(200, &[FRESH], who))
        })
    };
    let (first, second) = (who(&one), who(&two));
    let mut waiting = Crowd::new();
    waiting.send(&first, [get("/", &[("cookie", "s=1")])]);
    eventually("the handler is called", async || calls.count() == 1).await;
    // the public page does not wait for it
    waiting.send(&second, requests(1));
    eventually("both handlers are called", async || calls.count() == 2).await;
    waiting.send(&second, [get("/", &[("cookie", "s=2")])]);
    waiting.send(&first, requests(1));
    gate.let_pass(100);
    let texts: Vec<String> =
        waiting.answers().await.iter().map(|answer| answer.text().to_owned()).collect();
    assert_eq!(texts, ["s=1", "all", "s=2", "all"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_refreshes_a_page_that_all_serve_stale() {
    let database = migrated().await;
    let (calls, gate) = gate(1);
    let policy = CLUSTER.stale_while_revalidate(60 * SECOND);
    let (mut layers, mut apps) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let layer = layer(store(&database).await, policy);
        apps.push(app(&layer, &calls, &gate, move |call| {
            // the first one is stale at once
            let age = if call == 1 { "70" } else { "0" };
            response(200, &[FRESH, ("age", age)], &call.to_string())
        }));
        layers.push(layer);
    }
    send(&apps[0], get("/", &[])).await;
    layers[0].handle().flush().await.unwrap();
    let first = calls.count();
    for app in apps.iter().chain(&apps) {
        let answer = send(app, get("/", &[])).await;
        assert!(answer.is_hit(), "{:?}", answer.cache());
    }
    one_leads(&layers, 2, &calls, first + 1).await;
    gate.let_pass(10);
    eventually("all serve what is new", async || {
        let mut texts = Vec::new();
        for app in &apps {
            texts.push(send(app, get("/", &[])).await.text().to_owned());
        }
        texts.iter().all(|text| *text != first.to_string())
    })
    .await;
}
