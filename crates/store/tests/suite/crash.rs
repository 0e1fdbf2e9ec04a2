//! `kill -9` at any instant: a process that works on a store is killed hundreds of times, and each time the store must
//! open, hold everything that was acknowledged, and nothing half-done.
//!
//! The process is this test binary again. It tells on its standard output what it begins and what was acknowledged;
//! [`Ledger`] is what must therefore be there. Several of its tasks work at once, each in a workspace of its own, so that
//! for each of them at most one change is open when it is killed.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use moorline_core::{Digest, FileEntry, Name, Secret};
use moorline_store::{
    AssetKind, Database, NewAsset, NewOperation, NewWorkspace, OperationState, OperationUpdate, Page,
    RecordKind, Store, StoreConfig, StoreError,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    place::{Place, name},
    postgres::Postgres,
};

const KILLS_ON_SQLITE: u32 = 200;
const KILLS_ON_POSTGRES: u32 = 25;
/// Tasks of the process.
const TASKS: usize = 3;
/// Lines that are read before the process is killed, at most.
const LINES: u64 = 60;
/// How long it may go on after them, at most.
const GRACE: u64 = 4000;
const WORK: &str = "MOORLINE_STORE_TEST_WORK";

/// What the process is told, as JSON in [`WORK`].
#[derive(Serialize, Deserialize)]
struct Work {
    folder: PathBuf,
    postgres: Option<String>,
    seed: u64,
}

impl Work {
    fn config(&self) -> StoreConfig {
        let mut config = StoreConfig::in_folder(&self.folder);
        if let Some(address) = &self.postgres {
            config.database = Database::Postgres(Secret::new(address.clone()));
        }
        config
    }
}

/// A line of the process.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    task: usize,
    step: Step,
}

#[derive(Debug, Serialize, Deserialize)]
enum Step {
    Begin(Change),
    /// It was acknowledged, and this came of it.
    Done(Change),
    /// It was refused, as it must be where something exists already or does not exist.
    Refused,
}

/// A change of a workspace. What only the store knows is empty when it begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Change {
    CreateWorkspace,
    DeleteWorkspace,
    Register { name: String, content: u64, version: String },
    Archive { name: String, version: String },
    CreateRecord { name: String, body: u64 },
    UpdateRecord { name: String, body: u64 },
    DeleteRecord { name: String },
    SetSecret { key: String, value: u64 },
    DeleteSecret { key: String },
    BeginOperation { id: String },
    EndOperation { id: String },
    Upload { upload: u64, offset: u64 },
    Commit { upload: u64 },
    CollectGarbage,
}

/// Small, repeatable, good enough.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn bytes(seed: u64, length: u64) -> Bytes {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..length).map(|_| random.below(256) as u8).collect()
}

const UPLOADS: u64 = 3;
const UPLOAD_SIZE: u64 = 20_000;
const PIECE: u64 = 7_000;

/// The content of an upload of a task.
fn upload_content(task: usize, upload: u64) -> Bytes {
    bytes(1000 + task as u64 * UPLOADS + upload, UPLOAD_SIZE)
}

/// Of a model: one file that no other model has, and one that many have.
fn model_content(content: u64) -> [Bytes; 2] {
    [bytes(content, 1 + content % 3000), bytes(content % 4, 2000)]
}

fn workspace(task: usize) -> Name {
    name(&format!("task-{task}"))
}

#[test]
#[ignore = "the other tests of this file start it and kill it"]
fn work_until_killed() {
    let work = env::var_os(WORK).expect("the tests say what to do");
    let work: Work = serde_json::from_slice(work.as_encoded_bytes()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // The harness has begun a line of its own.
        std::io::stdout().write_all(b"\n").unwrap();
        let store = Store::open(work.config()).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            tasks.spawn(work_as(store.clone(), task, Random(work.seed * 10 + task as u64 + 1)));
        }
        // They never end by themselves.
        tasks.join_next().await.unwrap().unwrap();
    });
}

async fn work_as(store: Store, task: usize, mut random: Random) {
    let mut operation = None;
    loop {
        let change = choose(&mut random, operation.as_ref());
        tell(&Line { task, step: Step::Begin(change.clone()) });
        let step = match perform(&store, task, change).await {
            Ok(done) => {
                match &done {
                    Change::BeginOperation { id } => operation = Some(id.clone()),
                    Change::EndOperation { .. } | Change::DeleteWorkspace => operation = None,
                    _ => {}
                }
                Step::Done(done)
            }
            Err(
                StoreError::NotFound { .. }
                | StoreError::Exists { .. }
                | StoreError::BlobMissing { .. }
                | StoreError::Offset { .. }
                | StoreError::Size { .. },
            ) => Step::Refused,
            Err(error) => panic!("task {task}: {error:?}"),
        };
        tell(&Line { task, step });
    }
}

/// Fails when nobody reads it any more, which ends the process.
fn tell(line: &Line) {
    let mut text = serde_json::to_string(line).unwrap();
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).unwrap();
}

fn choose(random: &mut Random, operation: Option<&String>) -> Change {
    let mut one_of = |prefix: &str, bound: u64| format!("{prefix}-{}", random.below(bound));
    let (model, compute, key) = (one_of("model", 3), one_of("compute", 4), one_of("key", 3));
    let version = (1 + random.below(6)).to_string();
    let value = random.below(1_000_000);
    match random.below(100) {
        0..6 => Change::CreateWorkspace,
        6 => Change::DeleteWorkspace,
        7..27 => Change::Register { name: model, content: value, version: String::new() },
        27..31 => Change::Archive { name: model, version },
        31..40 => Change::CreateRecord { name: compute, body: value },
        40..50 => Change::UpdateRecord { name: compute, body: value },
        50..54 => Change::DeleteRecord { name: compute },
        54..62 => Change::SetSecret { key, value },
        62..65 => Change::DeleteSecret { key },
        65..75 => match operation {
            Some(id) => Change::EndOperation { id: id.clone() },
            None => Change::BeginOperation { id: String::new() },
        },
        75..90 => Change::Upload { upload: value % UPLOADS, offset: 0 },
        90..98 => Change::Commit { upload: value % UPLOADS },
        _ => Change::CollectGarbage,
    }
}

async fn perform(store: &Store, task: usize, mut change: Change) -> Result<Change, StoreError> {
    let workspace = workspace(task);
    match &mut change {
        Change::CreateWorkspace => {
            let new = NewWorkspace { name: workspace, body: json!({}) };
            store.create_workspace(new).await?;
        }
        Change::DeleteWorkspace => store.delete_workspace(&workspace, true).await?,
        Change::Register { name, content, version } => {
            let mut files = Vec::new();
            for (index, content) in model_content(*content).into_iter().enumerate() {
                let size = content.len() as u64;
                let sha256 = store.blobs().put(content).await?;
                files.push(FileEntry { path: format!("file-{index}"), size, sha256 });
            }
            let new = NewAsset {
                workspace,
                kind: AssetKind::Model,
                name: self::name(name),
                version: None,
                body: json!({}),
                digest: Digest::of(&model_content(*content)[0]),
                files,
                anonymous: false,
            };
            *version = store.register(new).await?.asset.version;
        }
        Change::Archive { name, version } => {
            let name = self::name(name);
            store.archive_asset(&workspace, AssetKind::Model, &name, version, true).await?;
        }
        Change::CreateRecord { name, body } => {
            store.create_record(&workspace, RecordKind::Compute, name, json!(*body)).await?;
        }
        Change::UpdateRecord { name, body } => {
            store.update_record(&workspace, RecordKind::Compute, name, None, json!(*body)).await?;
        }
        Change::DeleteRecord { name } => store.delete_record(&workspace, RecordKind::Compute, name).await?,
        Change::SetSecret { key, value } => {
            store.set_secret(&workspace, key, Secret::new(value.to_string())).await?;
        }
        Change::DeleteSecret { key } => store.delete_secret(&workspace, key).await?,
        Change::BeginOperation { id } => {
            let new = NewOperation { workspace, kind: "work".to_owned(), subject: "itself".to_owned() };
            *id = store.create_operation(new).await?.id;
        }
        Change::EndOperation { id } => {
            let log = (0..3).map(|line| line.to_string()).collect();
            let state = Some(OperationState::Succeeded);
            store.update_operation(id, OperationUpdate { state, log, ..OperationUpdate::default() }).await?;
        }
        Change::Upload { upload, offset } => {
            let content = upload_content(task, *upload);
            let digest = Digest::of(&content);
            let start = store.blobs().upload_offset(&digest).await?;
            let piece = content.slice(start as usize..(start + PIECE).min(UPLOAD_SIZE) as usize);
            *offset =
                store.blobs().append(&digest, start, stream::iter([Ok::<_, StoreError>(piece)])).await?;
        }
        Change::Commit { upload } => {
            let digest = Digest::of(&upload_content(task, *upload));
            store.blobs().commit(&digest, UPLOAD_SIZE).await?;
        }
        Change::CollectGarbage => {
            store.blobs().collect_garbage(Duration::ZERO).await?;
        }
    }
    Ok(change)
}

/// What a workspace holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Contents {
    exists: bool,
    /// By name and version: the digest, and whether it is archived.
    models: BTreeMap<(String, String), (Digest, bool)>,
    /// By name: the generation and the body.
    records: BTreeMap<String, (u64, u64)>,
    secrets: BTreeMap<String, u64>,
    /// By id: whether it has ended.
    operations: BTreeMap<String, bool>,
}

impl Contents {
    fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::CreateWorkspace => self.exists = true,
            Change::DeleteWorkspace => *self = Self::default(),
            Change::Register { name, content, version } => {
                let digest = Digest::of(&model_content(content)[0]);
                self.models.insert((name, version), (digest, false));
            }
            Change::Archive { name, version } => {
                if let Some(model) = self.models.get_mut(&(name, version)) {
                    model.1 = true;
                }
            }
            Change::CreateRecord { name, body } => {
                self.records.entry(name).or_insert((1, body));
            }
            Change::UpdateRecord { name, body } => {
                if let Some(record) = self.records.get_mut(&name) {
                    *record = (record.0 + 1, body);
                }
            }
            Change::DeleteRecord { name } => drop(self.records.remove(&name)),
            Change::SetSecret { key, value } => drop(self.secrets.insert(key, value)),
            Change::DeleteSecret { key } => drop(self.secrets.remove(&key)),
            Change::BeginOperation { id } => drop(self.operations.insert(id, false)),
            Change::EndOperation { id } => drop(self.operations.insert(id, true)),
            Change::Upload { .. } | Change::Commit { .. } | Change::CollectGarbage => {}
        }
    }

    /// What is really there, with every file of every model verified; of operations only those that are known.
    async fn read(store: &Store, task: usize, known: &Self) -> Self {
        let workspace = workspace(task);
        let mut found = Self::default();
        match store.workspace(&workspace).await {
            Ok(_) => found.exists = true,
            Err(StoreError::NotFound { .. }) => return found,
            Err(error) => panic!("{error:?}"),
        }
        let page = Page { include_archived: true, ..Page::default() };
        for latest in store.assets(&workspace, AssetKind::Model, &page).await.unwrap() {
            for model in
                store.asset_versions(&workspace, AssetKind::Model, &latest.name, &page).await.unwrap()
            {
                for file in &model.files {
                    let path = store.blobs().path(&file.sha256).expect("a model has its files");
                    assert_eq!(Digest::of(&fs_err::read(path).unwrap()), file.sha256);
                }
                found.models.insert((model.name.into(), model.version), (model.digest, model.archived));
            }
        }
        for record in store.records(RecordKind::Compute, Some(&workspace)).await.unwrap() {
            found.records.insert(record.name, (record.generation, record.body.as_u64().unwrap()));
        }
        for entry in store.secrets(&workspace).await.unwrap() {
            let (_, value) = store.secret(&workspace, &entry.key).await.unwrap().unwrap();
            found.secrets.insert(entry.key, value.expose().parse().unwrap());
        }
        for id in known.operations.keys() {
            if let Ok(operation) = store.operation(id).await {
                let ended = operation.state == OperationState::Succeeded;
                assert_eq!(operation.log.len(), if ended { 3 } else { 0 });
                found.operations.insert(id.clone(), ended);
            }
        }
        found
    }
}

/// What must be there of one task's work.
#[derive(Debug, Default)]
struct Ledger {
    contents: Contents,
    /// Up to where each upload was acknowledged.
    uploads: BTreeMap<u64, u64>,
    /// Begun and not acknowledged: it has happened, or it has not.
    open: Option<Change>,
}

impl Ledger {
    fn note(ledgers: &mut [Self], line: Line) {
        let own = &mut ledgers[line.task];
        let collected = match &line.step {
            Step::Begin(change) | Step::Done(change) => matches!(change, Change::CollectGarbage),
            Step::Refused => false,
        };
        match line.step {
            Step::Begin(change) => own.open = Some(change),
            Step::Refused => own.open = None,
            Step::Done(change) => {
                own.open = None;
                own.contents.apply(&change);
                match change {
                    Change::Upload { upload, offset } => drop(own.uploads.insert(upload, offset)),
                    Change::Commit { upload } => drop(own.uploads.insert(upload, UPLOAD_SIZE)),
                    _ => {}
                }
            }
        }
        if collected {
            // Of whoever they are: they may be collected.
            for ledger in ledgers {
                ledger.uploads.clear();
            }
        }
    }

    /// Holds what is there against what must be, and takes it as the truth from now on.
    async fn check(&mut self, store: &Store, task: usize) {
        let found = Contents::read(store, task, &self.contents).await;
        let mut with = self.contents.clone();
        if let Some(change) = &mut self.open {
            if let Change::Register { name, version, .. } = change {
                // Only the store knows which one it is.
                let new = found.models.keys().find(|key| key.0 == *name && !with.models.contains_key(*key));
                *version = new.map(|key| key.1.clone()).unwrap_or_default();
            }
            // Its id is not known: one more operation is nothing that could be missed.
            if !matches!(change, Change::BeginOperation { .. }) {
                with.apply(change);
            }
        }
        assert!(
            found == self.contents || found == with,
            "task {task}: found {found:#?}\nacknowledged {:#?}\nopen {:?}",
            self.contents,
            self.open
        );
        for (upload, offset) in &self.uploads {
            let digest = Digest::of(&upload_content(task, *upload));
            let actual = store.blobs().upload_offset(&digest).await.unwrap();
            assert!(
                actual >= *offset,
                "task {task}: upload {upload} is at {actual}, acknowledged was {offset}"
            );
        }
        self.contents = found;
        self.open = None;
    }
}

/// Lets the process work for a while, kills it, and notes what it said.
fn work_and_kill(work: &Work, random: &mut Random, ledgers: &mut [Ledger]) -> u64 {
    let log = work.folder.join("stderr.log");
    let mut child: Child = Command::new(env::current_exe().unwrap())
        .args(["crash::work_until_killed", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(WORK, serde_json::to_string(work).unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs_err::File::create(&log).unwrap().into_parts().0)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        lines.map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
    });
    let (wanted, grace) = (random.below(LINES), random.below(GRACE));
    let mut read = Vec::new();
    // From when on it may be killed; the time until then is a machine's that is overloaded.
    let mut deadline = Instant::now() + Duration::from_mins(1);
    let mut counting = true;
    loop {
        if counting && read.len() as u64 > wanted {
            counting = false;
            deadline = Instant::now() + Duration::from_micros(grace);
        }
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => read.push(line),
            Err(mpsc::RecvTimeoutError::Timeout) => break,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                panic!("the process ended by itself: {read:#?}\n{}", fs_err::read_to_string(log).unwrap())
            }
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    read.extend(receiver.try_iter());
    let mut acknowledged = 0;
    for line in read.iter().filter(|line| line.starts_with('{')) {
        // The last one may be cut.
        let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
        acknowledged += u64::from(matches!(line.step, Step::Done(_)));
        Ledger::note(ledgers, line);
    }
    if ledgers.iter().any(|ledger| matches!(ledger.open, Some(Change::CollectGarbage))) {
        for ledger in ledgers.iter_mut() {
            ledger.uploads.clear();
        }
    }
    acknowledged
}

async fn survives(folder: &Path, postgres: Option<(&Postgres, String)>, kills: u32) {
    let mut random = Random(0x5eed);
    let mut ledgers: Vec<Ledger> = (0..TASKS).map(|_| Ledger::default()).collect();
    let address = postgres.as_ref().map(|(_, address)| address.clone());
    let mut work = Work { folder: folder.to_owned(), postgres: address, seed: 0 };
    let mut acknowledged = 0;
    for kill in 0..kills {
        work.seed = u64::from(kill) + 1;
        acknowledged += work_and_kill(&work, &mut random, &mut ledgers);
        if let Some((server, address)) = &postgres {
            // What it had sent is still being worked on.
            server.wait_until_idle(address).await;
        }
        let store = Store::open(work.config()).await.unwrap_or_else(|error| panic!("kill {kill}: {error:?}"));
        for (task, ledger) in ledgers.iter_mut().enumerate() {
            ledger.check(&store, task).await;
        }
        store.close().await;
    }
    eprintln!("{kills} kills, {acknowledged} changes acknowledged, all of them kept");
    assert!(acknowledged > u64::from(kills), "the process did next to nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_kills_lose_nothing_on_sqlite() {
    let place = Place::sqlite();
    survives(place.path(), None, KILLS_ON_SQLITE).await;
    let path = place.path().join("workspace.db");
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let sound: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    assert_eq!(sound, "ok");
    let dangling = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut connection).await.unwrap();
    assert!(dangling.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_on_postgres() {
    let Some(server) = Postgres::start() else { return };
    let Database::Postgres(address) = server.create_database("crash").await else { unreachable!() };
    let folder = tempfile::tempdir().unwrap();
    survives(folder.path(), Some((&server, address.expose().to_owned())), KILLS_ON_POSTGRES).await;
}
