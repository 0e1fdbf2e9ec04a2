//! Building a Dockerfile with the Engine.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
};

use bollard::{body_try_stream, query_parameters::BuildImageOptions};
use futures_util::StreamExt;
use moorline_core::ErrorClass;
use tokio_util::io::ReaderStream;

use super::{Engine, EngineError, context};
use crate::Progress;

/// The lines of a build that go with its failure.
const LINES: usize = 50;
const LONGEST_LINE: usize = 2000;

/// What is built.
#[derive(Clone, Debug)]
pub struct BuildRequest<'a> {
    /// The folder; its `.dockerignore` is heeded.
    pub context: &'a Path,
    /// Its path in the context, with `/` between the parts.
    pub dockerfile: &'a str,
    /// The name that the image gets: `repository:tag`.
    pub tag: &'a str,
    pub labels: HashMap<String, String>,
}

impl Engine {
    /// Builds an image and gives its id, `sha256:…`. What the build prints is told line by line; where it fails, the last
    /// lines go with the error. Dropping the future ends the build.
    pub async fn build(&self, request: BuildRequest<'_>, progress: &Progress) -> Result<String, EngineError> {
        let (folder, dockerfile) = (request.context.to_owned(), request.dockerfile.to_owned());
        let packed = tokio::task::spawn_blocking(move || context::pack(&folder, &dockerfile)).await;
        let file = packed.map_err(|error| {
            EngineError::caused(ErrorClass::Internal, "packing a build context was broken off", error)
        })??;
        let options = BuildImageOptions {
            dockerfile: request.dockerfile.to_owned(),
            t: Some(request.tag.to_owned()),
            labels: Some(request.labels),
            rm: true,
            forcerm: true,
            ..BuildImageOptions::default()
        };
        let body = body_try_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
        let mut answers = std::pin::pin!(self.docker().build_image(options, None, Some(body)));
        let mut said = Said::default();
        let mut id = None;
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| {
                let what = format!("`{}` could not be built", request.dockerfile);
                EngineError::of(&what, error).in_build().with_log(said.end(progress))
            })?;
            if let Some(text) = answer.stream.or(answer.status) {
                said.hear(&text, progress);
            }
            id = answer.aux.and_then(|image| image.id).or(id);
        }
        let lines = said.end(progress);
        // Podman tells the id in its last line alone.
        id.or_else(|| lines.last().filter(|line| is_id(line)).cloned()).ok_or_else(|| {
            let message = format!("the build of `{}` ended without an image", request.dockerfile);
            EngineError::new(ErrorClass::Unavailable, message).with_log(lines)
        })
    }
}

fn is_id(line: &str) -> bool {
    let digits = line.strip_prefix("sha256:").unwrap_or(line);
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a build printed: whole lines are told, and the last ones kept.
#[derive(Default)]
pub(super) struct Said {
    lines: VecDeque<String>,
    open: String,
}

impl Said {
    pub(super) fn hear(&mut self, text: &str, progress: &Progress) {
        for piece in text.split_inclusive('\n') {
            // A line without an end is cut, not gathered.
            let room = LONGEST_LINE.saturating_sub(self.open.chars().count());
            self.open.extend(piece.chars().take(room));
            if piece.ends_with('\n') {
                self.line(progress);
            }
        }
    }

    fn line(&mut self, progress: &Progress) {
        let line = std::mem::take(&mut self.open);
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        progress.line(line);
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }

    pub(super) fn end(&mut self, progress: &Progress) -> Vec<String> {
        self.line(progress);
        std::mem::take(&mut self.lines).into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn whole_lines_are_told_and_the_last_are_kept() {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let progress = {
            let told = Arc::clone(&told);
            Progress::new(move |step| {
                if let crate::Step::Line(line) = step {
                    told.lock().unwrap().push(line.to_owned());
                }
            })
        };
        let mut said = Said::default();
        said.hear("Step 1", &progress);
        said.hear("/2\n\n", &progress);
        said.hear(&"é".repeat(5000), &progress);
        said.hear(&format!("\n{}", "line\n".repeat(60)), &progress);
        said.hear("last", &progress);
        let kept = said.end(&progress);
        assert_eq!((kept.len(), kept.last().map(String::as_str)), (LINES, Some("last")));
        let told = told.lock().unwrap();
        assert_eq!((told.len(), told[0].as_str(), told[1].chars().count()), (63, "Step 1/2", LONGEST_LINE));
    }
}
