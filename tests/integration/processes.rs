//! Several processes of one application on one database.

use std::error::Error;
use std::process::Command;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::support::{self, Process, eventually, example, number};

fn start(command: &mut Command, database: &str) -> Process {
    Process::start(command.env("DATABASE_URL", database).env("LISTEN", "127.0.0.1:0"))
}

async fn ask(process: &Process, method: &str, path: &str) -> (String, String) {
    request(format!("{}{path}", process.address), method).await.unwrap()
}

async fn request(
    uri: String,
    method: &str,
) -> Result<(String, String), Box<dyn Error + Send + Sync>> {
    // like a load balancer: one name for all processes
    let request = Request::builder().method(method).uri(uri).header("host", "shop.example");
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.headers()["cache-status"].to_str()?.to_owned();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_entries_and_invalidations() {
    let database = support::database().await;
    let (one, two) = tokio::task::block_in_place(|| {
        let one = || start(&mut Command::new(example("axum")), database.url());
        (one(), one())
    });
    let (status, body) = ask(&one, "GET", "/products/7").await;
    assert_eq!((status.as_str(), body.as_str()), ("shop; fwd=uri-miss; stored", "product 7"));
    // the write continues after the response, so the other process sees it when the row is in the table
    let mut connection = database.connection().await;
    eventually("it is written", async || {
        number(&mut connection, "SELECT COUNT(*) FROM cache_entries").await > 0
    })
    .await;
    let (status, body) = ask(&two, "GET", "/products/7").await;
    assert!(status.starts_with("shop; hit; ttl="), "{status}");
    assert_eq!(body, "product 7");

    let (status, _) = ask(&two, "PUT", "/products/7").await;
    assert_eq!(status, "shop; fwd=method");
    let (status, _) = ask(&one, "GET", "/products/7").await;
    assert!(status.starts_with("shop; fwd=stale"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_the_leading_process_is_killed_another_leads() {
    let database = support::database().await;
    let start = |seconds| {
        let mut command = Command::new(example("cluster"));
        self::start(command.env("SECONDS", seconds), database.url())
    };
    let (one, two, three) = tokio::task::block_in_place(|| (start("600"), start("1"), start("1")));
    let leading = tokio::spawn(request(format!("{}/report", one.address), "GET"));
    let mut connection = database.connection().await;
    eventually("it has the lease", async || {
        number(&mut connection, "SELECT COUNT(*) FROM cache_leases").await > 0
    })
    .await;
    let killed = std::time::Instant::now();
    drop(one); // SIGKILL
    assert!(leading.await.unwrap().is_err());
    let (second, third) = tokio::join!(ask(&two, "GET", "/report"), ask(&three, "GET", "/report"));
    let waited = killed.elapsed();
    assert_eq!(second.1, third.1, "one of them made it for both");
    let made = [&second.0, &third.0].into_iter().filter(|status| status.contains("stored"));
    assert_eq!(made.count(), 1, "{second:?} {third:?}");
    // three seconds for the lease, one for the handler, and the time between two lease requests
    assert!(waited < std::time::Duration::from_secs(15), "{waited:?}");
    assert!(waited > std::time::Duration::from_secs(2), "it waited for the lease: {waited:?}");
}
