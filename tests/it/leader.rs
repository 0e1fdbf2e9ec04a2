//! Two servers of one store: the one that holds the Lease serves, the other one takes over.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use moorline_tests::{GivenCluster, Namespace, Request, Workspace, call, containers::free_port, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::chart::impersonating;

/// Longer than a lease that nobody renews lasts, and a start takes.
const PATIENCE: Duration = Duration::from_mins(1);
const LEASE: &str = "moorline";

/// A pod whose labels matter; no node has to run it.
pub(crate) const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server-0"}, "spec": {
    "nodeSelector": {"no-such-node": "true"},
    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [{"name": "a", "image": "a",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}"#;

/// One of the servers, with a home of its own.
pub(crate) struct Candidate {
    home: Workspace,
    child: Child,
    address: SocketAddr,
}

impl Candidate {
    pub(crate) fn start(kubeconfig: &Path, election: &str, store: &Path, pod: Option<&str>) -> Self {
        let home = Workspace::down();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = fs_err::File::create(home.work().join("log")).unwrap();
        let mut command = home.command(&["up", "--leader-election", election]);
        command.arg("--listen").arg(address.to_string());
        for (option, place) in [("--database", "workspace.db"), ("--blobs", "blobs"), ("--keys", "keys")] {
            command.arg(option).arg(store.join(place));
        }
        if let Some(pod) = pod {
            command.arg("--pod").arg(pod);
        }
        command.env("KUBECONFIG", kubeconfig).stdout(Stdio::null()).stderr(log.into_parts().0);
        let child = command.spawn().unwrap();
        Self { home, child, address }
    }

    fn log(&self) -> String {
        fs_err::read_to_string(self.home.work().join("log")).unwrap()
    }

    /// The status of a path; nobody listens yet at the very start.
    fn status(&self, path: &str) -> Option<u16> {
        std::net::TcpStream::connect(self.address).ok()?;
        let host = self.address.to_string();
        Some(call(self.address, &Request::get(path).header("host", &host)).status)
    }

    #[track_caller]
    pub(crate) fn until(&self, path: &str, status: u16) {
        let comes = eventually(PATIENCE, || self.status(path) == Some(status));
        assert!(comes, "{path} never answers {status}; the log:\n{}", self.log());
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; the exit code and all that it said.
    fn ended(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A namespace, and what two servers share.
struct Shared {
    cluster: GivenCluster,
    namespace: Namespace,
    store: TempDir,
}

impl Shared {
    fn new() -> Option<Self> {
        let cluster = GivenCluster::find()?;
        let namespace = cluster.namespace();
        Some(Self { cluster, namespace, store: tempfile::tempdir().unwrap() })
    }

    fn candidate(&self) -> Candidate {
        let election = format!("{}/{LEASE}", self.namespace.name);
        Candidate::start(&self.cluster.kubeconfig, &election, self.store.path(), None)
    }

    fn holder(&self) -> Option<String> {
        let lease = self.namespace.get("lease", LEASE)?;
        lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }
}

#[test]
fn the_other_one_takes_over_from_one_that_ends_and_from_one_that_was_killed() {
    let Some(shared) = Shared::new() else { return };
    let first = shared.candidate();
    first.until("/ready", 200);
    let mut create = first.home.command(&["workspace", "create", "-n", "kept"]);
    create.env("MOORLINE_SERVER", format!("http://{}", first.address));
    first.home.run(create).ok();

    let second = shared.candidate();
    second.until("/standing-by", 200);
    assert_eq!(second.status("/live"), Some(200));
    assert_eq!(second.status("/ready"), Some(503));
    let holder = shared.holder().unwrap();
    let host = second.address.to_string();
    let refused = call(second.address, &Request::get("/api/v1/workspaces").header("host", &host));
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains(&format!("`{holder}` leads")), "{}", refused.text());

    // One that is told to end lets go of the lease.
    first.send(Signal::TERM);
    let (code, log) = first.ended();
    assert_eq!(code, Some(0), "{log}");
    second.until("/ready", 200);
    assert_ne!(shared.holder().unwrap(), holder);
    assert_eq!(second.status("/api/v1/workspaces/kept"), Some(200));

    // One that was killed does not, and its time has to pass.
    let third = shared.candidate();
    third.until("/standing-by", 200);
    assert_eq!(third.status("/ready"), Some(503));
    second.send(Signal::KILL);
    third.until("/ready", 200);
    assert_eq!(third.status("/api/v1/workspaces/kept"), Some(200));
    let transitions = shared.namespace.get("lease", LEASE).unwrap()["spec"]["leaseTransitions"].clone();
    assert_eq!(transitions, 2);
}

#[test]
fn a_follower_ends_when_it_is_told_to() {
    let Some(shared) = Shared::new() else { return };
    let leader = shared.candidate();
    leader.until("/ready", 200);
    let follower = shared.candidate();
    follower.until("/standing-by", 200);
    follower.send(Signal::TERM);
    let (code, log) = follower.ended();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(leader.status("/ready"), Some(200));
}

#[test]
fn a_leader_whose_lease_was_taken_ends_at_once() {
    let Some(shared) = Shared::new() else { return };
    let leader = shared.candidate();
    leader.until("/ready", 200);
    let theft = r#"{"spec": {"holderIdentity": "a-thief"}}"#;
    shared.namespace.kubectl_with(&["patch", "lease", LEASE, "--type=merge", "--patch", theft], "").ok();
    let (code, log) = leader.ended();
    assert_eq!(code, Some(1), "{log}");
    let lease = format!("{}/{LEASE}", shared.namespace.name);
    assert!(log.contains(&format!("leads no more: `a-thief` has taken the lease `{lease}`")), "{log}");
}

#[test]
fn a_pod_says_whether_its_server_leads() {
    let Some(shared) = Shared::new() else { return };
    shared.namespace.kubectl_with(&["apply", "-f", "-"], POD).ok();
    let role = || {
        let pod = shared.namespace.get("pod", "server-0").unwrap();
        pod["metadata"]["labels"]["moorline.io/role"].as_str().map(str::to_owned)
    };
    let election = format!("{}/{LEASE}", shared.namespace.name);
    let start =
        || Candidate::start(&shared.cluster.kubeconfig, &election, shared.store.path(), Some("server-0"));
    let leader = start();
    leader.until("/ready", 200);
    assert_eq!(role().as_deref(), Some("leader"));
    assert!(shared.holder().unwrap().starts_with("server-0_"));
    // The process that comes after one that was killed does not lead at first, though it is the same pod.
    drop(leader);
    let next = start();
    next.until("/standing-by", 200);
    assert_eq!(role().as_deref(), Some("follower"));
    next.until("/ready", 200);
    assert_eq!(role().as_deref(), Some("leader"));
}

#[test]
fn a_right_that_is_missing_is_named() {
    let Some(shared) = Shared::new() else { return };
    let namespace = &shared.namespace.name;
    let nobody = format!("system:serviceaccount:{namespace}:nobody");
    let kubeconfig = impersonating(&shared.cluster, &nobody, &shared.store);
    let refused = |election: &str, pod: Option<&str>| {
        let candidate = Candidate::start(&kubeconfig, election, shared.store.path(), pod);
        let (code, log) = candidate.ended();
        assert_eq!(code, Some(1), "{log}");
        log.lines().find(|line| line.contains("error: ")).unwrap_or_else(|| panic!("{log}")).to_owned()
    };
    let line = refused(&format!("{namespace}/{LEASE}"), None);
    for part in [&format!("could not get the lease `{namespace}/{LEASE}`"), "cannot get resource", "leases"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(line.contains("`moorline kubernetes rbac | kubectl apply -f -` grants"), "{line}");
    let line = refused(&format!("{namespace}/{LEASE}"), Some("server-0"));
    assert!(line.contains("cannot patch resource") && line.contains("pods"), "{line}");
    assert!(line.contains("the Role of the Helm chart grants that"), "{line}");
}
