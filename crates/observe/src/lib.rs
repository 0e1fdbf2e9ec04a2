//! What is seen of requests from the side, for whoever answers them: spans that go to a collector, and lines that go to a
//! file. Neither is ever waited for: what cannot be taken is lost and counted.

mod lines;
mod log_file;
mod trace;

pub use lines::{LinePlace, Lines, LinesConfig};
pub use log_file::LogFile;
pub use opentelemetry::trace::SpanKind;
pub use trace::{Span, TraceConfig, TraceError, Tracing};
