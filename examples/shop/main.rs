//! A small shop whose responses are cached. Run it and send requests with curl, or let it send requests to itself.
//!
//! ```sh
//! cargo run --example shop -- --drive                 # sends requests to itself and shows what happened
//! cargo run --example shop -- --database mysql://...  # serves until Ctrl-C
//! ```
//!
//! `scripts/demo` runs it with a private database. `shop --help` lists the options.

mod browser;
mod drive;
mod rows;
mod scenes;
mod shop;
mod table;

use std::error::Error;
use std::future::IntoFuture;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tower_mysql_cache::store::BoxStore;
use tower_mysql_cache::{CacheHandle, MemoryStore, MySqlStore};

use crate::shop::{Goods, Shop};

const HELP: &str = "\
Usage: shop [--drive | --serve] [--listen ADDRESS] [--database URL]

  --serve             serve until Ctrl-C (the default)
  --drive             start on a free port, send a few dozen requests, show what the cache did with
                      each, and end; exit status 1 if anything was not as announced
  --listen ADDRESS    where to listen (default: 127.0.0.1:3000, for --drive a free port of 127.0.0.1)
  --database URL      mysql://user:password@host:port/database (default: DATABASE_URL, else the
                      responses are stored in this process). The shop makes the table
                      cache_entries there if it is missing, and touches only rows whose key begins
                      with `demo:`; --drive begins and ends by removing those.";

#[derive(Default)]
struct Options {
    drive: bool,
    listen: Option<String>,
    database: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    // shows the layer's warnings about the database
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shop: {}", whole(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, Box<dyn Error>> {
    let Some(options) = options()? else {
        println!("{HELP}");
        return Ok(true);
    };
    let goods = Goods::new();
    let first = Node::start(&options, Arc::clone(&goods)).await?;
    if !options.drive {
        serve(first).await?;
        return Ok(true);
    }
    // the second node shares only the table (and the goods) with the first, as a second process would
    let second = match options.database {
        Some(_) => Some(Node::start(&options, Arc::clone(&goods)).await?),
        None => None,
    };
    scenes::play(goods, first, second, options.database.as_deref()).await
}

fn options() -> Result<Option<Options>, Box<dyn Error>> {
    let database = std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty());
    let mut options = Options { database, ..Options::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value (--help tells more)"));
        match word.as_str() {
            "--drive" => options.drive = true,
            "--serve" => options.drive = false,
            "--listen" => options.listen = Some(value()?),
            "--database" => options.database = Some(value()?),
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown argument {word} (--help tells more)").into()),
        }
    }
    Ok(Some(options))
}

/// A running shop.
pub(crate) struct Node {
    address: std::net::SocketAddr,
    cache: CacheHandle,
    table: Option<MySqlStore>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    /// Dropping it ends the server: the server accepts no new requests, and answers the open ones.
    open: watch::Sender<()>,
}

impl Node {
    async fn start(options: &Options, goods: Arc<Goods>) -> Result<Self, Box<dyn Error>> {
        let table = table(options).await?;
        let store = table.clone().map_or_else(|| BoxStore::new(MemoryStore::new()), BoxStore::new);
        let (router, cache): (Router, _) = Shop::open(store, goods);
        let default = if options.drive { "127.0.0.1:0" } else { "127.0.0.1:3000" };
        let listen = options.listen.as_deref().unwrap_or(default);
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        let address = listener.local_addr()?;
        // without this, an event would wait until the client has acknowledged the event before
        let listener = listener.tap_io(|connection| {
            let _ = connection.set_nodelay(true);
        });
        let (open, mut closed) = watch::channel(());
        let closing = async move { while closed.changed().await.is_ok() {} };
        let server = axum::serve(listener, router).with_graceful_shutdown(closing);
        let server = tokio::spawn(server.into_future());
        Ok(Self { address, cache, table, server, open })
    }
}

/// The store in the database. `None` without a database: then the store is the memory of this process.
async fn table(options: &Options) -> Result<Option<MySqlStore>, Box<dyn Error>> {
    let Some(url) = &options.database else {
        eprintln!(
            "shop: no --database and no DATABASE_URL: responses are stored in this process only"
        );
        return Ok(None);
    };
    let store = MySqlStore::connect(url).await?;
    store.migrate().await?;
    Ok(Some(store))
}

async fn serve(mut node: Node) -> Result<(), Box<dyn Error>> {
    let at = format!("http://{}", node.address);
    println!("the shop listens on {at}; run each of these twice and look at Cache-Status:\n");
    for try_this in [
        "{at}/report                                    # takes 300 ms, but not the second time",
        "{at}/products -H 'Accept-Language: de'         # a variant for each language",
        "{at}/products/1",
        "{at}/products/1 -X PUT -d 4.50                 # invalidates the product and the list",
        "'{at}/search?q=tea&utm_source=mail'            # tracking parameters do not count",
        "{at}/news                                      # fresh for three seconds",
        "{at}/account -H 'Cookie: sid=ann'              # never cached",
        "{at}/image -o /dev/null                        # a megabyte",
        "{at}/events -N                                 # a stream, event by event",
    ] {
        println!("  curl -i {}", try_this.replace("{at}", &at));
    }
    println!("\nCtrl-C ends it.");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminate.recv() => {}
    }
    // Open requests get three seconds to end; then endless ones (events) are cut off. After that, complete responses are
    // written, and the connections to the database are closed.
    drop(node.open);
    if timeout(Duration::from_secs(3), &mut node.server).await.is_err() {
        node.server.abort();
    }
    match timeout(Duration::from_secs(5), node.cache.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("shop: not everything could be written: {}", whole(&error)),
        Err(_) => eprintln!("shop: not everything could be written within 5 seconds"),
    }
    if let Some(table) = node.table {
        let _ = timeout(Duration::from_secs(5), table.close()).await;
    }
    println!("\n{}", table::summary(&node.cache.counts()));
    Ok(())
}

/// An error with the errors behind it.
fn whole(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
