//! Logs that come in pieces, as whole lines with the times at which they were taken.

use bytes::{Bytes, BytesMut};

/// A line that goes on without end is cut here.
const LONGEST_LINE: usize = 64 * 1024;

/// A line with the time at which it was taken, as text that sorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) time: String,
    pub(crate) text: Bytes,
}

impl Line {
    /// Of a line that its time stands before.
    pub(crate) fn timed(line: &[u8]) -> Self {
        match line.iter().position(|byte| *byte == b' ') {
            Some(space) => Self {
                time: String::from_utf8_lossy(&line[..space]).into_owned(),
                text: Bytes::copy_from_slice(&line[space + 1..]),
            },
            None => Self { time: String::new(), text: Bytes::copy_from_slice(line) },
        }
    }
}

/// The lines of several sources as one log: by their times, and no more than the last `tail`.
pub(crate) fn merged(mut lines: Vec<Line>, tail: usize) -> Vec<Bytes> {
    // Times of one length sort as texts do. Podman's are of whole seconds, so lines of one time stay as they came.
    lines.sort_by(|one, other| one.time.cmp(&other.time));
    let left_out = lines.len().saturating_sub(tail);
    lines.drain(left_out..).map(|line| line.text).collect()
}

/// Gathers pieces into whole lines, each with its end.
#[derive(Debug, Default)]
pub(crate) struct Splitter(BytesMut);

impl Splitter {
    pub(crate) fn take(&mut self, piece: &[u8]) -> Vec<Bytes> {
        self.0.extend_from_slice(piece);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            lines.push(self.0.split_to(end + 1).freeze());
        }
        if self.0.len() > LONGEST_LINE {
            let mut line = self.0.split();
            line.extend_from_slice(b"\n");
            lines.push(line.freeze());
        }
        lines
    }

    pub(crate) fn rest(self) -> Option<Bytes> {
        let mut rest = self.0;
        if rest.is_empty() {
            return None;
        }
        rest.extend_from_slice(b"\n");
        Some(rest.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_whole_lines() {
        let mut whole = Splitter::default();
        assert!(whole.take(b"a").is_empty());
        assert_eq!(whole.take(b"b\nc\nd"), ["ab\n", "c\n"]);
        assert_eq!(whole.rest().unwrap(), "d\n");
    }

    #[test]
    fn the_last_lines_of_all_are_in_the_order_of_their_times() {
        let line = |text: &str| Line::timed(text.as_bytes());
        assert_eq!(line("2026-01-01T00:00:00Z text of it\n").text, "text of it\n");
        let lines = vec![line("2 a\n"), line("3 b\n"), line("1 c\n"), line("2 d\n")];
        assert_eq!(merged(lines, 3), ["a\n", "d\n", "b\n"]);
    }
}
