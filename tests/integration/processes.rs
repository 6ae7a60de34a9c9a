//! Several processes of one application on one database.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::support::{self, eventually, number};

/// An example that runs as a process.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(database: &str) -> Self {
        Self::of(&mut Command::new(example("axum")), database)
    }

    fn of(command: &mut Command, database: &str) -> Self {
        let mut child = command
            .env("DATABASE_URL", database)
            .env("LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { child, address }
    }

    async fn request(&self, method: &str, path: &str) -> (String, String) {
        request(format!("{}{path}", self.address), method).await.unwrap()
    }
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

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of a built example; `cargo test` builds all examples.
fn example(name: &str) -> std::path::PathBuf {
    // target/<profile>/deps/<this test> is next to target/<profile>/examples/<name>
    let this = std::env::current_exe().unwrap();
    let path = this.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "the examples are not built: run `cargo build --examples` first");
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_entries_and_invalidations() {
    let database = support::database().await;
    let (one, two) = tokio::task::block_in_place(|| {
        (Process::start(database.url()), Process::start(database.url()))
    });
    let (status, body) = one.request("GET", "/products/7").await;
    assert_eq!((status.as_str(), body.as_str()), ("shop; fwd=uri-miss; stored", "product 7"));
    // the write continues after the response, so the other process sees it when the row is in the table
    let mut connection = database.connection().await;
    eventually("it is written", async || {
        number(&mut connection, "SELECT COUNT(*) FROM cache_entries").await > 0
    })
    .await;
    let (status, body) = two.request("GET", "/products/7").await;
    assert!(status.starts_with("shop; hit; ttl="), "{status}");
    assert_eq!(body, "product 7");

    let (status, _) = two.request("PUT", "/products/7").await;
    assert_eq!(status, "shop; fwd=method");
    let (status, _) = one.request("GET", "/products/7").await;
    assert!(status.starts_with("shop; fwd=stale"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_the_leading_process_is_killed_another_leads() {
    let database = support::database().await;
    let start = |seconds| {
        let mut command = Command::new(example("cluster"));
        Process::of(command.env("SECONDS", seconds), database.url())
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
    let (second, third) =
        tokio::join!(two.request("GET", "/report"), three.request("GET", "/report"));
    let waited = killed.elapsed();
    assert_eq!(second.1, third.1, "one of them made it for both");
    let made = [&second.0, &third.0].into_iter().filter(|status| status.contains("stored"));
    assert_eq!(made.count(), 1, "{second:?} {third:?}");
    // three seconds for the lease, one for the handler, and the time between two lease requests
    assert!(waited < std::time::Duration::from_secs(15), "{waited:?}");
    assert!(waited > std::time::Duration::from_secs(2), "it waited for the lease: {waited:?}");
}
