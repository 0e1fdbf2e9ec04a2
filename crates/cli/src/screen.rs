//! The person's side of standard error: notes, warnings, colour and progress. Results go to standard output, and
//! nothing else does.

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How much is said, and whether somebody is looking.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    /// Standard error is a terminal.
    interactive: bool,
    colour: bool,
    only_errors: bool,
    bars: MultiProgress,
}

impl Screen {
    pub(crate) fn new(only_errors: bool, no_colour: bool) -> Self {
        let interactive = std::io::stderr().is_terminal();
        Self { interactive, colour: interactive && !no_colour, only_errors, bars: MultiProgress::new() }
    }

    pub(crate) fn interactive(&self) -> bool {
        self.interactive && !self.only_errors
    }

    pub(crate) fn note(&self, text: impl Display) {
        if !self.only_errors {
            self.line(text);
        }
    }

    pub(crate) fn warn(&self, text: impl Display) {
        if !self.only_errors {
            self.line(format_args!("{} {text}", self.paint("33", "warning:")));
        }
    }

    /// Prints above whatever bars are drawn. A standard error that is closed is nobody's loss.
    fn line(&self, text: impl Display) {
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }

    /// Draws a bar of bytes where somebody is looking.
    pub(crate) fn bytes_bar(&self, label: &str, total: u64) -> ProgressBar {
        let style =
            ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        self.bar(ProgressBar::new(total), style, label)
    }

    /// Draws a wheel that turns while something goes on.
    pub(crate) fn wheel(&self, label: &str) -> ProgressBar {
        let bar = self.bar(
            ProgressBar::no_length().with_prefix(label.to_owned()),
            ProgressStyle::with_template("{spinner} {prefix} {elapsed:.dim} {wide_msg:.dim}"),
            "",
        );
        if self.interactive() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }

    fn bar(
        &self,
        bar: ProgressBar,
        style: Result<ProgressStyle, indicatif::style::TemplateError>,
        label: &str,
    ) -> ProgressBar {
        if !self.interactive() {
            return ProgressBar::hidden();
        }
        let bar = self.bars.add(bar);
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        bar
    }

    pub(crate) fn red(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn cyan(&self, text: &str) -> String {
        self.paint("36", text)
    }

    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
