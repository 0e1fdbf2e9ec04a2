//! The way to pods from outside of their network: ports of this machine, each of which is carried through the API server to
//! a port of one pod, as `kubectl port-forward` does it.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

/// Connections at one time to one port of one pod.
const MOST_CONNECTIONS: usize = 256;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The ports that are open. They close when this is dropped.
pub(super) struct Forwards {
    api: Api<Pod>,
    open: Mutex<HashMap<(String, u16), Forward>>,
}

struct Forward {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Forwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwards").finish_non_exhaustive()
    }
}

impl Forwards {
    pub(super) fn new(api: Api<Pod>) -> Self {
        Self { api, open: Mutex::default() }
    }

    /// The address on this machine that leads to a port of a pod.
    pub(super) fn address(&self, pod: &str, port: u16) -> Option<SocketAddr> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (pod.to_owned(), port);
        if let Some(forward) = open.get(&key) {
            return Some(forward.address);
        }
        match begin(self.api.clone(), pod.to_owned(), port) {
            Ok(forward) => {
                let address = forward.address;
                open.insert(key, forward);
                Some(address)
            }
            Err(error) => {
                tracing::warn!(pod, port, %error, "no port could be opened to lead to a pod");
                None
            }
        }
    }

    /// Closes those of pods that are not there any more: `own` says which pods are meant, and `pods` which of them there
    /// are.
    pub(super) fn keep(&self, own: impl Fn(&str) -> bool, pods: &HashSet<&str>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(pod, _), _| !own(pod) || pods.contains(pod.as_str()));
    }
}

fn begin(api: Api<Pod>, pod: String, port: u16) -> io::Result<Forward> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            // More wait in the listener's queue.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // For want of files, most likely: others have to close first.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            let (api, pod) = (api.clone(), pod.clone());
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = carry(&api, &pod, port, stream).await {
                    tracing::debug!(pod, port, error, "a connection to a pod broke");
                }
            });
        }
    });
    Ok(Forward { address, task })
}

async fn carry(api: &Api<Pod>, pod: &str, port: u16, mut stream: TcpStream) -> Result<(), String> {
    let mut forwarder = api.portforward(pod, &[port]).await.map_err(|error| error.to_string())?;
    let mut other = forwarder.take_stream(port).ok_or("the API server opened no stream")?;
    copy_bidirectional(&mut stream, &mut other).await.map_err(|error| error.to_string())?;
    drop(other);
    forwarder.abort();
    Ok(())
}
