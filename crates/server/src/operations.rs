//! Operations: what was asked for and takes a while, as something that can be polled, followed, and found again after
//! the server was started anew.
//!
//! The store has every operation; while one runs, its newest state is here, and whoever follows it is told of every
//! change. Lines of its log are written to the store in batches, everything else at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use moorline_core::{ErrorClass, Name};
use moorline_deploy::{Direction, Progress, Step};
use moorline_store::{
    NewOperation, OPERATION_PHASES_KEPT, Operation, OperationPhase, OperationState, OperationUpdate, Store,
    StoreError,
};
use serde_json::json;
use tokio::sync::{broadcast, mpsc};

use crate::problem::chain;

/// Lines kept of one operation's log, the newest.
const LOG_LINES: usize = 1000;
/// Bytes kept of one line.
const LINE_BYTES: usize = 4096;
/// Lines that may be lost with the process.
const UNSAVED_LINES: usize = 64;
/// Lines of work that wait to be written.
const TOLD_LINES: usize = 1024;
/// Events that a slow follower may be behind.
const EVENTS: usize = 1024;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationKind {
    CreateDeployment,
    UpdateDeployment,
    DeleteDeployment,
    DeleteEndpoint,
    BuildImage,
    Rollout,
}

impl OperationKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::CreateDeployment => "create_deployment",
            Self::UpdateDeployment => "update_deployment",
            Self::DeleteDeployment => "delete_deployment",
            Self::DeleteEndpoint => "delete_endpoint",
            Self::BuildImage => "build_image",
            Self::Rollout => "rollout",
        }
    }
}

/// A change of a running operation.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Phase(String),
    Log(String),
    /// Bytes on their way; it is told to those who follow, and not kept.
    Transfer(Transfer),
    /// How it stands just now; it is told to those who follow, and not kept.
    Standing(String),
    /// The last one.
    Done(Box<Operation>),
}

/// How far all that goes one way has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) direction: &'static str,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// The operations of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Operations {
    store: Store,
    live: Arc<Mutex<HashMap<String, Live>>>,
}

/// A running operation.
#[derive(Debug)]
struct Live {
    operation: Operation,
    events: broadcast::Sender<Event>,
    /// Lines that the store does not have yet.
    unsaved: Vec<String>,
    /// Held while the store is written, so that lines come there in their order.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Live {
    fn new(operation: Operation) -> Self {
        Self {
            operation,
            events: broadcast::Sender::new(EVENTS),
            unsaved: Vec::new(),
            writing: Arc::default(),
        }
    }
}

/// An operation as it is now, and what comes after, where it still runs.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) operation: Operation,
    pub(crate) events: Option<broadcast::Receiver<Event>>,
}

impl Operations {
    /// Goes on with the operations that ran when the last server ended: the reconciler finishes them.
    pub(crate) async fn open(store: Store) -> Result<Self, StoreError> {
        let mut live = HashMap::new();
        for running in store.running_operations().await? {
            // The list is without their logs.
            let operation = store.operation(&running.id).await?;
            live.insert(running.id, Live::new(operation));
        }
        Ok(Self { store, live: Arc::new(Mutex::new(live)) })
    }

    /// A new operation, running; its id. `subject` is `endpoint` or `endpoint/deployment`.
    pub(crate) async fn begin(
        &self,
        workspace: &Name,
        kind: OperationKind,
        subject: &str,
    ) -> Result<String, StoreError> {
        self.save_finished().await;
        let operation = self
            .store
            .create_operation(NewOperation {
                workspace: workspace.clone(),
                kind: kind.as_str().to_owned(),
                subject: subject.to_owned(),
            })
            .await?;
        let id = operation.id.clone();
        self.lock().insert(id.clone(), Live::new(operation));
        Ok(id)
    }

    /// The operation has come to `phase`.
    pub(crate) async fn phase(&self, id: &str, phase: &str) {
        let changed = self.change(id, |live| {
            if live.operation.phase.as_deref() == Some(phase) {
                return false;
            }
            live.operation.phase = Some(phase.to_owned());
            if (live.operation.phases.len() as u64) < OPERATION_PHASES_KEPT {
                let at = jiff::Timestamp::now();
                live.operation.phases.push(OperationPhase { name: phase.to_owned(), at });
            }
            let _ = live.events.send(Event::Phase(phase.to_owned()));
            true
        });
        if changed {
            self.save(id).await;
        }
    }

    /// Adds a line to the operation's log.
    pub(crate) async fn log(&self, id: &str, line: &str) {
        let due = self.change(id, |live| {
            let line = bounded(line);
            for lines in [&mut live.operation.log, &mut live.unsaved] {
                lines.push(line.clone());
                trim(lines);
            }
            let _ = live.events.send(Event::Log(line));
            live.unsaved.len() >= UNSAVED_LINES
        });
        if due {
            self.save(id).await;
        }
    }

    /// Bytes of the operation are on their way.
    pub(crate) fn transfer(&self, id: &str, transfer: Transfer) {
        self.change(id, |live| {
            let _ = live.events.send(Event::Transfer(transfer));
            false
        });
    }

    /// How the operation stands just now, for those who watch.
    pub(crate) fn standing(&self, id: &str, text: String) {
        self.change(id, |live| {
            let _ = live.events.send(Event::Standing(text));
            false
        });
    }

    /// Does `work`, whose progress becomes lines and transfers of the operation.
    pub(crate) async fn tell<F: Future>(&self, id: &str, work: impl FnOnce(Progress) -> F) -> F::Output {
        let (lines, mut told) = mpsc::channel::<String>(TOLD_LINES);
        let (operations, operation) = (self.clone(), id.to_owned());
        let blobs: Mutex<HashMap<(Direction, String), (u64, u64)>> = Mutex::default();
        let progress = Progress::new(move |step| match step {
            // Whoever works does not wait for whoever reads: lines beyond the bound are left out.
            Step::Line(line) => drop(lines.try_send(line.to_owned())),
            Step::Transfer { direction, blob, done, total } => {
                let mut blobs = blobs.lock().unwrap_or_else(PoisonError::into_inner);
                blobs.insert((direction, blob.to_owned()), (done, total));
                let same = blobs.iter().filter(|((its, _), _)| *its == direction);
                let (done, total) =
                    same.fold((0, 0), |sum, (_, (done, total))| (sum.0 + done, sum.1 + total));
                operations.transfer(&operation, Transfer { direction: direction.as_str(), done, total });
            }
        });
        let tell = async {
            while let Some(line) = told.recv().await {
                self.log(id, &line).await;
            }
        };
        tokio::join!(work(progress), tell).0
    }

    pub(crate) async fn succeed(&self, id: &str) {
        self.finish(id, OperationState::Succeeded, None).await;
    }

    /// Ends the operation with the reason and the last lines of whatever failed.
    pub(crate) async fn fail(&self, id: &str, class: ErrorClass, message: &str, log: &[String]) {
        let error = json!({ "class": class.as_str(), "message": message, "log": log });
        self.finish(id, OperationState::Failed, Some(error)).await;
    }

    /// Ends the operation because somebody wants it no more.
    pub(crate) async fn cancel(&self, id: &str, message: &str) {
        let error = json!({ "class": ErrorClass::Cancelled.as_str(), "message": message });
        self.finish(id, OperationState::Cancelled, Some(error)).await;
    }

    /// Ends every other running operation on this subject: a newer one has taken its place.
    pub(crate) async fn supersede(&self, workspace: &Name, subject: &str, by: &str) {
        for id in self.running(workspace, subject) {
            if id != by {
                self.cancel(&id, &format!("operation {by} took its place")).await;
            }
        }
    }

    /// The ids of the running operations on a subject, oldest first.
    pub(crate) fn running(&self, workspace: &Name, subject: &str) -> Vec<String> {
        let live = self.lock();
        let mut found: Vec<_> = live
            .values()
            .map(|live| &live.operation)
            .filter(|operation| {
                operation.state == OperationState::Running
                    && same(operation.workspace.as_str(), workspace.as_str())
                    && same(&operation.subject, subject)
            })
            .map(|operation| (operation.created_at, operation.id.clone()))
            .collect();
        found.sort();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Every operation that runs, in no order.
    pub(crate) fn all_running(&self) -> Vec<Operation> {
        let live = self.lock();
        live.values()
            .map(|live| &live.operation)
            .filter(|operation| operation.state == OperationState::Running)
            .cloned()
            .collect()
    }

    /// An operation as it is now, and every change from then on.
    pub(crate) async fn follow(&self, id: &str) -> Result<Following, StoreError> {
        if let Some(live) = self.lock().get(id) {
            let running = live.operation.state == OperationState::Running;
            let events = running.then(|| live.events.subscribe());
            return Ok(Following { operation: live.operation.clone(), events });
        }
        Ok(Following { operation: self.store.operation(id).await?, events: None })
    }

    /// Returns when this operation has ended.
    pub(crate) async fn ended(&self, id: &str) -> Result<Operation, StoreError> {
        loop {
            let Following { operation, events } = self.follow(id).await?;
            let Some(mut events) = events else { return Ok(operation) };
            loop {
                match events.recv().await {
                    Ok(Event::Done(operation)) => return Ok(*operation),
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                }
            }
        }
    }

    async fn finish(&self, id: &str, state: OperationState, error: Option<serde_json::Value>) {
        let finished = self.change(id, |live| {
            if live.operation.state != OperationState::Running {
                return false;
            }
            live.operation.state = state;
            live.operation.error = error;
            live.operation.finished_at = Some(jiff::Timestamp::now());
            let _ = live.events.send(Event::Done(Box::new(live.operation.clone())));
            true
        });
        if finished {
            self.save(id).await;
        }
    }

    /// Changes a running operation; `false` where none of that id runs here.
    fn change(&self, id: &str, change: impl FnOnce(&mut Live) -> bool) -> bool {
        self.lock().get_mut(id).is_some_and(change)
    }

    /// Writes what is new to the store, and forgets the operation here if it has ended. What could not be written stays
    /// here and is tried again.
    async fn save(&self, id: &str) {
        let Some(writing) = self.lock().get(id).map(|live| Arc::clone(&live.writing)) else { return };
        let _turn = writing.lock().await;
        let update = {
            let mut live = self.lock();
            let Some(live) = live.get_mut(id) else { return };
            OperationUpdate {
                state: (live.operation.state != OperationState::Running).then_some(live.operation.state),
                phase: live.operation.phase.clone(),
                log: std::mem::take(&mut live.unsaved),
                error: live.operation.error.clone(),
            }
        };
        let ended = update.state.is_some();
        match self.store.update_operation(id, update.clone()).await {
            Ok(_) if !ended => {}
            // One that has ended in the store, or is not there any more, has nothing left to be written.
            Ok(_) | Err(StoreError::Exists { .. } | StoreError::NotFound { .. }) => {
                self.lock().remove(id);
            }
            Err(error) => {
                tracing::warn!(operation = id, error = chain(&error), "could not save an operation");
                self.change(id, |live| {
                    live.unsaved.splice(0..0, update.log);
                    trim(&mut live.unsaved);
                    false
                });
            }
        }
    }

    /// Writes what has ended and could not be written at its time.
    async fn save_finished(&self) {
        let finished: Vec<_> = {
            let live = self.lock();
            let ended = live.iter().filter(|(_, live)| live.operation.state != OperationState::Running);
            ended.map(|(id, _)| id.clone()).collect()
        };
        for id in finished {
            self.save(&id).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Keeps the newest lines.
fn trim(lines: &mut Vec<String>) {
    let excess = lines.len().saturating_sub(LOG_LINES);
    lines.drain(..excess);
}

/// At most [`LINE_BYTES`] of a line, cut between characters.
fn bounded(line: &str) -> String {
    let line = line.trim_end_matches(['\n', '\r']);
    if line.len() <= LINE_BYTES {
        line.to_owned()
    } else {
        line[..line.floor_char_boundary(LINE_BYTES)].to_owned()
    }
}
