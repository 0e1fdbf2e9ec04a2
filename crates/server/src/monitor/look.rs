//! One look at one deployment: its replicas and what they say, and what gateways counted since the last look.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use moorline_core::{DeploymentId, Replica, ReplicaState, TargetKind};
use moorline_gateway::Answers;
use moorline_monitor::{FINE_STEP, Readings, Sample, spread};

use super::{Monitoring, facts::Outcome, now};
use crate::{
    route_settings,
    status::{DeploymentState, ProvisioningState},
    targets::own_server,
};

/// How long a target may take to say what is true, and a replica to say its metrics.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Of a replica's metrics.
pub(super) const MOST_BYTES: usize = 1024 * 1024;
/// Replicas of one deployment that are asked; the others are counted and no more.
const MOST_REPLICAS: usize = 256;

/// What was seen of a deployment at a look.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) target: TargetKind,
    pub(super) collects: bool,
    when: Instant,
    answers: Answers,
    pub(super) replicas: HashMap<String, ReplicaBefore>,
    restarts: u64,
}

#[derive(Debug)]
pub(super) struct ReplicaBefore {
    /// Where it is asked, if it can be.
    pub(super) admin: Option<SocketAddr>,
    restarts: u32,
    said: Option<(Instant, Readings)>,
}

/// What is true of a deployment, for those who ask this server for its own metrics.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) id: DeploymentId,
    pub(super) target: TargetKind,
    pub(super) state: ProvisioningState,
    pub(super) request_timeout: Duration,
    /// Nothing where its target did not say.
    pub(super) observed: Option<Observed>,
}

/// What a deployment's target says of it.
#[derive(Debug)]
pub(super) struct Observed {
    /// Requests that its ready replicas take at one time.
    pub(super) capacity: u64,
    /// By state, in the order of [`STATES`].
    pub(super) replicas: [u64; STATES.len()],
    /// Since this server knows it.
    pub(super) restarts: u64,
}

pub(super) const STATES: [(ReplicaState, &str); 5] = [
    (ReplicaState::Starting, "starting"),
    (ReplicaState::Ready, "ready"),
    (ReplicaState::Unready, "unready"),
    (ReplicaState::Draining, "draining"),
    (ReplicaState::BackingOff, "backing_off"),
];

impl Monitoring {
    /// Looks, and writes down what was seen.
    pub(super) async fn look(&self, id: &DeploymentId, state: &DeploymentState) -> Seen {
        let inner = &self.0;
        let serving = state.status.active.as_ref().unwrap_or(&state.body.desired);
        let settings = route_settings::of(&state.body.desired.release.request_settings);
        let seen = |observed| Seen {
            id: id.clone(),
            target: state.body.desired.target,
            state: state.provisioning_state(),
            request_timeout: settings.request_timeout,
            observed,
        };
        // What is counted meanwhile is a part of the next look that sees something.
        let replicas = match tokio::time::timeout(PATIENCE, inner.targets.observe(serving)).await {
            Ok(Ok(observation)) => observation.replicas,
            Ok(Err(error)) => {
                tracing::debug!(deployment = %id, %error, "a deployment could not be observed");
                return seen(None);
            }
            Err(_) => {
                tracing::debug!(deployment = %id, "a deployment could not be observed in time");
                return seen(None);
            }
        };
        let kind = serving.runs_on().1;
        let readings = match &inner.edge {
            Some(edge) if kind == TargetKind::Edge => {
                edge.readings(id, replicas.iter().map(|device| device.id.as_str()))
            }
            _ => join_all(replicas.iter().take(MOST_REPLICAS).map(|replica| self.ask(replica))).await,
        };
        let when = Instant::now();
        let answers = inner.reconciler.answers(id);
        let load = inner.reconciler.load(id);
        let count = |wanted| replicas.iter().filter(|replica| replica.state == wanted).count() as u64;

        let mut sample = Sample {
            looks: 1,
            in_flight: load.in_flight,
            waiting: load.waiting,
            ready: count(ReplicaState::Ready),
            replicas: replicas.len() as u64,
            ..Sample::default()
        };
        let restarts = {
            let mut all = self.before();
            let mut before = all.remove(id);
            // What had been counted before the first look came at a time that nobody knows.
            if let Some(before) = &before {
                sample.millis = millis(when.duration_since(before.when));
                let came = answers.since(&before.answers);
                (sample.requests, sample.failed) = (came.requests, came.failed);
                sample.durations = spread(came.requests, &came.within);
            }
            let known =
                before.as_mut().map(|before| std::mem::take(&mut before.replicas)).unwrap_or_default();
            let mut replicas_now = add_replicas(&mut sample, &replicas, readings, &known, kind);
            if own_server(serving).is_some() {
                // It may have no metrics, and then there is nothing to be asked for.
                replicas_now
                    .values_mut()
                    .filter(|replica| replica.said.is_none())
                    .for_each(|replica| replica.admin = None);
            }
            let restarts = before.map_or(0, |before| before.restarts) + sample.restarts;
            let (target, collects) = (serving.target, serving.release.collection.is_some());
            let now = Before { target, collects, when, answers, replicas: replicas_now, restarts };
            all.insert(id.clone(), now);
            restarts
        };

        // The time that was seen ends now: a look that is a little late belongs to its step.
        let at = now().as_secs().saturating_sub(FINE_STEP - 1);
        inner.history.record(id, at, &sample).await;
        seen(Some(Observed {
            capacity: sample.ready * u64::from(settings.max_concurrent_per_replica.get()),
            replicas: STATES.map(|(state, _)| count(state)),
            restarts,
        }))
    }

    /// What a replica says of itself, if it says anything that can be read.
    async fn ask(&self, replica: &Replica) -> Option<(Instant, Readings)> {
        let admin = replica.address?.admin;
        let _turn = self.0.turns.acquire().await.ok()?;
        let (outcome, readings) = scrape(admin).await;
        self.0.scrapes.count(outcome);
        Some((Instant::now(), readings?))
    }
}

async fn scrape(admin: SocketAddr) -> (Outcome, Option<Readings>) {
    match moorline_deploy::read_admin(admin, "/metrics", PATIENCE, MOST_BYTES).await {
        Ok(body) => match std::str::from_utf8(&body) {
            Ok(text) => (Outcome::Read, Some(Readings::parse(text))),
            Err(_) => (Outcome::Unreadable, None),
        },
        Err(error) => {
            tracing::debug!(%admin, %error, "a replica did not say its metrics");
            let late = error.kind() == std::io::ErrorKind::TimedOut;
            (if late { Outcome::TimedOut } else { Outcome::Failed }, None)
        }
    }
}

/// Adds what the replicas said to the sample; what the next look begins with.
fn add_replicas(
    sample: &mut Sample,
    replicas: &[Replica],
    readings: Vec<Option<(Instant, Readings)>>,
    known: &HashMap<String, ReplicaBefore>,
    kind: TargetKind,
) -> HashMap<String, ReplicaBefore> {
    let mut after = HashMap::new();
    // On a container host each tells the restarts of all, and one that was started again is another.
    let together = kind == TargetKind::Container;
    if together && !known.is_empty() {
        let before = known.values().map(|replica| replica.restarts).max().unwrap_or(0);
        let now = replicas.iter().map(|replica| replica.restarts).max().unwrap_or(before);
        sample.restarts = u64::from(now.saturating_sub(before));
    }
    let readings = readings.into_iter().chain(std::iter::repeat_with(|| None));
    for (replica, said) in replicas.iter().zip(readings) {
        let before = known.get(&replica.id);
        if let Some(before) = before.filter(|_| !together) {
            sample.restarts += u64::from(replica.restarts.saturating_sub(before.restarts));
        }
        if let Some((when, now)) = &said {
            if let Some(memory) = now.memory {
                sample.memory = sample.memory.saturating_add(memory as u64);
                sample.memory_looks = 1;
            }
            if let Some((earlier, before)) = before.and_then(|before| before.said.as_ref()) {
                sample.add_work(before, now, millis(when.duration_since(*earlier)));
                if kind == TargetKind::Edge {
                    sample.add_requests(before, now);
                }
            }
            if kind == TargetKind::Edge {
                sample.in_flight = sample.in_flight.saturating_add(now.in_flight.unwrap_or_default() as u64);
            }
        }
        let admin = replica.address.map(|address| address.admin);
        after.insert(replica.id.clone(), ReplicaBefore { admin, restarts: replica.restarts, said });
    }
    after
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use moorline_core::{Digest, ReplicaAddress};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn replica(id: &str, restarts: u32) -> Replica {
        let at = ([127, 0, 0, 1], 1).into();
        Replica {
            id: id.to_owned(),
            revision: Digest::of(b"x"),
            state: ReplicaState::Ready,
            address: Some(ReplicaAddress { data: at, admin: at }),
            restarts,
        }
    }

    fn said(cpu: f64, requests: f64) -> (Instant, Readings) {
        let readings =
            Readings { cpu_seconds: Some(cpu), memory: Some(1000.0), requests, ..Readings::default() };
        (Instant::now(), readings)
    }

    #[test]
    fn replicas_that_come_and_go_do_not_jump() {
        let mut sample = Sample::default();
        let first = [replica("a", 0), replica("b", 3)];
        let known = add_replicas(
            &mut sample,
            &first,
            vec![Some(said(100.0, 50.0)), Some(said(7.0, 5.0))],
            &HashMap::new(),
            TargetKind::Edge,
        );
        assert_eq!((sample.cpu_micros, sample.requests, sample.restarts, sample.memory), (0, 0, 0, 2000));
        let mut sample = Sample::default();
        let second = [replica("a", 1), replica("b", 3), replica("c", 9)];
        let known = add_replicas(
            &mut sample,
            &second,
            vec![Some(said(1.0, 2.0)), None, Some(said(50.0, 9.0))],
            &known,
            TargetKind::Edge,
        );
        // `a` was started again, `b` says nothing, and of `c` nobody knows when it counted.
        assert_eq!((sample.cpu_micros, sample.requests, sample.restarts), (1_000_000, 2, 1));
        assert_eq!((sample.memory, sample.memory_looks), (2000, 1));
        assert_eq!(known.len(), 3);
    }

    #[test]
    fn restarts_on_a_container_host_are_counted_once() {
        let kind = TargetKind::Container;
        let mut sample = Sample::default();
        let known =
            add_replicas(&mut sample, &[replica("a", 2), replica("b", 2)], vec![], &HashMap::new(), kind);
        assert_eq!(sample.restarts, 0);
        let next = [replica("a", 3), replica("c", 3)];
        add_replicas(&mut sample, &next, vec![], &known, kind);
        assert_eq!(sample.restarts, 1);
    }

    /// A replica that answers each connection with these bytes, and goes on for ever if it is to.
    async fn answering(bytes: &'static [u8], forever: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                // An answer before the question is one that no client takes.
                let _ = stream.read(&mut [0; 1024]).await;
                if forever {
                    tokio::spawn(async move { while stream.write_all(bytes).await.is_ok() {} });
                } else {
                    let _ = stream.write_all(bytes).await;
                    kept.push(stream);
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn whatever_a_replica_does_ends() {
        let told = async |bytes, forever| scrape(answering(bytes, forever).await).await;
        let (outcome, readings) =
            told(b"HTTP/1.1 200 OK\r\ncontent-length: 28\r\n\r\nprocess_cpu_seconds_total 2\n", false).await;
        assert_eq!((outcome, readings.unwrap().cpu_seconds), (Outcome::Read, Some(2.0)));
        assert_eq!(told(b"", false).await, (Outcome::TimedOut, None));
        assert_eq!(told(b"HTTP/1.1 200 OK\r\n\r\nxxxx", false).await, (Outcome::TimedOut, None));
        assert_eq!(told(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", false).await.0, Outcome::Failed);
        assert_eq!(told(b"SSH-2.0-none\r\n", false).await.0, Outcome::Failed);
        let invalid = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe";
        assert_eq!(told(invalid, false).await, (Outcome::Unreadable, None));
        // A flood: a head without end, and a body without end.
        assert_eq!(told(b"HTTP/1.1 200 OK\r\nx: y\r\n", true).await.0, Outcome::Failed);
        assert_eq!(
            told(b"HTTP/1.1 200 OK\r\n\r\nprocess_cpu_seconds_total 2\n", true).await.0,
            Outcome::Failed
        );
        assert_eq!(scrape(([127, 0, 0, 1], 1).into()).await.0, Outcome::Failed);
    }
}
