//! A TCP proxy in front of a database, which imitates faults of a network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What the proxy does with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Up,
    /// Delays each piece by this time, in both directions.
    Slow(Duration),
    /// Drops all bytes silently. Accepts new connections, and drops their bytes too.
    BlackHole,
    /// Closes every connection, and new ones as soon as they are accepted.
    Down,
}

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer = 0,
    ToClient = 1,
}

/// The proxy. It stops when this value is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    network: watch::Sender<Network>,
    /// Bytes until the next connection is closed, for each [`Way`]; negative: never.
    left: [AtomicI64; 2],
    cut: AtomicUsize,
    accepted: AtomicUsize,
}

impl Proxy {
    /// A proxy in front of the server of a URL.
    pub(crate) async fn to(url: &str) -> Self {
        let (_, rest) = url.split_once('@').expect("a URL with a user");
        let server: SocketAddr = rest.split('/').next().unwrap().parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let network = watch::Sender::new(Network::Up);
        let left = [AtomicI64::new(-1), AtomicI64::new(-1)];
        let shared = Arc::new(Shared {
            network,
            left,
            cut: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&shared))).abort_handle();
        Self { address, shared, accepting }
    }

    /// The URL with the proxy's address instead of the server's.
    pub(crate) fn url(&self, url: &str) -> String {
        let (user, rest) = url.split_once('@').expect("a URL with a user");
        let (_, database) = rest.split_once('/').expect("a URL with a database");
        format!("{user}@{}/{database}", self.address)
    }

    pub(crate) fn set(&self, network: Network) {
        self.shared.network.send_replace(network);
    }

    /// Closes one connection after this many more bytes in this direction.
    pub(crate) fn cut_after(&self, way: Way, bytes: usize) {
        self.shared.left[way as usize].store(bytes as i64, Ordering::SeqCst);
    }

    /// How many connections have been accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections have been closed by [`Proxy::cut_after`].
    pub(crate) fn cut(&self) -> usize {
        self.shared.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.network.send_replace(Network::Down);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            if *shared.network.borrow() == Network::Down {
                return;
            }
            let Ok(server) = TcpStream::connect(server).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let mut network = shared.network.subscribe();
            // if one direction ends, both sockets are closed
            tokio::select! {
                () = carry(from_client, to_server, Way::ToServer, &shared) => {}
                () = carry(from_server, to_client, Way::ToClient, &shared) => {}
                _ = network.wait_for(|network| *network == Network::Down) => {}
            }
        });
    }
}

/// Passes bytes on in one direction until an end is closed, or the connection must be closed.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, shared: &Shared) {
    let mut piece = vec![0; 16 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut piece).await else { return };
        let mut piece = &piece[..length];
        let mut cut = false;
        let left = &shared.left[way as usize];
        let allowed = left.load(Ordering::SeqCst);
        if allowed >= 0 {
            let rest = allowed - length as i64;
            cut = rest < 0;
            if cut {
                piece = &piece[..allowed as usize];
            }
            left.store(rest.max(-1), Ordering::SeqCst);
        }
        let now = *shared.network.borrow();
        if let Network::Slow(by) = now {
            // the slow network itself
            tokio::time::sleep(by).await;
        }
        if now == Network::BlackHole {
            // bytes were lost, so this connection stays silent
            std::future::pending::<()>().await;
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
        if cut {
            shared.cut.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}
