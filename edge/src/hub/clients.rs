//! Who is connected: one session for each client, the newest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::{Mutex as Seat, OwnedMutexGuard, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{identity::ClientId, methods::Request, session::Ended};

/// Things to be told to one session that it has not taken up.
const CONTROLS: usize = 64;
/// What listeners may be behind.
const EVENTS: usize = 1024;

/// What a session is told by the hub.
#[derive(Debug)]
pub(crate) enum Control {
    Method(Request),
    /// A change of the desired properties, as it is sent.
    Desired {
        version: u64,
        patch: String,
    },
    /// A change of those of a module: what its device's agent is told.
    ModuleDesired {
        module: String,
        version: u64,
        patch: String,
    },
}

/// What happens at a hub. Whoever falls behind is told so, and looks at the whole again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubEvent {
    Connected(ClientId),
    Disconnected(ClientId),
    /// Reported properties have changed.
    Reported(ClientId),
}

/// When a client was here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientState {
    pub connected: bool,
    pub last_connect: Option<SystemTime>,
    pub last_disconnect: Option<SystemTime>,
}

#[derive(Debug, Default)]
struct Known {
    seat: Arc<Seat<()>>,
    live: Option<Live>,
    state: ClientState,
}

#[derive(Debug)]
struct Live {
    generation: u64,
    control: mpsc::Sender<Control>,
    end: Arc<End>,
}

/// How the hub ends a session.
#[derive(Debug)]
pub(crate) struct End {
    token: CancellationToken,
    why: Mutex<Ended>,
}

impl End {
    fn new(shutdown: &CancellationToken) -> Arc<Self> {
        Arc::new(Self { token: shutdown.child_token(), why: Mutex::new(Ended::Shutdown) })
    }

    fn end(&self, why: Ended) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.token.cancel();
    }

    pub(crate) async fn ended(&self) -> Ended {
        self.token.cancelled().await;
        *self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Clients {
    known: Mutex<HashMap<ClientId, Known>>,
    events: broadcast::Sender<HubEvent>,
    /// Changes whenever somebody has connected.
    arrivals: watch::Sender<u64>,
}

/// A session's place among the clients.
#[derive(Debug)]
pub(crate) struct Place {
    clients: Arc<Clients>,
    id: ClientId,
    generation: u64,
    pub(crate) controls: mpsc::Receiver<Control>,
    pub(crate) end: Arc<End>,
    /// Held as long as the session reads the client's queue.
    _seat: OwnedMutexGuard<()>,
}

impl Clients {
    pub(crate) fn new() -> Arc<Self> {
        let (events, _) = broadcast::channel(EVENTS);
        Arc::new(Self { known: Mutex::new(HashMap::new()), events, arrivals: watch::channel(0).0 })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ClientId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the client's session, if there is one, and takes its place once it has let go.
    pub(crate) async fn enter(self: &Arc<Self>, id: &ClientId, shutdown: &CancellationToken) -> Place {
        let (control, controls) = mpsc::channel(CONTROLS);
        let end = End::new(shutdown);
        let (seat, generation) = {
            let mut known = self.known();
            let own = known.entry(id.clone()).or_default();
            let generation = own.live.as_ref().map_or(1, |live| live.generation + 1);
            let live = Live { generation, control, end: Arc::clone(&end) };
            if let Some(old) = own.live.replace(live) {
                old.end.end(Ended::Superseded);
            }
            (Arc::clone(&own.seat), generation)
        };
        let seat = seat.lock_owned().await;
        {
            let mut known = self.known();
            let state = &mut known.entry(id.clone()).or_default().state;
            state.connected = true;
            state.last_connect = Some(SystemTime::now());
        }
        let _ = self.events.send(HubEvent::Connected(id.clone()));
        Place { clients: Arc::clone(self), id: id.clone(), generation, controls, end, _seat: seat }
    }

    /// Somebody is connected and listens: whoever waits for that looks again.
    pub(crate) fn arrived(&self) {
        self.arrivals.send_modify(|count| *count += 1);
    }

    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<HubEvent> {
        self.events.subscribe()
    }

    pub(crate) fn reported(&self, id: &ClientId) {
        let _ = self.events.send(HubEvent::Reported(id.clone()));
    }

    pub(crate) fn control(&self, id: &ClientId) -> Option<mpsc::Sender<Control>> {
        self.known().get(id)?.live.as_ref().map(|live| live.control.clone())
    }

    /// Tells a session of a change; one that takes nothing up is ended, so that it reads everything again.
    pub(crate) fn tell(&self, id: &ClientId, control: Control) {
        let Some(sender) = self.control(id) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(control) {
            self.end(id, Ended::SlowReader);
        }
    }

    pub(crate) fn end(&self, id: &ClientId, why: Ended) {
        if let Some(live) = self.known().get(id).and_then(|known| known.live.as_ref()) {
            live.end.end(why);
        }
    }

    pub(crate) fn states(&self) -> Vec<(ClientId, ClientState)> {
        self.known().iter().map(|(id, known)| (id.clone(), known.state.clone())).collect()
    }

    pub(crate) fn connected(&self) -> usize {
        self.known().values().filter(|known| known.state.connected).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut known = self.clients.known();
        let Some(own) = known.get_mut(&self.id) else { return };
        if own.live.as_ref().is_some_and(|live| live.generation == self.generation) {
            own.live = None;
        }
        own.state.connected = false;
        own.state.last_disconnect = Some(SystemTime::now());
        drop(known);
        let _ = self.clients.events.send(HubEvent::Disconnected(self.id.clone()));
    }
}
