//! The logs of a deployment's pods: whole lines, in the order of their times, and on with new ones.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{AsyncReadExt, Stream, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use moorline_core::{DeploymentId, ErrorClass, LogOptions, LogStream, TargetError};

use super::{error::ClusterError, names, objects::CONTAINER, pods::SeenPod, target::Context};
use crate::lines::{self, Line, Splitter};

/// Of one pod's log, where the reader does not say how much is wanted.
const MOST_LINES: usize = 100_000;
/// Of one pod's log at one time.
const MOST_BYTES: i64 = 64 << 20;
const PIECE: usize = 16 * 1024;

/// The logs as they are asked for. What is not known has none.
pub(super) async fn open(
    context: &Arc<Context>,
    id: &DeploymentId,
    options: LogOptions,
) -> Result<LogStream, TargetError> {
    let mut pods = context.cache.pods(&names::object_name(&context.look.owner, id));
    if let Some(replica) = &options.replica {
        pods.retain(|pod| pod.name == *replica);
        if pods.is_empty() {
            return Err(TargetError::new(
                ErrorClass::NotFound,
                format!("deployment `{id}` has no replica `{replica}`, or its log is not kept any more"),
            ));
        }
    }
    let tail = options.tail.unwrap_or(MOST_LINES);
    // The last lines of one request may be anywhere.
    let read = if options.request_id.is_some() { MOST_LINES } else { tail };
    let mut last = Vec::new();
    for pod in &pods {
        last.extend(lines_of(context, pod, CONTAINER, read, false).await?);
    }
    last.retain(|line| options.take(&line.text));
    let first = stream::iter(lines::merged(last, tail).into_iter().map(Ok));
    if !options.follow {
        return Ok(Box::pin(first));
    }
    let mut following = Vec::new();
    for pod in pods {
        if let Some(more) = follow(context, &pod, options.clone()).await? {
            following.push(Box::pin(more));
        }
    }
    Ok(Box::pin(futures_util::StreamExt::chain(first, stream::select_all(following))))
}

/// The last lines of a pod, for people: why its container ended.
pub(super) async fn last_lines(
    context: &Context,
    pod: &SeenPod,
    count: usize,
) -> Result<Vec<String>, ClusterError> {
    let container = pod.container.as_deref().unwrap_or(CONTAINER);
    let read = lines_of(context, pod, container, count, pod.ended_before).await?;
    Ok(read.iter().map(|line| String::from_utf8_lossy(&line.text).trim_end().to_owned()).collect())
}

/// `previous` means the container that ended before the one that there is.
async fn lines_of(
    context: &Context,
    pod: &SeenPod,
    container: &str,
    tail: usize,
    previous: bool,
) -> Result<Vec<Line>, ClusterError> {
    let parameters = LogParams {
        container: Some(container.to_owned()),
        timestamps: true,
        previous,
        tail_lines: i64::try_from(tail).ok(),
        limit_bytes: Some(MOST_BYTES),
        ..LogParams::default()
    };
    let text = match api(context).logs(&pod.name, &parameters).await {
        Ok(text) => text,
        // A container that was not started yet has no log, and a pod may be gone meanwhile.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404) => return Ok(Vec::new()),
        Err(error) => return Err(unread(pod, error)),
    };
    let mut whole = Splitter::default();
    let mut lines: Vec<Line> = whole.take(text.as_bytes()).iter().map(|line| Line::timed(line)).collect();
    lines.extend(whole.rest().map(|line| Line::timed(&line)));
    Ok(lines)
}

/// New lines of a pod, until it ends; `None` where it has no log.
async fn follow(
    context: &Context,
    pod: &SeenPod,
    wanted: LogOptions,
) -> Result<Option<impl Stream<Item = Result<Bytes, TargetError>> + Send + use<>>, ClusterError> {
    let parameters = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow: true,
        tail_lines: Some(0),
        ..LogParams::default()
    };
    let pieces = match api(context).log_stream(&pod.name, &parameters).await {
        Ok(pieces) => pieces,
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404) => return Ok(None),
        Err(error) => return Err(unread(pod, error)),
    };
    let name = pod.name.clone();
    let state = (Box::pin(pieces), Splitter::default(), name, wanted);
    Ok(Some(stream::unfold(state, |(mut pieces, mut whole, name, wanted)| async move {
        let mut piece = vec![0; PIECE];
        loop {
            match pieces.read(&mut piece).await {
                Ok(0) => return None,
                Ok(read) => {
                    let mut lines = whole.take(&piece[..read]);
                    lines.retain(|line| wanted.take(line));
                    if !lines.is_empty() {
                        return Some((Ok(Bytes::from(lines.concat())), (pieces, whole, name, wanted)));
                    }
                }
                Err(error) => {
                    let message = format!("the log of pod {name} broke off");
                    let error = TargetError::caused(ErrorClass::Unavailable, message, error);
                    return Some((Err(error), (pieces, whole, name, wanted)));
                }
            }
        }
    })))
}

fn api(context: &Context) -> Api<Pod> {
    Api::namespaced(context.cluster.client.clone(), &context.cluster.namespace)
}

fn unread(pod: &SeenPod, error: kube::Error) -> ClusterError {
    ClusterError::of(format!("could not read the log of pod {}", pod.name), error)
}
