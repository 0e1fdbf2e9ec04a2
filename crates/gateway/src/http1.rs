//! A kept HTTP/1.1 connection to a replica, moved on by whoever uses it.
//!
//! hyper wants a connection to be a task beside the request's. Here the request's own task polls it, which saves two
//! wake-ups between threads a request, and a request that is dropped takes its connection with it. An idle connection
//! is polled by nobody; whether it still stands is found when it is taken for the next request.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::RequestBody;

/// Answers up to this long are gathered before they go on, head and body in one packet.
const GATHERED_BYTES: u64 = 64 << 10;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    sender: SendRequest<RequestBody>,
    connection: Connection<TokioIo<TcpStream>, RequestBody>,
    /// The connection has ended and must not be polled again.
    over: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The replica cannot have seen anything of the request.
    NotSent(Box<Request<RequestBody>>),
    /// Nobody knows how far it came.
    Lost(BoxError),
}

/// What can be had of an answer's body at once.
#[derive(Debug)]
pub(crate) enum Gathered {
    Whole(Bytes),
    /// The beginning.
    Part(Bytes),
}

impl Http1 {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Box<Self>, BoxError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Box::new(Self { sender, connection, over: false }))
    }

    /// Whether the next request can go over this connection: the replica has not closed it, and nothing of the last
    /// exchange is left.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.advance(&mut Context::from_waker(Waker::noop()));
        !self.over && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let (connection, over) = (&mut self.connection, &mut self.over);
        let outcome = std::future::poll_fn(|context| {
            advance(connection, over, context);
            // Only the connection makes the answer, and it was polled a line above: nothing else has to wake this task.
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending if *over => Poll::Ready(None),
                answer => answer.map(Some),
            }
        });
        match outcome.await {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut failure)) => Err(match failure.take_message() {
                Some(request) => SendError::NotSent(Box::new(request)),
                None => SendError::Lost(failure.into_error().into()),
            }),
            None => Err(SendError::Lost("the connection ended".into())),
        }
    }

    /// Takes what has arrived of a body that is known to be short.
    pub(crate) fn gather(&mut self, body: &mut Incoming) -> Result<Gathered, hyper::Error> {
        if body.is_end_stream() {
            return Ok(Gathered::Whole(Bytes::new()));
        }
        if body.size_hint().exact().is_none_or(|length| length > GATHERED_BYTES) {
            return Ok(Gathered::Part(Bytes::new()));
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        loop {
            match self.poll_body(body, &mut context) {
                Poll::Ready(Some(frame)) => {
                    let Ok(data) = frame?.into_data() else { continue };
                    if first.is_empty() && more.is_empty() {
                        first = data;
                    } else {
                        if more.is_empty() {
                            more.extend_from_slice(&std::mem::take(&mut first));
                        }
                        more.extend_from_slice(&data);
                    }
                    if !body.is_end_stream() {
                        continue;
                    }
                }
                Poll::Ready(None) => {}
                Poll::Pending => {
                    return Ok(Gathered::Part(if more.is_empty() { first } else { more.freeze() }));
                }
            }
            return Ok(Gathered::Whole(if more.is_empty() { first } else { more.freeze() }));
        }
    }

    /// The next part of the body of the answer that is under way.
    pub(crate) fn poll_body(
        &mut self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // As in `send`: whatever the body waits for, this connection makes.
        let mut quiet = Context::from_waker(Waker::noop());
        match Pin::new(&mut *body).poll_frame(&mut quiet) {
            Poll::Pending => {
                self.advance(context);
                Pin::new(body).poll_frame(&mut quiet)
            }
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn advance(&mut self, context: &mut Context<'_>) {
        advance(&mut self.connection, &mut self.over, context);
    }
}

fn advance(
    connection: &mut Connection<TokioIo<TcpStream>, RequestBody>,
    over: &mut bool,
    context: &mut Context<'_>,
) {
    if !*over && Pin::new(connection).poll(context).is_ready() {
        // Why it ended is told to whoever waits for an answer.
        *over = true;
    }
}
