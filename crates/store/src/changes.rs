//! What changes in a store, told to whoever follows it: enough to know where to look again, and never what it was.
//!
//! It is a help for people who watch, and nothing is built on it: whoever follows too slowly is told that it missed
//! something, and looks at everything.

use moorline_core::Name;
use tokio::sync::broadcast;

use crate::Store;

/// Changes that a slow follower may be behind.
const BEHIND: usize = 1024;

/// Something was written, and is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub workspace: Name,
    /// `endpoint`, `deployment`, `compute`, `device`, the kinds of assets, or `operation`.
    pub kind: &'static str,
    /// A deployment's is `endpoint/deployment`, an operation's its id.
    pub name: String,
    /// Of a record that is there.
    pub generation: Option<u64>,
}

/// Where changes are told.
#[derive(Debug)]
pub(crate) struct Changes(broadcast::Sender<Change>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Changes {
    /// Called once the write is committed.
    pub(crate) fn tell(&self, workspace: &Name, kind: &'static str, name: &str, generation: Option<u64>) {
        if self.0.receiver_count() > 0 {
            let change = Change { workspace: workspace.clone(), kind, name: name.to_owned(), generation };
            // Whoever listened may have left just now.
            let _ = self.0.send(change);
        }
    }
}

impl Store {
    /// Every change from now on that is made through this handle or a clone of it.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.told().0.subscribe()
    }
}
