//! A module's address, which stays the same: connections are handed on to the version that runs.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use super::ModuleError;

/// Connections at one time; one more waits in the kernel's queue.
const CONNECTIONS: usize = 256;

#[derive(Debug)]
pub(super) struct Front {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Front {
    /// Listens on `port` of this machine's loopback; on any if it is 0, or taken by another since.
    pub(super) async fn open(port: u16) -> Result<Self, ModuleError> {
        let error = |source| ModuleError::Listen { port, source };
        let listener = match TcpListener::bind(("127.0.0.1", port)).await {
            Err(taken) if port != 0 && taken.kind() == std::io::ErrorKind::AddrInUse => {
                tracing::warn!(port, "a module gets another port, since its own is taken");
                TcpListener::bind(("127.0.0.1", 0)).await.map_err(error)?
            }
            bound => bound.map_err(error)?,
        };
        let address = listener.local_addr().map_err(error)?;
        let (target, current) = watch::channel(None);
        let task = tokio::spawn(accept(listener, current));
        Ok(Self { address, target, task })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go there from now on; nowhere without a target.
    pub(super) fn lead_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: watch::Receiver<Option<SocketAddr>>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((mut client, _)) => {
                let target = *target.borrow();
                tokio::spawn(async move {
                    let Some(target) = target else { return };
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    // Small requests and answers leave at once; a connection that refuses that is as good.
                    let _ = client.set_nodelay(true);
                    let _ = server.set_nodelay(true);
                    if let Err(error) = copy_bidirectional(&mut client, &mut server).await {
                        tracing::debug!(%error, "a connection to a module broke");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: those in use must end before another can begin.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}
