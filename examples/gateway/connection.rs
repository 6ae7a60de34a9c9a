//! The connection of one client.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::Service;

use crate::activity::{Activity, Answering};
use crate::edge::Edge;
use crate::origin::OriginError;

/// How long the gateway waits for a client after it has told the client that the connection ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// A write of this many bytes or more counts as part of a response. Shorter writes may be HTTP/2 answers to pings and
/// settings.
const SIGNALS: usize = 64;

/// Serves HTTP/1 or HTTP/2: the version that the client uses first. The connection ends when
/// - the client leaves,
/// - the gateway ends,
/// - the connection has been without a request for `idle`, or
/// - the connection has no request, and a new connection needs room.
pub(crate) async fn serve<S, B>(
    stream: TcpStream,
    edge: Edge<S>,
    idle: Duration,
    activity: Arc<Activity>,
    mut stopping: watch::Receiver<()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = OriginError>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let cut = Arc::new(AtomicBool::new(false));
    let socket = Socket { stream, cut: Arc::clone(&cut), activity: Arc::clone(&activity) };
    let answers = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let (edge, cut, answering) = (edge.clone(), Arc::clone(&cut), answers.answers());
        async move {
            // RFC 9112 8: HTTP/1.0 has no chunks, so the end of the connection may be the end of the body
            let cut = (request.version() < Version::HTTP_11).then_some(cut);
            let response = edge.answer(request).await;
            Ok::<_, Infallible>(response.map(|body| Download { body, cut, _answering: answering }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle);
    // also detects clients that have gone while a response is sent to them
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(idle).keep_alive_timeout(idle);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let (mut ending, mut patience) = (false, idle);
    let served = loop {
        tokio::select! {
            biased; // reads new data before it checks whether the connection is idle
            served = &mut connection => break served,
            _ = stopping.changed(), if !ending => {}
            () = activity.idle_for(patience) => if ending { return },
            () = activity.told_to_leave() => {
                if activity.idle().is_some() {
                    return;
                }
                continue;
            }
        }
        // a request that has begun still gets its response
        (ending, patience) = (true, GOODBYE);
        activity.begins_again();
        connection.as_mut().graceful_shutdown();
    };
    if let Err(error) = served {
        tracing::debug!(error, "a connection ended early");
    }
}

/// A response's body on its way to the client. If it fails for an HTTP/1.0 client, it marks the connection as cut off.
#[pin_project]
struct Download<B> {
    #[pin]
    body: B,
    cut: Option<Arc<AtomicBool>>,
    _answering: Answering,
}

impl<B: Body> Body for Download<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if let (Some(Err(_)), Some(cut)) = (&frame, this.cut) {
            cut.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that is reset instead of closed after a body was cut off. A normal close would look like the end of the body.
struct Socket {
    stream: TcpStream,
    cut: Arc<AtomicBool>,
    activity: Arc<Activity>,
}

impl Socket {
    /// Counts a long write as activity: a client may take long to read a response.
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(SIGNALS..)) = written {
            self.activity.begins_again();
        }
        written
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.cut.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
