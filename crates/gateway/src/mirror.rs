//! Copies of requests for a mirror deployment: sent beside the request, never in its way, their answers dropped.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use crate::{
    body::{Received, RequestBody},
    config::GatewayConfig,
    deployment::Deployment,
    forward::{self, Outgoing},
    metrics::Mirrored,
    watch::Watch,
};

/// What bounds all copies together.
#[derive(Clone, Debug)]
pub(crate) struct Mirrors {
    slots: Arc<Semaphore>,
}

impl Mirrors {
    pub(crate) fn new(config: &GatewayConfig) -> Self {
        let slots = config.max_mirrored_requests.min(Semaphore::MAX_PERMITS);
        Self { slots: Arc::new(Semaphore::new(slots)) }
    }

    /// Sends a copy of `outgoing` to `mirror` if it can be had without waiting for anything.
    pub(crate) fn send(
        &self,
        mirror: Arc<Deployment>,
        outgoing: &Outgoing,
        config: &Arc<GatewayConfig>,
        watch: &Watch,
    ) {
        let ready = || {
            let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
            let copy = copy(outgoing)?;
            Some((slot, copy, mirror.try_place()?))
        };
        let Some((slot, copy, place)) = ready() else {
            mirror.metrics.record_mirrored(Mirrored::Dropped);
            return;
        };
        mirror.touch();
        let mut watch = watch.of_copy(&mirror);
        let config = Arc::clone(config);
        tokio::spawn(async move {
            let limit = mirror.live().request_timeout.max(Duration::from_millis(1));
            let exchange = async {
                match forward::forward(Arc::clone(&mirror), place, copy, &config, &mut watch).await {
                    Ok(answer) => drained(answer.into_body()).await,
                    Err(_) => false,
                }
            };
            let answered = tokio::time::timeout(limit, exchange).await.unwrap_or(false);
            mirror.metrics.record_mirrored(if answered { Mirrored::Answered } else { Mirrored::Failed });
            drop(slot);
        });
    }
}

/// Takes an answer in to its end, so that the connection can be kept.
async fn drained(mut body: Body) -> bool {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    true
}

/// Of a body that is passed on as it comes, or of a gRPC call, there is no copy.
fn copy(outgoing: &Outgoing) -> Option<Outgoing> {
    let RequestBody::Whole(body) = &outgoing.received.body else { return None };
    if outgoing.grpc {
        return None;
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = outgoing.parts.method.clone();
    parts.headers = outgoing.parts.headers.clone();
    Some(Outgoing {
        parts,
        target: outgoing.target.clone(),
        received: Received { body: RequestBody::Whole(body.clone()), passage: None, share: None },
        grpc: false,
    })
}
