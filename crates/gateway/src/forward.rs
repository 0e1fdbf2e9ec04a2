//! One request to one replica: which, over what, and what its answer or its silence means.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;

use crate::{
    answer::{AnswerBody, Underway},
    body::{BodyFault, Received},
    config::GatewayConfig,
    deployment::Deployment,
    headers,
    http1::{Gathered, SendError},
    places::Place,
    problem::Problem,
    replica::{InFlight, Replica},
    watch::Watch,
};

/// What is sent, before it is known where to.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Without the headers of the hop it came over.
    pub(crate) parts: Parts,
    pub(crate) target: PathAndQuery,
    pub(crate) received: Received,
    pub(crate) grpc: bool,
}

/// Of a try that no replica has seen.
const NOT_REACHED: &str = "the replica could not be reached";

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    Problem(Problem),
    /// There is no replica to send it to, and none can have seen it.
    NoReplica(Box<Outgoing>),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Sends a request to a replica of `deployment` and gives its answer, whose body may still be on its way.
///
/// A request that no replica can have seen is sent once more, to another replica if there is one.
pub(crate) async fn forward(
    deployment: Arc<Deployment>,
    place: Place,
    outgoing: Outgoing,
    config: &Arc<GatewayConfig>,
    watch: &mut Watch,
) -> Result<Response<Body>, Failed> {
    let Outgoing { parts, target, received: Received { body, passage, share }, grpc } = outgoing;
    let scored = !grpc && target.path() == "/score";
    let own_target = if scored { deployment.scoring_target(&target) } else { None };
    let mut request = Request::from_parts(parts, body);
    let mut tried: Option<Arc<Replica>> = None;
    let (begun, flight) = loop {
        let Some(replica) = deployment.choose(tried.as_ref()) else {
            let (parts, body) = request.into_parts();
            let received = Received { body, passage, share };
            return Err(Failed::NoReplica(Box::new(Outgoing { parts, target, received, grpc })));
        };
        let flight = InFlight::begin(replica);
        let replica = &flight.replica;
        let attempt = watch.attempt(&replica.route, request.headers_mut());
        let sent = if grpc {
            *request.uri_mut() = absolute(replica, target.clone());
            *request.version_mut() = Version::HTTP_2;
            Box::pin(replica.call(request, config)).await
        } else {
            *request.uri_mut() = Uri::from(own_target.as_ref().unwrap_or(&target).clone());
            *request.version_mut() = Version::HTTP_11;
            replica.send(request, config).await
        };
        match sent {
            Ok(begun) => {
                attempt.answered(begun.0.status());
                break (begun, flight);
            }
            Err(SendError::NotSent(unsent)) if tried.is_none() => {
                attempt.failed(NOT_REACHED);
                deployment.metrics.retries.inc();
                tried = Some(Arc::clone(replica));
                request = *unsent;
            }
            Err(SendError::NotSent(unsent)) => {
                attempt.failed(NOT_REACHED);
                let (parts, body) = unsent.into_parts();
                let received = Received { body, passage, share };
                return Err(Failed::NoReplica(Box::new(Outgoing { parts, target, received, grpc })));
            }
            Err(SendError::Lost(error)) => {
                attempt.failed("there was no answer");
                if let Some(fault) = passage.as_ref().and_then(|passage| passage.fault()) {
                    return Err(bad_body(fault, config).into());
                }
                tracing::warn!(error = &*error, deployment = %deployment.id, replica = replica.route.id, "a replica ended before it had answered");
                return Err(Problem::ReplicaLost.into());
            }
        }
    };
    drop(share);
    let (response, mut connection) = begun;
    let (mut parts, mut rest) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.headers.insert(headers::DEPLOYMENT, deployment.header.clone());
    if scored {
        mark_model_error(&mut parts);
    }
    let underway = Underway::new(flight, place, deployment);
    let first = match &mut connection {
        Some(connection) => match connection.gather(&mut rest) {
            Ok(Gathered::Whole(body)) => Some(Ok(body)),
            Ok(Gathered::Part(part)) => Some(Err(part)),
            Err(_) => return Err(Problem::ReplicaLost.into()),
        },
        None if rest.is_end_stream() => Some(Ok(Bytes::new())),
        None => None,
    };
    let body = match first {
        Some(Ok(whole)) => {
            if let Some(connection) = connection {
                underway.flight.replica.keep(connection, config);
            }
            drop(underway);
            Body::from(whole)
        }
        part => {
            let part = part.and_then(Result::err).unwrap_or_default();
            Body::new(AnswerBody::new(part, rest, connection, underway, Arc::clone(config)))
        }
    };
    Ok(Response::from_parts(parts, body))
}

/// A client's body that cannot be passed on.
pub(crate) fn bad_body(fault: BodyFault, config: &GatewayConfig) -> Problem {
    match fault {
        BodyFault::TooLarge => Problem::BodyTooLarge { limit: config.max_body_bytes },
        BodyFault::Incomplete => Problem::BodyIncomplete,
        BodyFault::Stalled => Problem::BodyTimeout,
    }
}

/// HTTP/2 names the server in the request.
fn absolute(replica: &Replica, target: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(replica.route.address.to_string()).ok();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).unwrap_or_default()
}

/// Azure ML's clients know an error of the model by 424 and find its own status beside it. What the scorer says for
/// itself, that it is busy, loading or too late, is said for this server too.
fn mark_model_error(parts: &mut http::response::Parts) {
    let status = parts.status;
    let scorers_own = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) && !parts.headers.contains_key(headers::RUN_TIME);
    if status.as_u16() < 400 || scorers_own {
        return;
    }
    parts.headers.insert(headers::MODEL_STATUS, HeaderValue::from(status.as_u16()));
    let reason = HeaderValue::from_static(status.canonical_reason().unwrap_or("Unknown"));
    parts.headers.insert(headers::MODEL_REASON, reason);
    parts.status = StatusCode::FAILED_DEPENDENCY;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(status: u16, by_script: bool) -> (u16, Option<String>) {
        let (mut parts, ()) = Response::builder().status(status).body(()).unwrap().into_parts();
        if by_script {
            parts.headers.insert(headers::RUN_TIME, HeaderValue::from_static("0.1"));
        }
        mark_model_error(&mut parts);
        let original = parts.headers.get(headers::MODEL_STATUS);
        (parts.status.as_u16(), original.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn an_error_of_the_model_is_424_and_one_of_the_scorer_is_not() {
        for passed in [200, 204, 304, 408, 429, 503] {
            assert_eq!(marked(passed, false), (passed, None));
        }
        for model in [400, 415, 500, 502] {
            assert_eq!(marked(model, false), (424, Some(model.to_string())));
        }
        for scripted in [408, 429, 503] {
            assert_eq!(marked(scripted, true), (424, Some(scripted.to_string())));
        }
    }
}
