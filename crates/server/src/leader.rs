//! One leader among the servers of one store: whoever does not lead yet answers that it lives, and waits for its turn.
//!
//! The lease is held before the store is opened, so that a follower reads and writes nothing of it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use moorline_core::ErrorClass;
use moorline_deploy::kubernetes::{
    Cluster, ClusterAddress, ClusterError, HeldLease, Lease, LeaseTimes, PodRole, mark_pod,
};
use moorline_listen::Door;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::problem::{ApiError, render};

/// How long the last answers of a follower may take once it leads.
const HANDOVER: Duration = Duration::from_secs(1);
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// What it takes to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElection {
    pub namespace: String,
    /// The name of the Lease.
    pub lease: String,
    /// The pod in that namespace that this server runs in: it is labelled with the server's role.
    pub pod: Option<String>,
}

/// The right to be the server of the store, and the socket that followed until now.
pub struct Leadership {
    held: HeldLease,
    pub(crate) listener: Arc<TcpListener>,
    following: Following,
    cluster: Cluster,
    pod: Option<String>,
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Leadership {
    /// Done when the right is lost: this process must end at once, another server may begin.
    pub fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let lost = self.held.lost();
        async move { lost.await.to_string() }
    }

    /// Lets another one try.
    pub(crate) async fn resign(self) {
        self.held.release().await;
    }

    /// The socket is the leader's from now on, and requests are sent to it.
    pub(crate) async fn begin(self) -> Result<HeldLease, ClusterError> {
        self.following.end().await;
        if let Some(pod) = &self.pod {
            mark_pod(&self.cluster, pod, PodRole::Leader).await?;
        }
        Ok(self.held)
    }
}

/// Follows until the lease is held. It may be dropped at any point.
pub(crate) async fn campaign(
    election: &LeaderElection,
    environment: &BTreeMap<String, String>,
    listener: TcpListener,
    door: Door,
) -> Result<Leadership, ClusterError> {
    let listener = Arc::new(listener);
    let following = Following::begin(Arc::clone(&listener), door);
    let address = ClusterAddress { namespace: Some(election.namespace.clone()), ..ClusterAddress::default() };
    let cluster = Cluster::connect(&address, environment).await?;
    // The process before this one may have led in the same pod.
    if let Some(pod) = &election.pod {
        mark_pod(&cluster, pod, PodRole::Follower).await?;
    }
    following.state.standing_by.store(true, Ordering::Release);
    let who =
        election.pod.as_ref().or_else(|| environment.get("HOSTNAME")).map_or("moorline", String::as_str);
    let identity = format!("{who}_{}", Uuid::new_v4());
    let lease = Lease::new(&cluster, &election.lease, identity, LeaseTimes::default());
    tracing::info!(namespace = election.namespace, lease = election.lease, "waiting for the lease");
    let held = lease
        .acquire(|holder| {
            tracing::info!(leader = holder, "following");
            *following.state.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(holder.to_owned());
        })
        .await?;
    tracing::info!(namespace = election.namespace, lease = election.lease, "leading");
    Ok(Leadership { held, listener, following, cluster, pod: election.pod.clone() })
}

/// What a follower can say of itself.
#[derive(Debug, Default)]
struct FollowerState {
    /// It has said everywhere that it does not lead, so that its place may be counted as one.
    standing_by: AtomicBool,
    leader: Mutex<Option<String>>,
}

/// The answers of a server that does not lead.
struct Following {
    state: Arc<FollowerState>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Following {
    fn begin(listener: Arc<TcpListener>, door: Door) -> Self {
        let state = Arc::new(FollowerState::default());
        let end = CancellationToken::new();
        let service = service_fn({
            let state = Arc::clone(&state);
            move |request: Request<Incoming>| {
                let answer = state.answer(&request.map(Body::new));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            }
        });
        let ended = end.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = door.accept(&listener, service) => {}
                () = ended.cancelled() => {}
            }
            // Whoever is slower than this asks the leader again.
            let _ = tokio::time::timeout(HANDOVER, door.drain()).await;
        });
        Self { state, end, task }
    }

    async fn end(mut self) {
        self.end.cancel();
        // It fails only where it panicked, and then it has ended.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FollowerState {
    fn answer(&self, request: &Request<Body>) -> Response {
        let standing_by = self.standing_by.load(Ordering::Acquire);
        if let Some(answer) = probe(request, standing_by, false) {
            return answer;
        }
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let detail = match leader {
            Some(leader) => format!("this server follows, `{leader}` leads"),
            None => "this server follows, and has not heard of a leader yet".to_owned(),
        };
        let refusal = ApiError::new(ErrorClass::Unavailable, detail).hint("send requests to the leader");
        let mut answer = render(refusal.into_response(), &Uuid::new_v4().to_string());
        answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        answer
    }
}

/// The answer to a question about the process, which needs no token: `/live` is for whoever ends a process that hangs,
/// `/standing-by` for whoever counts servers that lead or could, `/ready` for whoever sends requests.
pub(crate) fn probe(request: &Request<Body>, standing_by: bool, ready: bool) -> Option<Response> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let (good, yes, no) = match request.uri().path() {
        "/live" => (true, "live\n", ""),
        "/standing-by" => (standing_by, "standing by\n", "not yet\n"),
        "/ready" => (ready, "ready\n", "this server follows\n"),
        _ => return None,
    };
    let answer = if good { (StatusCode::OK, yes) } else { (StatusCode::SERVICE_UNAVAILABLE, no) };
    Some(answer.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &FollowerState, path: &str) -> u16 {
        state.answer(&Request::get(path).body(Body::empty()).unwrap()).status().as_u16()
    }

    #[tokio::test]
    async fn a_follower_lives_and_is_not_ready() {
        let state = FollowerState::default();
        assert_eq!(status(&state, "/live"), 200);
        assert_eq!(status(&state, "/ready"), 503);
        assert_eq!(status(&state, "/standing-by"), 503);
        state.standing_by.store(true, Ordering::Release);
        assert_eq!(status(&state, "/standing-by"), 200);
        assert_eq!(status(&state, "/ready"), 503);
        *state.leader.lock().unwrap() = Some("moorline-0_1".to_owned());
        let refusal = state.answer(&Request::post("/api/v1/workspaces").body(Body::empty()).unwrap());
        assert_eq!(refusal.status(), 503);
        assert_eq!(refusal.headers()[header::RETRY_AFTER], "2");
        let body = axum::body::to_bytes(refusal.into_body(), 4096).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("`moorline-0_1` leads"));
    }
}
