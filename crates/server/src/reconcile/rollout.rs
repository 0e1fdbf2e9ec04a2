//! One endpoint's rollout: through its steps, as long as nothing breaks a bound; and back, if something does.
//!
//! Where a rollout is stands in the endpoint's record, together with the traffic of that place, so that one write is
//! one turn. What was measured stands nowhere: a server that was started anew begins the step in which the last one
//! ended once more, with its time and its requests.

use std::time::Duration;

use moorline_core::{DeploymentId, ErrorClass, Name};
use moorline_store::{RecordKind, StoreError};
use tokio::time::Instant;

use super::{Next, RETRY, Reconciler, queue::Signal};
use crate::{
    operations::Operations,
    problem::chain,
    rollout::{Breach, Measured, Outcome, Rollout, Traffic, shown, span},
    status::EndpointBody,
};

/// Between two looks at what was answered.
const TICK: Duration = Duration::from_millis(500);
/// How long a deployment may be without a replica. One that was killed is back sooner, and what it cost counts as errors.
const WITHOUT_REPLICA: Duration = Duration::from_secs(10);

/// How the watch over one step ended.
enum Watched {
    /// Its time is over.
    Held(Measured),
    Broken(Breach),
    /// The rollout was ended by somebody else, or is another one.
    Over,
}

impl Reconciler {
    /// This endpoint has a rollout, or had one: look at it soon.
    pub(crate) fn nudge_rollout(&self, workspace: Name, endpoint: Name) {
        let key = (workspace, endpoint);
        if self.0.rollouts.put(&key) {
            let this = self.clone();
            self.0.tasks.spawn(Box::pin(this.work_on_rollout(key)));
        }
    }

    async fn work_on_rollout(self, key: (Name, Name)) {
        let inner = &self.0;
        let signal = inner.rollouts.signal(&key);
        loop {
            let next = tokio::select! {
                next = self.reconcile_rollout(&key.0, &key.1, &signal) => next,
                () = inner.stop.cancelled() => return,
            };
            if !inner.rollouts.rest(&key, next, &inner.stop).await {
                return;
            }
        }
    }

    async fn reconcile_rollout(&self, workspace: &Name, endpoint: &Name, signal: &Signal) -> Next {
        let body = match self.endpoint_body(workspace, endpoint).await {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(%workspace, %endpoint, error = chain(&error), "could not look at a rollout; it is tried again");
                return Next::Retry;
            }
        };
        let Some(rollout) = body.as_ref().and_then(EndpointBody::running_rollout) else { return Next::Rest };
        let course = Course { reconciler: self, workspace, endpoint, signal, operation: &rollout.operation };
        course.run(rollout.clone()).await;
        Next::Again
    }

    /// Ends the rollout that is under way and gives everybody the traffic of before; `None` where there is none.
    pub(crate) async fn abort_rollout(
        &self,
        workspace: &Name,
        endpoint: &Name,
    ) -> Result<Option<Rollout>, StoreError> {
        let ended = self
            .turn_rollout(workspace, endpoint, None, |rollout| {
                let reason = format!("it was aborted; the traffic is as before: {}", shown(&rollout.before));
                rollout.outcome = Some(Outcome::Aborted { reason });
                rollout.before.clone()
            })
            .await?;
        if let Some(rollout) = &ended {
            self.sync_endpoint(workspace, endpoint).await;
            tell_outcome(&self.0.operations, rollout).await;
            self.nudge_rollout(workspace.clone(), endpoint.clone());
        }
        Ok(ended)
    }

    /// Changes the rollout that is under way, if it is the one of `operation` where one is named, and with it the traffic,
    /// which `turn` gives. The rollout as it is then; `None` where none is under way.
    async fn turn_rollout(
        &self,
        workspace: &Name,
        endpoint: &Name,
        operation: Option<&str>,
        turn: impl Fn(&mut Rollout) -> Traffic,
    ) -> Result<Option<Rollout>, StoreError> {
        let store = &self.0.store;
        loop {
            let record = match store.record(workspace, RecordKind::Endpoint, endpoint.as_str()).await {
                Ok(record) => record,
                Err(error) if error.class() == ErrorClass::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(mut body) = read(&record) else { return Ok(None) };
            let Some(rollout) = body.running_rollout() else { return Ok(None) };
            if operation.is_some_and(|operation| operation != rollout.operation) {
                return Ok(None);
            }
            let mut rollout = rollout.clone();
            body.document["traffic"] = serde_json::json!(turn(&mut rollout));
            body.rollout = Some(rollout.clone());
            let body = serde_json::to_value(body).expect("a body has only string keys");
            let expected = Some(record.generation);
            let updated =
                store.update_record(workspace, RecordKind::Endpoint, endpoint.as_str(), expected, body).await;
            match updated {
                Ok(_) => return Ok(Some(rollout)),
                // Somebody changed the endpoint meanwhile, and perhaps its rollout.
                Err(error) if error.class() == ErrorClass::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The endpoint as the store has it; `None` where it has none.
    async fn endpoint_body(
        &self,
        workspace: &Name,
        endpoint: &Name,
    ) -> Result<Option<EndpointBody>, StoreError> {
        match self.0.store.record(workspace, RecordKind::Endpoint, endpoint.as_str()).await {
            Ok(record) => Ok(read(&record)),
            Err(error) if error.class() == ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One rollout on its way.
struct Course<'a> {
    reconciler: &'a Reconciler,
    workspace: &'a Name,
    endpoint: &'a Name,
    signal: &'a Signal,
    operation: &'a str,
}

impl Course<'_> {
    /// Goes on from the step that the rollout is at, to its end.
    async fn run(&self, mut rollout: Rollout) {
        let id = DeploymentId {
            workspace: self.workspace.clone(),
            endpoint: self.endpoint.clone(),
            deployment: rollout.to.clone(),
        };
        let mut last_ready = self.found(&rollout, &id).await;
        while rollout.under_way() {
            // The split first: what is counted came to it.
            self.reconciler.sync_endpoint(self.workspace, self.endpoint).await;
            self.tell_step(&rollout).await;
            let turned = match self.watch(&rollout, &id, &mut last_ready).await {
                Watched::Held(measured) => {
                    self.tell_held(&rollout, &measured).await;
                    self.turn(advance).await
                }
                Watched::Broken(breach) => self.turn(|rollout| roll_back(rollout, breach)).await,
                Watched::Over => None,
            };
            let Some(turned) = turned else { return self.give_up().await };
            rollout = turned;
        }
        self.reconciler.sync_endpoint(self.workspace, self.endpoint).await;
        tracing::info!(deployment = %id, outcome = ?rollout.outcome, "rollout ended");
        tell_outcome(&self.reconciler.0.operations, &rollout).await;
    }

    /// Waits until there is a replica, though no longer than a deployment may be without one; when it began to wait. A
    /// server that was started anew may not have found them yet, and what it refuses until then is not their fault.
    async fn found(&self, rollout: &Rollout, id: &DeploymentId) -> Instant {
        let begun = Instant::now();
        while begun.elapsed() < WITHOUT_REPLICA && matches!(self.look(rollout, id).await, Seen::NoReplica) {
            self.pause(Instant::now() + TICK).await;
        }
        begun
    }

    /// Looks at what the deployment answers until the step's time is over or a bound is broken.
    async fn watch(&self, rollout: &Rollout, id: &DeploymentId, last_ready: &mut Instant) -> Watched {
        let earlier = self.reconciler.answers(id);
        let begun = Instant::now();
        let deadline = begun + rollout.current().watched.unwrap_or_default();
        loop {
            let now = Instant::now();
            let answers = self.reconciler.answers(id).since(&earlier);
            let measured = Measured::of(&answers);
            if let Some(breach) = rollout.judge.breach(&answers) {
                return Watched::Broken(breach);
            }
            match self.look(rollout, id).await {
                Seen::Ready => *last_ready = now,
                // It may be about to come back; until then no step is passed.
                Seen::NoReplica if now.duration_since(*last_ready) < WITHOUT_REPLICA => {}
                Seen::NoReplica => return Watched::Broken(Breach::NoReplica),
                Seen::Gone => return Watched::Broken(Breach::Gone),
                Seen::Over => return Watched::Over,
            }
            if now >= deadline && *last_ready == now {
                return Watched::Held(measured);
            }
            let (rest, next) = match deadline.checked_duration_since(now).filter(|left| !left.is_zero()) {
                Some(left) => (format!("{} left", span(whole_seconds(left))), now + left.min(TICK)),
                None => (Breach::NoReplica.to_string(), now + TICK),
            };
            self.reconciler.0.operations.standing(self.operation, format!("{measured}; {rest}"));
            self.pause(next).await;
        }
    }

    async fn pause(&self, until: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = self.signal.woken() => {}
        }
    }

    /// What is true now of the rollout and its deployment. What cannot be told is taken to be as before.
    async fn look(&self, rollout: &Rollout, id: &DeploymentId) -> Seen {
        let body = match self.reconciler.endpoint_body(self.workspace, self.endpoint).await {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(deployment = %id, error = chain(&error), "could not look at a rollout; it goes on");
                return Seen::Ready;
            }
        };
        let ours = body.as_ref().and_then(EndpointBody::running_rollout);
        if ours.is_none_or(|ours| ours.operation != rollout.operation) {
            return Seen::Over;
        }
        if self.reconciler.0.gateway.load(id).replicas > 0 {
            return Seen::Ready;
        }
        match self.reconciler.state(id).await {
            Ok(None) => Seen::Gone,
            Ok(Some(state)) => match &state.status.active {
                // One that may sleep has no replica while nobody asks it.
                Some(active) if active.scale.bounds().0 == 0 => Seen::Ready,
                _ => Seen::NoReplica,
            },
            Err(error) => {
                tracing::warn!(deployment = %id, error = chain(&error), "could not look at a deployment; its rollout goes on");
                Seen::Ready
            }
        }
    }

    /// Takes the next turn, however long the store takes to have it: what was seen of a step is not lost with a moment's
    /// trouble.
    async fn turn(&self, turn: impl Fn(&mut Rollout) -> Traffic) -> Option<Rollout> {
        loop {
            let turned = self
                .reconciler
                .turn_rollout(self.workspace, self.endpoint, Some(self.operation), &turn)
                .await;
            match turned {
                Ok(turned) => return turned,
                Err(error) => self.wait_for_store(&error).await,
            }
        }
    }

    /// Ends the operation of a rollout that is not under way any more: whoever ended it wrote down why, unless the
    /// endpoint goes.
    async fn give_up(&self) {
        let operations = &self.reconciler.0.operations;
        let body = loop {
            match self.reconciler.endpoint_body(self.workspace, self.endpoint).await {
                Ok(body) => break body,
                Err(error) => self.wait_for_store(&error).await,
            }
        };
        let Some(body) = body.filter(|body| !body.deleting) else {
            let message = format!("endpoint `{}` is deleted", self.endpoint);
            return operations.cancel(self.operation, &message).await;
        };
        // Another rollout was begun only after this one had been ended, and told so.
        if let Some(rollout) = body.rollout.filter(|last| last.operation == self.operation) {
            tell_outcome(operations, &rollout).await;
        }
    }

    async fn wait_for_store(&self, error: &StoreError) {
        tracing::warn!(endpoint = %self.endpoint, error = chain(error), "a rollout could not go on; it is tried again");
        tokio::time::sleep(RETRY).await;
    }

    async fn tell_step(&self, rollout: &Rollout) {
        let operations = &self.reconciler.0.operations;
        operations.phase(self.operation, &rollout.place()).await;
        if let Some(watched) = rollout.current().watched {
            let line = format!("{}; watched for {}", shown(&rollout.traffic()), span(watched));
            operations.log(self.operation, &line).await;
        }
    }

    async fn tell_held(&self, rollout: &Rollout, measured: &Measured) {
        if rollout.current().watched.is_none() {
            return;
        }
        let enough = rollout.judge.is_enough(measured);
        let line = if enough {
            format!("held: {measured}")
        } else {
            format!(
                "nothing spoke against it, over fewer than the {} requests of a judgement: {measured}",
                rollout.judge.min_requests
            )
        };
        self.reconciler.0.operations.log(self.operation, &line).await;
    }
}

/// What is true of a rollout and its deployment.
enum Seen {
    Ready,
    NoReplica,
    Gone,
    /// The rollout is not under way any more.
    Over,
}

/// To the next step, or to the end.
fn advance(rollout: &mut Rollout) -> Traffic {
    if rollout.is_last() {
        rollout.outcome = Some(Outcome::Promoted);
    } else {
        rollout.step += 1;
        if rollout.is_final() {
            rollout.outcome = Some(Outcome::Promoted);
        }
    }
    rollout.traffic()
}

/// Rounded up: nobody reads the rest of a countdown.
fn whole_seconds(left: Duration) -> Duration {
    Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

/// Back to the traffic of before.
fn roll_back(rollout: &mut Rollout, breach: Breach) -> Traffic {
    let reason =
        format!("{breach}, at {}; the traffic is as before: {}", rollout.place(), shown(&rollout.before));
    rollout.outcome = Some(Outcome::RolledBack { reason });
    rollout.before.clone()
}

fn read(record: &moorline_store::Record) -> Option<EndpointBody> {
    match serde_json::from_value(record.body.clone()) {
        Ok(body) => Some(body),
        Err(error) => {
            tracing::error!(endpoint = record.name, %error, "the record of an endpoint cannot be read");
            None
        }
    }
}

/// Ends the operation of a rollout that has ended, if it has not ended yet.
pub(crate) async fn tell_outcome(operations: &Operations, rollout: &Rollout) {
    let operation = &rollout.operation;
    match &rollout.outcome {
        None => {}
        Some(Outcome::Promoted) => operations.succeed(operation).await,
        Some(Outcome::RolledBack { reason }) => {
            operations.fail(operation, ErrorClass::Script, reason, &[]).await;
        }
        Some(Outcome::Aborted { reason }) => operations.cancel(operation, reason).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Judge;

    fn rollout(steps: &str) -> Rollout {
        Rollout {
            operation: "1".to_owned(),
            to: "green".parse().unwrap(),
            steps: steps.parse().unwrap(),
            judge: Judge { max_error_rate: "1%".parse().unwrap(), max_p99: None, min_requests: 100 },
            before: Traffic::from([("blue".parse().unwrap(), 100), ("green".parse().unwrap(), 0)]),
            step: 0,
            outcome: None,
        }
    }

    #[test]
    fn steps_are_taken_to_their_end() {
        let mut unwatched = rollout("10:5m,50:1m,100");
        assert_eq!(shown(&unwatched.traffic()), "blue=90 green=10");
        assert_eq!(shown(&advance(&mut unwatched)), "blue=50 green=50");
        assert!(unwatched.under_way());
        assert_eq!(shown(&advance(&mut unwatched)), "green=100");
        assert_eq!(unwatched.outcome, Some(Outcome::Promoted));

        let mut watched = rollout("10:5m,100:1m");
        assert_eq!(shown(&advance(&mut watched)), "green=100");
        assert!(watched.under_way());
        assert_eq!(shown(&advance(&mut watched)), "green=100");
        assert_eq!(watched.outcome, Some(Outcome::Promoted));
        assert_eq!(watched.place(), "step 2 of 2 (100 %)");
    }

    #[test]
    fn the_way_back_says_what_broke_where() {
        let mut rollout = rollout("10:5m,50:1m,100");
        advance(&mut rollout);
        assert_eq!(roll_back(&mut rollout, Breach::NoReplica), rollout.before);
        let Some(Outcome::RolledBack { reason }) = &rollout.outcome else { panic!("{rollout:?}") };
        assert_eq!(reason, "no replica is ready, at step 2 of 3 (50 %); the traffic is as before: blue=100");
    }
}
