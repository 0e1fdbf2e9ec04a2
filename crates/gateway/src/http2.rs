//! The HTTP/2 connection to a replica that its gRPC calls share.

use std::{net::SocketAddr, time::Duration};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::{
    body::RequestBody,
    http1::{BoxError, SendError},
};

/// How often a connection that has calls is asked whether it still stands, and how long it may take to say so.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// A handle on the connection. Clones share it; it ends when the last is dropped and no call is left.
#[derive(Clone, Debug)]
pub(crate) struct Http2 {
    sender: SendRequest<RequestBody>,
}

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(SIGN_OF_LIFE)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %address, "a connection to a replica ended early");
            }
        });
        Ok(Self { sender })
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a call and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        self.sender.try_send_request(request).await.map_err(|mut failure| match failure.take_message() {
            Some(request) => SendError::NotSent(Box::new(request)),
            None => SendError::Lost(failure.into_error().into()),
        })
    }
}
