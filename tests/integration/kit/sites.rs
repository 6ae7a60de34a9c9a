//! Servers on real sockets, and their clients.

use std::net::SocketAddr;

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tower::Service;

use super::Answer;

/// A server that ends with this value, and a client of it.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    client: Client<HttpConnector, Empty<Bytes>>,
    server: JoinHandle<()>,
}

impl Site {
    pub(crate) async fn axum(app: Router) -> Self {
        Self::start(async move |listener| axum::serve(listener, app).await.expect("serves")).await
    }

    /// A tower service on plain hyper, over HTTP/1.1 and HTTP/2.
    pub(crate) async fn hyper<S, B>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::start(async move |listener| {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let service = TowerToHyperService::new(service.clone());
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // a client may leave early
                    let _ = builder.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        })
        .await
    }

    async fn start<F>(serve: impl FnOnce(TcpListener) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address, client, server: tokio::spawn(serve(listener)) }
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Answer {
        let uri = format!("http://{}{path}", self.address);
        let request = super::request(method, &uri, fields);
        Answer::of(self.client.request(request).await.expect("an answer")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[]).await
    }

    /// A connection on which these bytes have been sent.
    pub(crate) async fn connect(&self, request: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.expect("connects");
        socket.write_all(request.as_bytes()).await.expect("sends");
        socket
    }

    /// Sends these bytes, and reads until the server closes the connection.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut answer = Vec::new();
        self.connect(request).await.read_to_end(&mut answer).await.expect("reads");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}
