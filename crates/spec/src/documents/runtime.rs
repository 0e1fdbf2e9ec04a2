//! The `moorline.*` properties of a deployment: what Azure ML has no word for, where Azure ML takes any text.

use std::num::NonZeroUsize;

use moorline_core::{BatchSettings, EngineSettings, Name};

/// What the properties of a deployment say; checked when the document is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// `moorline.compute`
    pub compute: Option<Name>,
    /// `moorline.engine`, `moorline.sessions`, `moorline.threads`
    pub engine: EngineSettings,
    /// `moorline.max_batch_size`, `moorline.max_batch_delay_us`
    pub batching: Option<BatchSettings>,
    /// `moorline.worker_count`
    pub worker_count: Option<NonZeroUsize>,
    /// `moorline.scale_down_delay`, seconds
    pub scale_down_delay: Option<u32>,
}
