//! Runs the examples as a reader would run them.
#![cfg(all(feature = "mysql", feature = "axum"))]
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};

use support::Process;

/// The features that this test was built with, in addition to the default ones.
const FEATURES: [(&str, bool); 5] = [
    ("metrics", cfg!(feature = "metrics")),
    ("tls-rustls", cfg!(feature = "tls-rustls")),
    ("mysql-rsa", cfg!(feature = "mysql-rsa")),
    ("serde", cfg!(feature = "serde")),
    ("zstd", cfg!(feature = "zstd")),
];

#[test]
fn examples_are_built_with_all_features_of_this_test() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    for name in manifest["features"].as_table().unwrap().keys() {
        let is_default = ["default", "mysql", "axum"].contains(&name.as_str());
        assert!(is_default || FEATURES.iter().any(|(known, _)| known == name), "{name}");
    }
}

/// `cargo run --example NAME`. Cargo replaces itself by the example, so ending the child ends the example. The
/// example is usually built already; only if this test alone is selected, Cargo builds it here.
fn example(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--example", name, "--features"]);
    // with the same features, so that nothing is compiled twice
    let on: Vec<_> = FEATURES.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    command.arg(on.join(",")).arg("--").args(arguments);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("DATABASE_URL");
    // these variables of Cargo would make build scripts run again
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars().filter(|(name, _)| told(name)) {
        command.env_remove(name);
    }
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Whether there is a line with all of these words, in this order.
#[track_caller]
fn has_line(text: &str, words: &[&str]) {
    let matches = |line: &str| {
        let mut rest = line;
        words.iter().all(|word| match rest.split_once(word) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    };
    assert!(text.lines().any(matches), "no line with {words:?} in\n{text}");
}

#[tokio::test]
async fn the_per_route_example_applies_policies_and_keys() {
    let text = text(&output(example("per_route", &[])).await);
    has_line(&text, &["/search?page=2&q=tea&session=41", "hit, fresh for"]);
    has_line(&text, &["/report x-tenant:red", "handler: uri-miss, stored"]);
    has_line(&text, &["/now", "hit"]);
    has_line(&text, &["/offers cookie:sid=1", "handler: bypass (cookie)"]);
    has_line(&text, &["/feed authorization:Bearer-bob", "handler: uri-miss, stored"]);
    has_line(&text, &["/account", "handler: bypass (policy)"]);
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn policies_are_read_from_a_file() {
    let text = text(&output(example("policies", &[])).await);
    has_line(&text, &["GET / theme=dark", "hit"]);
    has_line(&text, &["GET / sid=1", "cookie"]);
    has_line(&text, &["GET /products", "invalidated"]);
    has_line(&text, &["GET /account", "policy"]);
    has_line(&text, &["ttl is", "it must be between 1 ms and ten years"]);
    has_line(&text, &["unknown field `tll`, expected one of `preset`, `ttl`"]);
}

#[tokio::test]
async fn a_custom_store_works_behind_the_layer() {
    let text = text(&output(example("custom_store", &[])).await);
    has_line(&text, &["HEAD /texts/1", "texts; hit"]);
    has_line(&text, &["PUT /texts/1", "texts; fwd=method"]);
    has_line(&text, &["texts:1:/texts/2"]);
    has_line(&text, &["erased 2 entries, 0 left"]);
}

#[tokio::test]
async fn an_invalidation_commits_with_the_data_or_not_at_all() {
    let database = support::database().await;
    let text = text(&output(example("transaction", &[database.url()])).await);
    has_line(&text, &["PUT /price/7 9999", "422"]);
    let (before, after) = text.split_once("PUT /price/7 5 ").unwrap();
    has_line(before.rsplit_once("9999").unwrap().1, &["GET /products/7", "200 hit", "tea 4"]);
    has_line(after, &["GET /products/7", "handler (invalidated)", "tea 5"]);
    has_line(after, &["GET /products ", "handler (invalidated)", "tea 5, coffee 12"]);
    has_line(after, &["GET /products/8", "200 hit", "coffee 12"]);
    let (_, second) = after.split_once("The second node has noticed").unwrap();
    has_line(second, &["GET /products/7", "tea 5"]);
    has_line(second, &["Scope(products)"]);
}

#[tokio::test]
async fn the_demo_works_with_a_database() {
    let database = support::database().await;
    let output = output(example("shop", &["--drive", "--database", database.url()])).await;
    let text = text(&output);
    has_line(&text, &["GET /report", "demo; hit"]);
    has_line(&text, &["demo:1:/image http://shop.example", "200", " R "]);
    has_line(&text, &["Everything was as announced."]);
}

#[tokio::test]
async fn the_demo_works_without_a_database() {
    let output = output(example("shop", &["--drive"])).await;
    has_line(&text(&output), &["Everything was as announced."]);
    let notice = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(notice.contains("stored in this process only"), "{notice}");
}

#[tokio::test]
async fn the_shop_says_why_it_cannot_start() {
    let closed = "mysql://nobody:secret@127.0.0.1:1/shop";
    let output = output(example("shop", &["--drive", "--database", closed])).await;
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("cannot connect to the cache database"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn the_example_servers_answer_the_second_request_by_a_hit() {
    for (name, target) in [("axum", "/products/7"), ("hyper", "/primes?below=1000")] {
        let server = Process::start(example(name, &[]).env("LISTEN", "127.0.0.1:0"));
        assert!(get(&server, target).contains("fwd=uri-miss; stored"), "{name}");
        let second = get(&server, target);
        assert!(second.contains("; hit; ttl="), "{name}: {second}");
    }
}

/// The whole response, with head and body.
fn get(server: &Process, target: &str) -> String {
    let mut connection = TcpStream::connect(server.authority()).unwrap();
    write!(connection, "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut response = String::new();
    connection.read_to_string(&mut response).unwrap();
    response
}
