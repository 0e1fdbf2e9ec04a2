//! When devices were last here, over restarts of the server: the hub itself knows only of its own life.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use moorline_edge::{fleet::Fleet, hub::Hub};
use tokio_util::sync::CancellationToken;

use super::write_private;
use crate::problem::chain;

/// How often it is written down.
const OFTEN: Duration = Duration::from_mins(1);

/// When devices were seen last, as seconds since 1970.
#[derive(Debug)]
pub(crate) struct Seen {
    path: PathBuf,
    /// In lives of this server before.
    before: Mutex<BTreeMap<String, u64>>,
}

impl Seen {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let before = match fs_err::read(&path) {
            // What cannot be read is as good as nothing: it is written anew.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, before: Mutex::new(before) })
    }

    fn before(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a device was seen before this life of the server.
    pub(crate) fn earlier(&self, device: &str) -> Option<SystemTime> {
        self.before().get(device).map(|seconds| UNIX_EPOCH + Duration::from_secs(*seconds))
    }

    /// When each of these devices was seen last: now, if it is connected. One that never was here has no time.
    pub(super) fn last(&self, hub: &Hub, devices: &[&str]) -> BTreeMap<String, u64> {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for (id, state) in hub.clients() {
            let time = if state.connected { Some(SystemTime::now()) } else { state.last_disconnect };
            let Some(time) = time.map(seconds) else { continue };
            let known = last.entry(id.device_name().to_owned()).or_default();
            *known = time.max(*known);
        }
        let before = self.before();
        let of = |device: &&str| {
            let time = last.get(*device).or_else(|| before.get(*device))?;
            Some(((*device).to_owned(), *time))
        };
        devices.iter().filter_map(of).collect()
    }

    /// Writes down, again and again and at the end.
    pub(super) async fn keep(&self, hub: &Hub, fleet: &Fleet, stop: CancellationToken) {
        loop {
            let ends = stop.run_until_cancelled(tokio::time::sleep(OFTEN)).await.is_none();
            let devices = fleet.devices();
            let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
            let last = self.last(hub, &names);
            let written = serde_json::to_string(&last).map_err(io::Error::from);
            let (path, changed) = (self.path.clone(), *self.before() != last);
            if let (true, Ok(text)) = (changed, written) {
                let written = tokio::task::spawn_blocking(move || write_private(&path, &text)).await;
                match written.map_err(io::Error::other).flatten() {
                    Ok(()) => *self.before() = last,
                    Err(error) => {
                        tracing::warn!(
                            error = chain(&error),
                            "when devices were here could not be written down"
                        );
                    }
                }
            }
            if ends {
                return;
            }
        }
    }
}
