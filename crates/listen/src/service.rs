//! What a door serves: the long bound on hyper's services, written once.

use std::{convert::Infallible, error::Error};

use http::{Request, Response};
use hyper::{body::Incoming, service::Service};

/// A hyper service that answers every request. `hyper::service::service_fn` makes one of a function, hyper-util's
/// `TowerToHyperService` one of a tower service; nothing implements it by hand.
pub trait HttpService:
    Service<
        Request<Incoming>,
        Response = Response<<Self as HttpService>::Body>,
        Error = Infallible,
        Future = <Self as HttpService>::Answer,
    > + Clone
    + Send
    + 'static
{
    type Body: http_body::Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
    type Answer: Future<Output = Result<Response<Self::Body>, Infallible>> + Send + 'static;
}

impl<S, F, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future = F>
        + Clone
        + Send
        + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: http_body::Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    type Body = B;
    type Answer = F;
}
