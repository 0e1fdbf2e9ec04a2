//! What goes to a replica: a body that was read before, or one that is passed on as it comes, within bounds.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use thiserror::Error;
use tokio::time::Sleep;

use crate::config::GatewayConfig;

/// What was wrong with a client's body.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum BodyFault {
    #[error("the body is too long")]
    TooLarge,
    #[error("the body ended before its end")]
    Incomplete,
    #[error("the body stopped coming")]
    Stalled,
}

/// A request's body on its way to a replica.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// All of it. Empty once it was taken.
    Whole(Bytes),
    Flow(Box<Flow>),
}

/// A body that is passed on as it comes.
#[derive(Debug)]
pub(crate) struct Flow {
    /// What was read before it was known to be long.
    first: Bytes,
    rest: Body,
    /// Bytes that may still come.
    left: u64,
    pause: Pause,
    passage: Arc<Passage>,
}

/// What becomes of a body on its way.
#[derive(Debug, Default)]
pub(crate) struct Passage {
    fault: OnceLock<BodyFault>,
    bytes: AtomicU64,
}

impl Passage {
    /// What was wrong with it, where it turned out bad.
    pub(crate) fn fault(&self) -> Option<BodyFault> {
        self.fault.get().copied()
    }

    /// How much of it has passed.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What was read of a body before a replica is chosen.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) body: RequestBody,
    /// Of a body that is passed on as it comes.
    pub(crate) passage: Option<Arc<Passage>>,
    /// What a body that was read holds of the budget.
    pub(crate) share: Option<BufferShare>,
}

/// Reads a short body whole; leaves a long one to be passed on. Whoever calls it bounds the wait.
pub(crate) async fn receive(
    body: Body,
    config: &GatewayConfig,
    buffers: &Arc<Buffers>,
) -> Result<Received, BodyFault> {
    let expected = body.size_hint();
    if expected.lower() > config.max_body_bytes {
        return Err(BodyFault::TooLarge);
    }
    if body.is_end_stream() {
        return Ok(Received { body: RequestBody::Whole(Bytes::new()), passage: None, share: None });
    }
    let most = usize::try_from(expected.upper().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let reserved = most.min(config.buffer_bytes);
    let short = expected.lower() <= config.buffer_bytes as u64;
    let Some(share) = short.then(|| buffers.share(reserved)).flatten() else {
        return Ok(pass_on(Bytes::new(), body, config));
    };
    read_first(body, config, share).await
}

/// Leaves all of a body to be passed on.
pub(crate) fn pass_on(first: Bytes, rest: Body, config: &GatewayConfig) -> Received {
    let passage = Arc::new(Passage::default());
    let flow = Flow {
        left: config.max_body_bytes.saturating_sub(first.len() as u64),
        first,
        rest,
        pause: Pause::new(config.body_timeout),
        passage: Arc::clone(&passage),
    };
    Received { body: RequestBody::Flow(Box::new(flow)), passage: Some(passage), share: None }
}

async fn read_first(
    mut body: Body,
    config: &GatewayConfig,
    share: BufferShare,
) -> Result<Received, BodyFault> {
    let mut read = Bytes::new();
    let mut gathered = BytesMut::new();
    loop {
        let frame = match body.frame().await {
            Some(frame) => frame.map_err(|_| BodyFault::Incomplete)?,
            None => break,
        };
        // Trailers of a request mean nothing to HTTP/1.1 replicas.
        if let Ok(data) = frame.into_data() {
            if read.is_empty() && gathered.is_empty() {
                read = data;
            } else {
                if gathered.is_empty() {
                    gathered.extend_from_slice(&std::mem::take(&mut read));
                }
                gathered.extend_from_slice(&data);
            }
        }
        if body.is_end_stream() {
            break;
        }
        if read.len() + gathered.len() > config.buffer_bytes {
            let first = if gathered.is_empty() { read } else { gathered.freeze() };
            return Ok(pass_on(first, body, config));
        }
    }
    let whole = if gathered.is_empty() { read } else { gathered.freeze() };
    if whole.len() as u64 > config.max_body_bytes {
        return Err(BodyFault::TooLarge);
    }
    Ok(Received { body: RequestBody::Whole(whole), passage: None, share: Some(share) })
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Whole(body) if body.is_empty() => Poll::Ready(None),
            Self::Whole(body) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(body))))),
            Self::Flow(flow) => flow.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_empty(),
            Self::Flow(flow) => flow.first.is_empty() && flow.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.len() as u64),
            Self::Flow(flow) => {
                let first = flow.first.len() as u64;
                let rest = flow.rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(first.saturating_add(rest.lower()));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(first.saturating_add(upper));
                }
                hint
            }
        }
    }
}

impl Flow {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if !self.first.is_empty() {
            let first = std::mem::take(&mut self.first);
            self.passage.bytes.fetch_add(first.len() as u64, Ordering::Relaxed);
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match Pin::new(&mut self.rest).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.pause.clear();
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.left.checked_sub(length) {
                    Some(left) => self.left = left,
                    None => return self.fail(BodyFault::TooLarge),
                }
                self.passage.bytes.fetch_add(length, Ordering::Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.fail(BodyFault::Incomplete),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.pause.is_over(context) => self.fail(BodyFault::Stalled),
            Poll::Pending => Poll::Pending,
        }
    }

    fn fail(&self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        Poll::Ready(Some(Err(*self.passage.fault.get_or_init(|| fault))))
    }
}

/// The longest pause between two parts of a body. A timer runs only while one is waited for.
#[derive(Debug)]
pub(crate) struct Pause {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Whether nothing has come for too long; asked again when that is so.
    pub(crate) fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(context).is_ready()
    }

    pub(crate) fn clear(&mut self) {
        self.timer = None;
    }
}

/// The bytes of all bodies that are held at one time.
#[derive(Debug)]
pub(crate) struct Buffers {
    used: AtomicUsize,
    max: usize,
}

/// A share of them, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct BufferShare {
    of: Arc<Buffers>,
    bytes: usize,
}

impl Buffers {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    fn share(self: &Arc<Self>, bytes: usize) -> Option<BufferShare> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let share = BufferShare { of: Arc::clone(self), bytes };
        (before.saturating_add(bytes) <= self.max).then_some(share)
    }
}

impl Drop for BufferShare {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;

    fn chunks(sizes: &'static [usize]) -> Body {
        Body::new(StreamBody::new(stream::iter(
            sizes.iter().map(|size| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; *size])))),
        )))
    }

    fn config(buffer_bytes: usize, max_body_bytes: u64) -> GatewayConfig {
        GatewayConfig { max_body_bytes, buffer_bytes, ..GatewayConfig::default() }
    }

    async fn received(body: Body, config: &GatewayConfig, budget: usize) -> Result<Received, BodyFault> {
        receive(body, config, &Buffers::new(budget)).await
    }

    #[tokio::test]
    async fn a_short_body_is_read_and_a_long_one_passed_on() {
        let config = config(10, 30);
        let short = received(chunks(&[4, 6]), &config, 100).await.unwrap();
        assert!(matches!(short.body, RequestBody::Whole(whole) if whole.len() == 10));
        let long = received(chunks(&[4, 7, 5]), &config, 100).await.unwrap();
        assert!(matches!(&long.body, RequestBody::Flow(flow) if flow.first.len() == 11));
        assert_eq!(long.body.collect().await.unwrap().to_bytes().len(), 16);
        let known = received(Body::from(vec![0; 11]), &config, 100).await.unwrap();
        assert!(matches!(&known.body, RequestBody::Flow(flow) if flow.first.is_empty()));
        assert_eq!(known.body.size_hint().exact(), Some(11));
        let empty = received(Body::empty(), &config, 100).await.unwrap();
        assert!(empty.body.is_end_stream());
    }

    #[tokio::test]
    async fn without_memory_a_body_is_passed_on() {
        let body = received(Body::from(vec![0; 9]), &config(10, 30), 8).await.unwrap().body;
        assert!(matches!(body, RequestBody::Flow(_)));
    }

    #[tokio::test]
    async fn a_body_has_a_longest_length() {
        let config = config(10, 30);
        assert_eq!(received(Body::from(vec![0; 31]), &config, 100).await.unwrap_err(), BodyFault::TooLarge);
        let long = received(chunks(&[11, 20]), &config, 100).await.unwrap();
        assert_eq!(long.body.collect().await.unwrap_err(), BodyFault::TooLarge);
        let passage = long.passage.unwrap();
        assert_eq!((passage.fault(), passage.bytes()), (Some(BodyFault::TooLarge), 11));
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up() {
        let config = GatewayConfig { body_timeout: Duration::from_millis(5), ..config(10, 30) };
        let silent = || Body::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()));
        let passed = pass_on(Bytes::new(), silent(), &config);
        assert_eq!(passed.body.collect().await.unwrap_err(), BodyFault::Stalled);
    }

    #[test]
    fn memory_is_given_back() {
        let buffers = Buffers::new(10);
        let share = buffers.share(8).unwrap();
        assert!(buffers.share(8).is_none());
        drop(share);
        assert!(buffers.share(10).is_some());
        assert_eq!(buffers.used.load(Ordering::Relaxed), 0);
    }
}
