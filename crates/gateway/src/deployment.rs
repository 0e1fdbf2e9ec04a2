//! One deployment as the gateway knows it: its places, its replicas and what was asked of it. It outlives changes of
//! its route, so that requests under way are counted where they began.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderValue, uri::PathAndQuery};
use moorline_core::DeploymentId;
use tokio::sync::Notify;

use crate::{
    config::{GatewayConfig, Wake},
    gateway::Load,
    metrics::DeploymentMetrics,
    places::{NoPlace, Place, Places, Waiting},
    problem::Problem,
    replica::Replica,
    route::DeploymentRoute,
};

/// How often a deployment is woken while requests wait for it.
const WAKE_AGAIN: Duration = Duration::from_millis(500);

/// One deployment.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) id: DeploymentId,
    /// Its name, for answers.
    pub(crate) header: HeaderValue,
    pub(crate) metrics: DeploymentMetrics,
    places: Arc<Places>,
    live: ArcSwap<Live>,
    /// Whenever `live` was replaced.
    changed: Notify,
    cold: AtomicUsize,
    turn: AtomicUsize,
    last_request: Mutex<Option<Instant>>,
    last_wake: Mutex<Option<Instant>>,
    /// Replicas that were taken out, for as long as they have requests.
    retired: Mutex<Vec<Weak<Replica>>>,
}

/// What its route says now.
#[derive(Debug)]
pub(crate) struct Live {
    replicas: Box<[Arc<Replica>]>,
    pub(crate) request_timeout: Duration,
    max_queue_wait: Duration,
    can_scale_from_zero: bool,
    scoring_path: Option<PathAndQuery>,
    /// The deployment was removed.
    gone: bool,
}

impl Deployment {
    pub(crate) fn new(id: DeploymentId, metrics: DeploymentMetrics) -> Self {
        let header = HeaderValue::from_str(id.deployment.as_str());
        let none = Live {
            replicas: Box::default(),
            request_timeout: Duration::ZERO,
            max_queue_wait: Duration::ZERO,
            can_scale_from_zero: false,
            scoring_path: None,
            gone: false,
        };
        Self {
            id,
            header: header.unwrap_or_else(|_| HeaderValue::from_static("-")),
            metrics,
            places: Arc::default(),
            live: ArcSwap::from_pointee(none),
            changed: Notify::new(),
            cold: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            last_request: Mutex::default(),
            last_wake: Mutex::default(),
            retired: Mutex::default(),
        }
    }

    /// Makes `route` what is true. Replicas that stay keep their requests and connections.
    pub(crate) fn update(&self, route: &DeploymentRoute) {
        let before = self.live.load_full();
        let replicas: Box<[Arc<Replica>]> = route
            .replicas
            .iter()
            .map(|route| {
                let known = before.replicas.iter().find(|replica| replica.route == *route);
                known.map_or_else(|| Replica::new(route.clone()), Arc::clone)
            })
            .collect();
        let limit = replicas
            .len()
            .saturating_mul(usize::try_from(route.max_concurrent_per_replica.get()).unwrap_or(usize::MAX));
        self.replace(
            &before,
            Live {
                replicas,
                request_timeout: route.request_timeout,
                max_queue_wait: route.max_queue_wait,
                can_scale_from_zero: route.can_scale_from_zero,
                // One that is none was refused with the document that it is written in.
                scoring_path: route.scoring_path.as_deref().and_then(|path| path.parse().ok()),
                gone: false,
            },
        );
        self.places.set_limit(limit);
    }

    /// Takes it out of service; what waits for it is told.
    pub(crate) fn remove(&self) {
        let before = self.live.load_full();
        self.replace(
            &before,
            Live {
                replicas: Box::default(),
                request_timeout: before.request_timeout,
                max_queue_wait: before.max_queue_wait,
                can_scale_from_zero: false,
                scoring_path: None,
                gone: true,
            },
        );
        self.places.set_limit(0);
        self.metrics.forget();
    }

    fn replace(&self, before: &Live, after: Live) {
        let left: Vec<Arc<Replica>> = before
            .replicas
            .iter()
            .filter(|old| !after.replicas.iter().any(|new| Arc::ptr_eq(old, new)))
            .cloned()
            .collect();
        self.live.store(Arc::new(after));
        self.changed.notify_waiters();
        let mut retired = lock(&self.retired);
        retired.retain(|replica| replica.strong_count() > 0);
        for replica in left {
            replica.retire();
            retired.push(Arc::downgrade(&replica));
        }
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// What the replicas are asked for where `/score` was asked for here. The query stays.
    pub(crate) fn scoring_target(&self, asked: &PathAndQuery) -> Option<PathAndQuery> {
        let live = self.live.load();
        let own = live.scoring_path.as_ref()?;
        let query = asked.query().map_or_else(String::new, |query| format!("?{query}"));
        format!("{}{query}", own.path()).parse().ok()
    }

    pub(crate) fn has_replica(&self) -> bool {
        !self.live.load().replicas.is_empty()
    }

    /// The replica with the fewest requests, another than `avoid` where there is one.
    pub(crate) fn choose(&self, avoid: Option<&Arc<Replica>>) -> Option<Arc<Replica>> {
        let live = self.live.load();
        let count = live.replicas.len();
        if count <= 1 {
            return live.replicas.first().cloned();
        }
        // Equals take turns.
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = |replica: &Arc<Replica>| {
            let avoided = avoid.is_some_and(|avoid| Arc::ptr_eq(avoid, replica));
            (avoided, replica.is_shunned(), replica.in_flight())
        };
        (0..count)
            .map(|step| &live.replicas[(start + step) % count])
            .min_by_key(|replica| order(replica))
            .cloned()
    }

    /// Waits until there is a replica, having told `wake` that one is needed.
    pub(crate) async fn wait_for_replica(&self, wake: &Wake, config: &GatewayConfig) -> Result<(), Problem> {
        if !self.live.load().can_scale_from_zero {
            return Err(Problem::NoReplica);
        }
        let _waiting =
            Waiting::begin(&self.cold, config.max_cold_waiters).ok_or(Problem::TooManyColdWaiters)?;
        let deadline = Instant::now() + config.cold_start_timeout;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look at what is true, so that no change between the two is missed.
            changed.as_mut().enable();
            {
                let live = self.live.load();
                if !live.replicas.is_empty() {
                    return Ok(());
                }
                if live.gone || !live.can_scale_from_zero {
                    return Err(Problem::NoReplica);
                }
            }
            self.wake(wake);
            let until = deadline.min(Instant::now() + WAKE_AGAIN);
            if tokio::time::timeout_at(until.into(), changed).await.is_err() && Instant::now() >= deadline {
                return Err(Problem::ColdStart);
            }
        }
    }

    fn wake(&self, wake: &Wake) {
        {
            let mut last = lock(&self.last_wake);
            if last.is_some_and(|last| last.elapsed() < WAKE_AGAIN) {
                return;
            }
            *last = Some(Instant::now());
        }
        wake(&self.id);
    }

    pub(crate) fn try_place(&self) -> Option<Place> {
        self.places.try_take()
    }

    /// A place, after a wait no longer than the deployment allows, nor than until `deadline`.
    pub(crate) async fn place(
        &self,
        live: &Live,
        deadline: Instant,
        max_queue: usize,
    ) -> Result<Place, NoPlace> {
        let begun = Instant::now();
        let until = deadline.min(begun + live.max_queue_wait);
        let place = self.places.take(max_queue, until).await;
        self.metrics.queue.observe(begun.elapsed().as_secs_f64());
        place
    }

    pub(crate) fn touch(&self) {
        *lock(&self.last_request) = Some(Instant::now());
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            in_flight: self.places.taken(),
            waiting: self.places.waiting() + self.cold.load(Ordering::Relaxed),
            last_request: *lock(&self.last_request),
            replicas: self.live.load().replicas.len(),
        }
    }

    /// Requests of the replicas with this id, of those that were taken out too.
    pub(crate) fn in_flight(&self, id: &str) -> usize {
        let live = self.live.load();
        let retired: Vec<Arc<Replica>> = lock(&self.retired).iter().filter_map(Weak::upgrade).collect();
        live.replicas
            .iter()
            .chain(&retired)
            .filter(|replica| replica.route.id == id)
            .map(|replica| replica.in_flight())
            .sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, num::NonZeroU32};

    use prometheus::Registry;

    use super::*;
    use crate::{metrics::Metrics, replica::InFlight, route::ReplicaRoute};

    fn deployment() -> Deployment {
        let id = DeploymentId {
            workspace: "default".parse().unwrap(),
            endpoint: "iris".parse().unwrap(),
            deployment: "blue".parse().unwrap(),
        };
        let metrics = Metrics::register(&Registry::new()).unwrap().of_deployment("iris", "blue");
        Deployment::new(id, metrics)
    }

    fn route(deployment: &Deployment, replicas: &[&str]) -> DeploymentRoute {
        DeploymentRoute {
            id: deployment.id.clone(),
            replicas: replicas
                .iter()
                .map(|id| ReplicaRoute {
                    id: (*id).to_owned(),
                    address: SocketAddr::from(([127, 0, 0, 1], 9)),
                })
                .collect(),
            request_timeout: Duration::from_secs(5),
            max_concurrent_per_replica: NonZeroU32::MIN.saturating_add(1),
            max_queue_wait: Duration::ZERO,
            can_scale_from_zero: true,
            scoring_path: None,
        }
    }

    #[test]
    fn the_least_loaded_replica_is_chosen_and_equals_take_turns() {
        let blue = deployment();
        assert!(blue.choose(None).is_none());
        blue.update(&route(&blue, &["a", "b", "c"]));
        let mut flights: Vec<InFlight> =
            (0..6).map(|_| InFlight::begin(blue.choose(None).unwrap())).collect();
        assert_eq!(["a", "b", "c"].map(|id| blue.in_flight(id)), [2, 2, 2]);
        let freed = flights.swap_remove(0).replica.route.id.clone();
        let next = blue.choose(None).unwrap();
        assert_eq!(next.route.id, freed);
        assert_ne!(blue.choose(Some(&next)).unwrap().route.id, freed);
    }

    #[test]
    fn a_replica_that_was_taken_out_keeps_its_requests() {
        let blue = deployment();
        blue.update(&route(&blue, &["a", "b"]));
        let flight = loop {
            let replica = blue.choose(None).unwrap();
            if replica.route.id == "a" {
                break InFlight::begin(replica);
            }
        };
        blue.update(&route(&blue, &["b"]));
        assert_eq!(blue.in_flight("a"), 1);
        assert!((0..4).all(|_| blue.choose(None).unwrap().route.id == "b"));
        drop(flight);
        assert_eq!(blue.in_flight("a"), 0);
    }

    #[test]
    fn places_follow_the_replicas() {
        let blue = deployment();
        blue.update(&route(&blue, &["a"]));
        let held = [blue.try_place().unwrap(), blue.try_place().unwrap()];
        assert!(blue.try_place().is_none());
        blue.update(&route(&blue, &["a", "b"]));
        assert!(blue.try_place().is_some());
        assert_eq!(blue.load().in_flight, 2);
        drop(held);
        assert_eq!(blue.load().in_flight, 0);
    }
}
