//! What devices sent: kept in a bounded log, a file a day, and shown to whoever watches. A message leaves the hub's queue
//! only when it is in the log.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::FutureExt;
use jiff::Timestamp;
use moorline_edge::hub::{HubError, Upstream, UpstreamMessage};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::metrics::Measured;
use crate::problem::chain;

/// Messages that one watcher may be behind.
const BEHIND: usize = 4096;
/// Messages that are written together.
const TOGETHER: usize = 512;
/// After a failure of the disk.
const PAUSE: Duration = Duration::from_secs(1);

/// The bounds of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageLimits {
    /// Of all days together: the oldest days go first, and of one that is larger alone, the half that is older.
    pub(super) bytes: u64,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self { bytes: 1 << 30 }
    }
}

/// A message as it is shown and kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct DeviceMessage {
    received_at: Timestamp,
    device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    /// The output that it left by.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// By which a reader knows one that comes twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    properties: Map<String, Value>,
    /// JSON as it is, other text as a string, and anything else in `payload_base64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl DeviceMessage {
    fn of(message: &UpstreamMessage, received_at: Timestamp) -> Self {
        let properties = &message.properties;
        let system = |name: &str| properties.system(name).map(str::to_owned);
        let (payload, payload_base64) = match std::str::from_utf8(&message.payload) {
            Ok(text) => (serde_json::from_str(text).ok().or_else(|| Some(Value::from(text))), None),
            Err(_) => (None, Some(STANDARD.encode(&message.payload))),
        };
        Self {
            received_at,
            device: message.sender.device_name().to_owned(),
            module: message.sender.module_name().map(str::to_owned),
            output: system("on"),
            message_id: system("mid"),
            properties: properties.all_own().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            payload,
            payload_base64,
        }
    }
}

/// The log, and those who watch. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    folder: Arc<PathBuf>,
    limits: MessageLimits,
    watchers: broadcast::Sender<Watched>,
    measured: Arc<Measured>,
}

/// A message for watchers: its device, and its line.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) device: Arc<str>,
    pub(crate) line: Bytes,
}

impl Messages {
    pub(super) fn open(folder: PathBuf, limits: MessageLimits) -> io::Result<Self> {
        fs_err::create_dir_all(&folder)?;
        let (watchers, measured) = (broadcast::Sender::new(BEHIND), Arc::default());
        Ok(Self { folder: Arc::new(folder), limits, watchers, measured })
    }

    /// What devices measured last: those messages are not kept.
    pub(super) fn measured(&self) -> &Arc<Measured> {
        &self.measured
    }

    /// What comes from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Watched> {
        self.watchers.subscribe()
    }

    /// Takes in what the hub has until it is told to stop. What the disk does not take is tried again: the hub hands
    /// nothing out twice while it runs, and keeps everything that is not in the log for the next start.
    pub(super) async fn take(self, mut upstream: Upstream, stop: CancellationToken) {
        let mut batch = Batch::default();
        while let Some(taken) = stop.run_until_cancelled(self.take_some(&mut upstream, &mut batch)).await {
            if let Err(error) = taken {
                tracing::error!(error = chain(&error), "messages of devices are not taken in; they wait");
                if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }

    fn add(&self, batch: &mut Batch, message: &UpstreamMessage) -> io::Result<()> {
        if self.measured.take(message) {
            batch.sequences.push(message.sequence);
            return Ok(());
        }
        batch.add(message)
    }

    /// Fills the batch, writes it, and has the hub forget each message of it. Where that fails, the batch stays.
    async fn take_some(&self, upstream: &mut Upstream, batch: &mut Batch) -> Result<(), TakeError> {
        if batch.sequences.is_empty() {
            // The first one is waited for, and others only as far as they are there.
            self.add(batch, &upstream.next().await?)?;
            while batch.sequences.len() < TOGETHER {
                match upstream.next().now_or_never() {
                    Some(message) => self.add(batch, &message?)?,
                    None => break,
                }
            }
        }
        let (folder, limits, lines) = (Arc::clone(&self.folder), self.limits, batch.lines());
        let written = tokio::task::spawn_blocking(move || append(&folder, &lines, limits)).await;
        written.map_err(io::Error::other)??;
        let Batch { sequences, watched } = std::mem::take(batch);
        for sequence in sequences {
            upstream.done(sequence)?;
        }
        for watched in watched {
            // Nobody may watch.
            let _ = self.watchers.send(watched);
        }
        Ok(())
    }
}

/// Messages that were handed out together.
#[derive(Debug, Default)]
struct Batch {
    sequences: Vec<u64>,
    watched: Vec<Watched>,
}

impl Batch {
    fn add(&mut self, message: &UpstreamMessage) -> io::Result<()> {
        let shown = DeviceMessage::of(message, Timestamp::now());
        let mut line = serde_json::to_vec(&shown)?;
        line.push(b'\n');
        self.watched.push(Watched { device: shown.device.into(), line: line.into() });
        self.sequences.push(message.sequence);
        Ok(())
    }

    fn lines(&self) -> Vec<u8> {
        self.watched.iter().flat_map(|watched| watched.line.iter().copied()).collect()
    }
}

/// Why messages were not taken in.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error("the hub does not give them out")]
    Hub(#[from] HubError),
    #[error("they could not be written")]
    Disk(#[from] io::Error),
}

fn append(folder: &Path, lines: &[u8], limits: MessageLimits) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    // In UTC, and the day is what stands before the `T`.
    let now = Timestamp::now().to_string();
    let day = now.split('T').next().unwrap_or(&now);
    let today = folder.join(format!("{day}.jsonl"));
    let mut file = fs_err::OpenOptions::new().create(true).read(true).append(true).open(&today)?;
    // A server that was killed may have left half a line.
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(-1)).is_ok() {
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    file.write_all(lines)?;
    file.sync_data()?;
    let mut days: Vec<(PathBuf, u64)> = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        days.push((entry.path(), entry.metadata()?.len()));
    }
    days.sort();
    let mut sum: u64 = days.iter().map(|(_, bytes)| bytes).sum();
    for (path, bytes) in &days {
        if sum <= limits.bytes || *path == today {
            break;
        }
        fs_err::remove_file(path)?;
        sum -= bytes;
    }
    if sum > limits.bytes {
        let whole = fs_err::read(&today)?;
        let half = whole.len() / 2;
        let from =
            whole[half..].iter().position(|byte| *byte == b'\n').map_or(whole.len(), |end| half + end + 1);
        let beside = today.with_extension("part");
        fs_err::write(&beside, &whole[from..])?;
        fs_err::rename(beside, &today)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use moorline_edge::{
        authority::Authority,
        hub::{ClientId, Hub, HubConfig, Listed, Properties, TlsFiles},
    };
    use prometheus::Registry;

    use super::*;

    #[test]
    fn the_log_keeps_its_bound_and_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("2001-01-01.jsonl"), "{}\n").unwrap();
        let limits = MessageLimits { bytes: 1000 };
        for number in 0..300 {
            append(folder.path(), format!("{{\"number\":{number}}}\n").as_bytes(), limits).unwrap();
        }
        let files: Vec<_> =
            fs_err::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let text = fs_err::read_to_string(&files[0]).unwrap();
        assert!(text.len() <= 1000);
        let numbers: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["number"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers.last(), Some(&299));
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    }

    /// A hub in a folder, with the log beside it.
    async fn hub(folder: &Path, authority: &Authority) -> (Hub, Messages) {
        let issued = authority.issue_server(&["localhost"], Duration::from_hours(1)).unwrap();
        fs_err::write(folder.join("hub.pem"), issued.certificates).unwrap();
        fs_err::write(folder.join("hub.key"), issued.key).unwrap();
        let tls = TlsFiles {
            certificates: folder.join("hub.pem"),
            key: folder.join("hub.key"),
            client_authorities: None,
        };
        let address = ([127, 0, 0, 1], 0).into();
        let config = HubConfig::new(folder.join("state"), "localhost".to_owned(), address, tls);
        let hub = Hub::start(config, Arc::new(Listed::default()), &Registry::new()).await.unwrap();
        (hub, Messages::open(folder.join("messages"), MessageLimits::default()).unwrap())
    }

    #[tokio::test]
    async fn what_comes_together_is_kept_once_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::create("test", Duration::from_hours(1)).unwrap();
        let device = ClientId::device("line-3").unwrap();
        let mut sent = 0;
        for round in [300, 5] {
            let (hub, messages) = hub(folder.path(), &authority).await;
            for _ in 0..round {
                sent += 1;
                let payload = Bytes::from(sent.to_string());
                hub.send_from(&device, Properties::default(), payload).await.unwrap();
            }
            let mut watched = messages.watch();
            let stop = CancellationToken::new();
            let task = tokio::spawn(messages.take(hub.upstream(), stop.clone()));
            let last = format!("\"payload\":{sent}}}");
            let heard = async {
                while !String::from_utf8_lossy(&watched.recv().await.unwrap().line).contains(&last) {}
            };
            tokio::time::timeout(Duration::from_mins(1), heard).await.unwrap();
            stop.cancel();
            task.await.unwrap();
            hub.shutdown().await;
        }
        let log = fs_err::read_dir(folder.path().join("messages")).unwrap().next().unwrap().unwrap();
        let log = fs_err::read_to_string(log.path()).unwrap();
        let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["payload"].as_u64().unwrap();
        let numbers: Vec<u64> = log.lines().map(number).collect();
        assert_eq!(numbers, (1..=sent).collect::<Vec<u64>>());
    }
}
