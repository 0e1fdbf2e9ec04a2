//! Housekeeping: takes away what nothing refers to any more, long after it was needed.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use moorline_store::RecordKind;

use super::Reconciler;
use crate::{problem::chain, status::DeploymentState};

/// Between two rounds; the first is at the start.
const INTERVAL: Duration = Duration::from_hours(1);
/// What is younger may be in use by something that is not written down yet.
const AGE: Duration = Duration::from_hours(24);

impl Reconciler {
    /// Keeps house until the reconciler stops.
    pub(super) async fn keep_house(&self) {
        loop {
            self.sweep().await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.0.stop.cancelled() => return,
            }
        }
    }

    async fn sweep(&self) {
        let before = SystemTime::now() - AGE;
        self.sweep_tokens().await;
        let records = match self.0.store.records(RecordKind::Deployment, None).await {
            Ok(records) => records,
            Err(error) => {
                return tracing::warn!(error = chain(&error), "housekeeping could not read the deployments");
            }
        };
        let mut needed = HashSet::new();
        for record in &records {
            // One that cannot be read may need anything: nothing is taken away.
            let Ok(state) = DeploymentState::read(record) else { return };
            needed.insert(state.body.desired.release.digest());
            needed.extend(state.status.active.map(|active| active.release.digest()));
        }
        needed.extend(self.0.targets.needed_by_devices());
        if let Err(error) = self.0.releases.sweep(&needed, before).await {
            tracing::warn!(error = chain(&error), "housekeeping could not remove releases");
        }
        if let Err(error) = self.0.targets.images().clear_contexts(before).await {
            tracing::warn!(
                error = chain(&error),
                "housekeeping could not remove what was built of Dockerfiles"
            );
        }
        match self.0.store.blobs().collect_garbage(AGE).await {
            Ok(collected) if collected.blobs + collected.uploads > 0 => {
                tracing::info!(
                    blobs = collected.blobs,
                    uploads = collected.uploads,
                    bytes = collected.bytes,
                    "housekeeping removed what nothing needs"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = chain(&error), "housekeeping could not remove blobs"),
        }
    }

    /// Tokens of endpoints are made by the hour; those that have run out are of no use to anybody.
    async fn sweep_tokens(&self) {
        let now = jiff::Timestamp::now();
        let tokens = match self.0.store.tokens().await {
            Ok(tokens) => tokens,
            Err(error) => {
                return tracing::warn!(error = chain(&error), "housekeeping could not read the tokens");
            }
        };
        for token in tokens.iter().filter(|token| token.expires_at.is_some_and(|end| end < now)) {
            if let Err(error) = self.0.store.revoke_token(&token.id).await {
                tracing::warn!(error = chain(&error), "housekeeping could not remove a token");
            }
        }
    }
}
