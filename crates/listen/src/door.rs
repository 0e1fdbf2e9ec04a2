//! The accept loop, the bounds on each connection, and the end of all of them.

use std::{io, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{preface::speaks_http2, service::HttpService};

/// hyper refuses less.
const MIN_HEADER_BYTES: usize = 8192;
const MAX_STREAMS: u32 = 256;

/// The bounds of one listening socket.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Connections at one time; one more waits in the kernel's queue.
    pub max_connections: usize,
    /// Bytes of one request's head.
    pub max_header_bytes: usize,
    /// For the whole head of a request, and for the next one on a kept connection.
    pub header_timeout: Duration,
    /// For a client to take in what it was sent, and between signs of life of a silent HTTP/2 connection.
    pub write_timeout: Duration,
}

/// How connections are let in and what bounds them.
#[derive(Debug)]
pub struct Door {
    builder: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
    connections: Arc<Semaphore>,
    write_timeout: Duration,
    header_timeout: Duration,
}

impl Door {
    pub fn new(config: &ListenConfig) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // hyper's own bound of 100 headers stays: it is that of Azure ML's server too, and hyper makes room for one
            // that is set anew for each request, on the heap.
            .header_read_timeout(config.header_timeout)
            .max_buf_size(config.max_header_bytes.max(MIN_HEADER_BYTES));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(config.write_timeout)
            .keep_alive_timeout(config.header_timeout);
        Self {
            builder,
            graceful: GracefulShutdown::new(),
            connections: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            write_timeout: config.write_timeout,
            header_timeout: config.header_timeout,
        }
    }

    /// Accepts for ever; whoever drops this future has stopped accepting. The connections go on.
    pub async fn accept<S: HttpService>(&self, listener: &TcpListener, service: S) {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => self.serve(stream, service.clone(), permit),
                Err(error) => {
                    // Out of file descriptors, most likely: those in use must end before another can begin.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.graceful.count()
    }

    /// Ends kept connections, lets requests in flight finish, and is done when no connection is left. Whoever drops
    /// this future before leaves the rest of them to the end of the process.
    pub async fn drain(self) {
        self.graceful.shutdown().await;
    }

    fn serve<S: HttpService>(&self, stream: TcpStream, service: S, permit: OwnedSemaphorePermit) {
        if let Err(error) = bound_slow_reader(&stream, self.write_timeout) {
            tracing::debug!(%error, "could not set the options of a connection");
        }
        let builder = self.builder.clone();
        let watcher = self.graceful.watcher();
        let first_bytes = self.header_timeout;
        tokio::spawn(async move {
            // hyper has no bound of its own on a client that connects and says nothing.
            let builder = match tokio::time::timeout(first_bytes, speaks_http2(&stream)).await {
                Ok(Ok(true)) => builder.http2_only(),
                Ok(Ok(false)) => builder.http1_only(),
                Ok(Err(_)) | Err(_) => return,
            };
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
}

/// Small answers leave at once, and the kernel ends a connection whose peer takes nothing in for `timeout`.
fn bound_slow_reader(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}
