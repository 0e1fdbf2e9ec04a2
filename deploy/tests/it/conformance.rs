//! The local target obeys the laws of its seam.

use std::sync::Arc;

use moorline_core::{Target, TargetKind};
use moorline_testkit::target_conformance;

use crate::place::Home;

#[tokio::test(flavor = "multi_thread")]
async fn the_local_target_obeys_the_laws() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let target = Arc::clone(&home.target) as Arc<dyn Target>;
    target_conformance(TargetKind::Local, async || Arc::clone(&target), async |release| release).await;
    home.close().await;
}
