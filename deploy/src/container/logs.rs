//! Reading the logs of a deployment's containers: whole lines, in the order of their times, and on with new ones.

use std::{collections::VecDeque, sync::Arc};

use bollard::{container::LogOutput, query_parameters::LogsOptions};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use moorline_core::{DeploymentId, ErrorClass, LogOptions, LogStream, TargetError};

use super::{EngineError, target::Context};
use crate::lines::{self, Line, Splitter};

/// Of one container's log, where the reader does not say how much is wanted.
const MOST_LINES: usize = 100_000;

/// The logs as they are asked for. What is not known has none.
pub(super) async fn open(
    context: &Arc<Context>,
    id: &DeploymentId,
    options: LogOptions,
) -> Result<LogStream, TargetError> {
    let mut containers = context.containers(Some(id)).await?;
    if let Some(replica) = &options.replica {
        containers.retain(|(identity, _)| identity.replica == *replica);
        if containers.is_empty() {
            return Err(TargetError::new(
                ErrorClass::NotFound,
                format!("deployment `{id}` has no replica `{replica}`, or its log is not kept any more"),
            ));
        }
    }
    let names: Vec<String> = containers.into_iter().filter_map(|(_, container)| container.id).collect();
    let tail = options.tail.unwrap_or(MOST_LINES);
    // The last lines of one request may be anywhere.
    let read = if options.request_id.is_some() { MOST_LINES } else { tail };
    let mut last = Vec::new();
    for name in &names {
        last.extend(lines_of(context, name, read).await?);
    }
    last.retain(|line| options.take(&line.text));
    let first = stream::iter(lines::merged(last, tail).into_iter().map(Ok));
    if !options.follow {
        return Ok(Box::pin(first));
    }
    let following =
        names.into_iter().map(|name| Box::pin(follow(Arc::clone(context), name, options.clone())));
    Ok(Box::pin(first.chain(stream::select_all(following))))
}

/// The last lines of a container, for people: why it failed.
pub(super) async fn last_lines(context: &Context, container: &str, lines: usize) -> Vec<String> {
    let read = lines_of(context, container, lines).await.unwrap_or_default();
    read.iter().map(|line| String::from_utf8_lossy(&line.text).trim_end().to_owned()).collect()
}

async fn lines_of(context: &Context, container: &str, tail: usize) -> Result<Vec<Line>, EngineError> {
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        timestamps: true,
        tail: tail.to_string(),
        ..LogsOptions::default()
    };
    let mut pieces = std::pin::pin!(context.engine.docker().logs(container, Some(options)));
    let mut lines = VecDeque::new();
    let mut whole = Splitter::default();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| EngineError::of("could not read a container's log", error))?;
        for line in whole.take(&piece.into_bytes()) {
            lines.push_back(Line::timed(&line));
        }
    }
    lines.extend(whole.rest().map(|line| Line::timed(&line)));
    Ok(lines.into_iter().collect())
}

/// New lines of a container, until it ends.
fn follow(
    context: Arc<Context>,
    container: String,
    wanted: LogOptions,
) -> impl Stream<Item = Result<Bytes, TargetError>> + Send {
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        follow: true,
        tail: "0".to_owned(),
        ..LogsOptions::default()
    };
    let pieces = context.engine.docker().logs(&container, Some(options));
    let pieces = pieces.map(|piece: Result<LogOutput, _>| piece);
    let state = (Box::pin(pieces), Splitter::default(), wanted);
    stream::unfold(state, |(mut pieces, mut whole, wanted)| async move {
        loop {
            match pieces.next().await? {
                Ok(piece) => {
                    let mut lines = whole.take(&piece.into_bytes());
                    lines.retain(|line| wanted.take(line));
                    if !lines.is_empty() {
                        return Some((Ok(Bytes::from(lines.concat())), (pieces, whole, wanted)));
                    }
                }
                Err(error) => {
                    let error = EngineError::of("the log of a container broke off", error);
                    return Some((Err(error.into()), (pieces, whole, wanted)));
                }
            }
        }
    })
}
