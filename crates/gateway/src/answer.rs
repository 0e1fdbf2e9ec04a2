//! An answer's body on its way from a replica to the client, and what is given back when it has passed.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use crate::{
    body::Pause, config::GatewayConfig, deployment::Deployment, http1::Http1, places::Place,
    replica::InFlight,
};

/// What a request holds until the last byte of its answer has passed.
#[derive(Debug)]
pub(crate) struct Underway {
    pub(crate) flight: InFlight,
    _place: Place,
    deployment: Arc<Deployment>,
}

impl Underway {
    pub(crate) fn new(flight: InFlight, place: Place, deployment: Arc<Deployment>) -> Self {
        Self { flight, _place: place, deployment }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.deployment.touch();
    }
}

/// Why an answer broke off.
#[derive(Debug, Error)]
pub(crate) enum AnswerError {
    #[error("the replica broke off its answer")]
    Broken(#[source] hyper::Error),
    #[error("the replica stopped sending its answer")]
    Stalled,
}

/// A body that is passed on as it comes.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    /// What was read of it with the head.
    first: Bytes,
    rest: Incoming,
    /// What it comes over, in HTTP/1.1.
    connection: Option<Box<Http1>>,
    /// Until it is over.
    underway: Option<Underway>,
    pause: Pause,
    config: Arc<GatewayConfig>,
}

impl AnswerBody {
    pub(crate) fn new(
        first: Bytes,
        rest: Incoming,
        connection: Option<Box<Http1>>,
        underway: Underway,
        config: Arc<GatewayConfig>,
    ) -> Self {
        let pause = Pause::new(config.body_timeout);
        Self { first, rest, connection, underway: Some(underway), pause, config }
    }

    fn finish(&mut self) {
        if let (Some(connection), Some(underway)) = (self.connection.take(), &self.underway) {
            underway.flight.replica.keep(connection, &self.config);
        }
        self.underway = None;
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        if !this.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.first)))));
        }
        if this.underway.is_none() {
            return Poll::Ready(None);
        }
        let next = match &mut this.connection {
            Some(connection) => connection.poll_body(&mut this.rest, context),
            None => Pin::new(&mut this.rest).poll_frame(context),
        };
        match next {
            Poll::Ready(Some(Ok(frame))) => {
                this.pause.clear();
                if this.rest.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                (this.connection, this.underway) = (None, None);
                Poll::Ready(Some(Err(AnswerError::Broken(error))))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending if this.pause.is_over(context) => {
                (this.connection, this.underway) = (None, None);
                Poll::Ready(Some(Err(AnswerError::Stalled)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && (self.underway.is_none() || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.size_hint();
        let first = self.first.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(first.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(first.saturating_add(upper));
        }
        hint
    }
}
