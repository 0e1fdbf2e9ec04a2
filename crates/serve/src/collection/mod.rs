//! Data collection seen from a request: whether it is sampled, and handing over what is kept of it. A request pays for a
//! copy and a place in a bounded queue; a thread of low priority makes lines of it and writes them ([`writer`]).
//!
//! Nothing here makes a request wait or fail. What does not fit is counted and forgotten.

mod record;
mod rows;
mod script;
mod spool;
mod writer;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use moorline_core::{
    CollectionSettings, MODEL_INPUTS, MODEL_OUTPUTS, REQUEST, RESPONSE, Tensors, Value, with_elements,
};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

pub use self::script::ScriptCollector;
use self::{
    record::{Body, Head, Record},
    spool::Spool,
};
use crate::metrics::Metrics;

/// Records that wait to be written, and their bytes.
const MOST_WAITING: usize = 16 * 1024;
const MOST_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// What is longer is recorded by its length alone.
const MOST_RECORD_BYTES: usize = 1024 * 1024;
/// Of one captured header.
const MOST_HEADER_BYTES: usize = 1024;
/// Whoever fetched within this time is expected to come again for what is left at the end.
const EXPECTED: Duration = Duration::from_secs(30);
/// How long the end waits for that.
const FETCHED_WITHIN: Duration = Duration::from_secs(8);
const FETCHED_POLL: Duration = Duration::from_millis(50);

/// What is kept, and where until it is fetched.
#[derive(Clone, Debug)]
pub struct CollectConfig {
    pub settings: CollectionSettings,
    /// Scorers of one deployment may share it.
    pub folder: PathBuf,
    /// Bytes of everything that waits to be fetched.
    pub spool_bytes: u64,
    pub endpoint: String,
    pub deployment: String,
    pub model_version: String,
}

/// Why a record is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    /// More came than could be written.
    QueueFull,
    /// Nobody fetches what there is.
    SpoolFull,
    /// The disk is full, or fails.
    Disk,
    /// A scoring script gave more than is taken.
    TooLarge,
}

impl Dropped {
    const ALL: [(Self, &'static str); 4] = [
        (Self::QueueFull, "queue_full"),
        (Self::SpoolFull, "spool_full"),
        (Self::Disk, "disk"),
        (Self::TooLarge, "too_large"),
    ];
}

/// The counters of one collection.
#[derive(Debug)]
struct Counts {
    name: String,
    records: IntCounter,
    /// In the order of [`Dropped::ALL`].
    dropped: [IntCounter; Dropped::ALL.len()],
}

impl Counts {
    fn drop(&self, why: Dropped, records: u64) {
        self.dropped[why as usize].inc_by(records);
    }
}

/// Which of the scorer's own collections are enabled, by their place among all.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    request: Option<usize>,
    response: Option<usize>,
    inputs: Option<usize>,
    outputs: Option<usize>,
}

#[derive(Debug, Default)]
struct Queue {
    records: Vec<Record>,
    bytes: usize,
    closed: bool,
}

/// Keeps what the settings say of what is scored.
#[derive(Debug)]
pub struct Recorder {
    config: CollectConfig,
    own: Own,
    counts: Vec<Counts>,
    spool_bytes: IntGauge,
    queue: Mutex<Queue>,
    arrived: Condvar,
    spool: Mutex<Spool>,
    begun: Instant,
    /// Milliseconds after `begun` at which somebody fetched last; 0: nobody did.
    fetched: AtomicU64,
}

/// One sampled request: its records have one id.
#[derive(Clone, Debug)]
pub(crate) struct Collecting {
    recorder: Arc<Recorder>,
    id: Arc<str>,
}

impl Recorder {
    /// Opens the folder, takes over what a scorer left there that is gone, and starts the thread that writes.
    pub fn start(config: CollectConfig, metrics: &Metrics) -> io::Result<Arc<Self>> {
        let names: Vec<String> = config.settings.collections.iter().map(ToString::to_string).collect();
        let place = |name: &str| names.iter().position(|own| own == name);
        let own = Own {
            request: place(REQUEST),
            response: place(RESPONSE),
            inputs: place(MODEL_INPUTS),
            outputs: place(MODEL_OUTPUTS),
        };
        let spool =
            Spool::open(&config.folder, &names, config.settings.rolling_rate.seconds(), config.spool_bytes)?;
        let (counts, spool_bytes) = register(metrics, &names).map_err(io::Error::other)?;
        let recorder = Arc::new(Self {
            config,
            own,
            counts,
            spool_bytes,
            queue: Mutex::default(),
            arrived: Condvar::new(),
            spool: Mutex::new(spool),
            begun: Instant::now(),
            fetched: AtomicU64::new(0),
        });
        let writing = Arc::clone(&recorder);
        std::thread::Builder::new().name("collect".to_owned()).spawn(move || writer::write(&writing))?;
        Ok(recorder)
    }

    /// This request's records, if it is one of those that are kept. All records of one id are kept, or none is.
    pub(crate) fn sample(self: &Arc<Self>, request_id: &str) -> Option<Collecting> {
        let Own { request, response, inputs, outputs } = self.own;
        request.or(response).or(inputs).or(outputs)?;
        // A caller that sends an empty id wants none; its records have one all the same.
        let id: Arc<str> =
            if request_id.is_empty() { uuid::Uuid::new_v4().to_string().into() } else { request_id.into() };
        self.is_sampled(&id).then(|| Collecting { recorder: Arc::clone(self), id })
    }

    fn is_sampled(&self, id: &str) -> bool {
        let rate = self.config.settings.sampling_rate;
        if rate >= 1.0 {
            return true;
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        // The upper 53 bits as a fraction of 1.
        ((hasher.finish() >> 11) as f64) < rate * (1_u64 << 53) as f64
    }

    fn offer(&self, record: Record) {
        let bytes = record.weight();
        let mut queue = self.queue();
        if queue.closed
            || queue.records.len() >= MOST_WAITING
            || queue.bytes.saturating_add(bytes) > MOST_WAITING_BYTES
        {
            drop(queue);
            self.counts[record.collection].drop(Dropped::QueueFull, 1);
            return;
        }
        let first = queue.records.is_empty();
        queue.bytes += bytes;
        queue.records.push(record);
        drop(queue);
        // The writer gathers for a while before it takes all that came: it is woken for the first alone.
        if first {
            self.arrived.notify_one();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the segment that `acknowledged` names and gives the next one: a line that says what it is, and its records;
    /// nothing where there is none. With `seal`, what is being written ends first. Blocks.
    pub(crate) fn fetch(&self, acknowledged: Option<&str>, seal: bool) -> io::Result<Vec<u8>> {
        let since = self.begun.elapsed().as_millis() as u64;
        self.fetched.store(since.max(1), Ordering::Relaxed);
        if seal {
            self.write_waiting();
        }
        let mut spool = self.spool();
        if let Some(id) = acknowledged {
            spool.forget(id)?;
        }
        if seal {
            spool.seal_all();
        }
        let next = spool.next();
        self.spool_bytes.set(i64::try_from(spool.bytes()).unwrap_or(i64::MAX));
        next
    }

    /// Ends the collection: writes what waits, and gives whoever fetched of late the time to do it once more. What is not
    /// fetched stays in the folder, for the next scorer of this deployment.
    pub(crate) async fn finish(self: Arc<Self>) {
        self.queue().closed = true;
        let this = Arc::clone(&self);
        let sealed = tokio::task::spawn_blocking(move || {
            this.write_waiting();
            this.spool().seal_all();
        });
        let fetched = Duration::from_millis(self.fetched.load(Ordering::Relaxed));
        if sealed.await.is_err()
            || fetched.is_zero()
            || self.begun.elapsed().saturating_sub(fetched) > EXPECTED
        {
            return;
        }
        let until = Instant::now() + FETCHED_WITHIN;
        while Instant::now() < until && !self.spool().is_empty() {
            tokio::time::sleep(FETCHED_POLL).await;
        }
    }
}

impl Collecting {
    /// Keeps the body of a request, and of its head what is asked for.
    pub(crate) fn request(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) {
        let Some(collection) = self.recorder.own.request else { return };
        let captured = self.recorder.config.settings.capture_headers.iter().filter_map(|name| {
            if CollectionSettings::is_credential(name) {
                return None;
            }
            let value = headers.get(name)?.as_bytes();
            let value = String::from_utf8_lossy(&value[..value.len().min(MOST_HEADER_BYTES)]).into_owned();
            Some((name.clone(), value))
        });
        let head = Head::Request {
            method: method.clone(),
            path: uri.path().to_owned(),
            headers: captured.collect(),
        };
        self.offer(collection, Body::of_bytes(headers.get(header::CONTENT_TYPE), body), head);
    }

    /// Keeps an answer.
    pub(crate) fn response(&self, status: u16, content_type: Option<&http::HeaderValue>, body: &Bytes) {
        let Some(collection) = self.recorder.own.response else { return };
        self.offer(collection, Body::of_bytes(content_type, body), Head::Response { status });
    }

    /// Keeps what the engine was given.
    pub(crate) fn inputs(&self, tensors: &Tensors) {
        self.tensors(self.recorder.own.inputs, tensors);
    }

    /// Keeps what the engine gave.
    pub(crate) fn outputs(&self, tensors: &Tensors) {
        self.tensors(self.recorder.own.outputs, tensors);
    }

    fn tensors(&self, collection: Option<usize>, tensors: &Tensors) {
        let Some(collection) = collection else { return };
        let bytes: usize = tensors.iter().map(|(_, value)| size(value)).sum();
        let body = if bytes > MOST_RECORD_BYTES {
            Body::Length(bytes)
        } else {
            Body::Tensors { tensors: tensors.clone(), bytes }
        };
        self.offer(collection, body, Head::None);
    }

    fn offer(&self, collection: usize, body: Body, head: Head) {
        self.recorder.offer(Record {
            collection,
            id: Arc::clone(&self.id),
            time: SystemTime::now(),
            body,
            head,
        });
    }
}

/// Bytes of a value's elements.
fn size(value: &Value) -> usize {
    let tensor = |tensor: &moorline_core::Tensor| match tensor.data() {
        moorline_core::TensorData::String(texts) => texts.iter().map(|text| text.len() + 24).sum(),
        data => with_elements!(data, elements => size_of_val(elements.as_slice())),
    };
    match value {
        Value::Tensor(own) => tensor(own),
        Value::Sequence(several) => several.iter().map(tensor).sum(),
        Value::Maps(maps) => tensor(&maps.values),
    }
}

fn register(metrics: &Metrics, names: &[String]) -> Result<(Vec<Counts>, IntGauge), prometheus::Error> {
    let (registry, labels) = metrics.registry();
    let own = |name: &str, help: &str| Opts::new(name, help).const_labels(labels.clone());
    let records = IntCounterVec::new(
        own("moorline_collected_records_total", "Records of requests and answers that were kept"),
        &["collection"],
    )?;
    let dropped = IntCounterVec::new(
        own("moorline_collected_dropped_total", "Records of requests and answers that could not be kept"),
        &["collection", "reason"],
    )?;
    let spool_bytes = IntGauge::with_opts(own(
        "moorline_collected_spool_bytes",
        "Bytes of records that wait to be fetched into the workspace's store",
    ))?;
    registry.register(Box::new(records.clone()))?;
    registry.register(Box::new(dropped.clone()))?;
    registry.register(Box::new(spool_bytes.clone()))?;
    let counts = names.iter().map(|name| Counts {
        records: records.with_label_values(&[name]),
        dropped: Dropped::ALL.map(|(_, reason)| dropped.with_label_values(&[name.as_str(), reason])),
        name: name.clone(),
    });
    Ok((counts.collect(), spool_bytes))
}
