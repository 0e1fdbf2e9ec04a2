//! What long work says while it goes on, to whoever started it.

use std::{fmt, sync::Arc};

/// One thing worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A line for people: what is done now, or what a build printed.
    Line(&'a str),
    /// Bytes of one blob on their way; told again and again with a greater `done`, the last time with `done == total`.
    Transfer { direction: Direction, blob: &'a str, done: u64, total: u64 },
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a registry to this machine.
    Pull,
    /// From this machine to a registry.
    Push,
    /// From this machine into an Engine.
    Load,
}

impl Direction {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Load => "load",
        }
    }
}

/// Told of every step. It is called from tasks of the runtime and must not block. Cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Step<'_>) + Send + Sync>);

impl Progress {
    pub fn new(told: impl Fn(Step<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// For whom nobody waits.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    pub fn line(&self, line: &str) {
        (self.0)(Step::Line(line));
    }

    pub fn transfer(&self, direction: Direction, blob: &str, done: u64, total: u64) {
        (self.0)(Step::Transfer { direction, blob, done, total });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
