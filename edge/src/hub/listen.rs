//! The hub's sockets: connections within bounds, TLS, and what is spoken above it.

use std::{io, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rumqttc::mqttbytes::v4::{ConnAck, Connect, ConnectReturnCode, Packet};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::server::TlsStream;

use super::{
    Inner, api,
    certificate::Presented,
    identity::ClientId,
    login::{self, LoginError, Until},
    packets::{self, PacketError},
    session,
};

/// HTTPS connections at one time.
const HTTPS_CONNECTIONS: usize = 64;
const HEAD_BYTES: usize = 16 * 1024;

pub(super) async fn mqtt(hub: Arc<Inner>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(hub.config.limits.connections));
    let handshakes = Arc::new(Semaphore::new(hub.config.limits.handshakes));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            () = hub.shutdown.cancelled() => return,
        };
        let Some((stream, permit)) = accepted else { continue };
        // Whoever has said nothing yet must not keep those out who can say who they are: when too many are at it, the
        // newest is turned away.
        let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else {
            hub.metrics.login("crowded");
            continue;
        };
        let own = Arc::clone(&hub);
        hub.tasks.spawn(async move {
            own.metrics.connections.inc();
            let entered = tokio::select! {
                entered = tokio::time::timeout(own.config.limits.connect_timeout, enter(&own, stream)) => entered,
                () = own.shutdown.cancelled() => Ok(None),
            };
            drop(handshake);
            match entered {
                Ok(Some((client, stream))) => session::serve(&own, client, stream).await,
                Ok(None) => {}
                Err(_) => own.metrics.login("timeout"),
            }
            own.metrics.connections.dec();
            drop(permit);
        });
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "could not set the options of a connection");
            }
            Some((stream, permit))
        }
        Err(error) => {
            // Out of file descriptors, most likely: those in use must end before another can begin.
            tracing::warn!(%error, "could not accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// Who connected, and how.
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) connect: Connect,
    pub(super) until: Until,
    /// What came behind CONNECT.
    pub(super) bytes: bytes::BytesMut,
}

/// TLS, CONNECT and the proof of who it is from; whoever is refused was told so.
async fn enter(hub: &Arc<Inner>, stream: TcpStream) -> Option<(Client, TlsStream<TcpStream>)> {
    let mut stream = match hub.tls.acceptor().accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            hub.metrics.login("tls");
            tracing::debug!(%error, "a TLS handshake failed");
            return None;
        }
    };
    let mut bytes = bytes::BytesMut::with_capacity(1024);
    let connect = match first_packet(&mut stream, &mut bytes, hub.config.limits.packet).await {
        Ok(Packet::Connect(connect)) if connect.protocol == rumqttc::mqttbytes::Protocol::V4 => connect,
        Err(FirstError::Packet(PacketError::Version)) | Ok(Packet::Connect(_)) => {
            hub.metrics.login("version");
            refuse(&mut stream, ConnectReturnCode::RefusedProtocolVersion).await;
            return None;
        }
        Ok(_) | Err(_) => {
            hub.metrics.login("protocol");
            return None;
        }
    };
    let presented = hub.tls.presented(stream.get_ref().1.peer_certificates());
    match authenticate(hub, &connect, presented.as_ref()).await {
        Ok((id, until)) => {
            if hub.clients.connected() >= hub.config.limits.clients && hub.clients.control(&id).is_none() {
                hub.metrics.login("full");
                tracing::warn!(client = %id, "refused a client: there are as many as may be");
                refuse(&mut stream, ConnectReturnCode::ServiceUnavailable).await;
                return None;
            }
            hub.metrics.login("accepted");
            Some((Client { id, connect, until, bytes }, stream))
        }
        Err(error) => {
            hub.metrics.login(error.label());
            let client = super::identity::shortened(&connect.client_id);
            tracing::info!(client, error = &error as &dyn std::error::Error, "refused a client");
            refuse(&mut stream, error.code()).await;
            None
        }
    }
}

async fn authenticate(
    hub: &Inner,
    connect: &Connect,
    presented: Option<&Presented>,
) -> Result<(ClientId, Until), LoginError> {
    let login = connect.login.as_ref().ok_or(LoginError::UserName)?;
    let id = login::named(&hub.config.name, &connect.client_id, &login.username)?;
    let token = Some(login.password.as_str()).filter(|password| !password.is_empty());
    let until = login::prove(hub.identities.as_ref(), &hub.config.name, &id, token, presented).await?;
    Ok((id, until))
}

enum FirstError {
    Packet(PacketError),
    Gone,
}

async fn first_packet(
    stream: &mut TlsStream<TcpStream>,
    bytes: &mut bytes::BytesMut,
    most: usize,
) -> Result<Packet, FirstError> {
    loop {
        if let Some(packet) = packets::next(bytes, most).map_err(FirstError::Packet)? {
            return Ok(packet);
        }
        match stream.read_buf(bytes).await {
            Ok(0) | Err(_) => return Err(FirstError::Gone),
            Ok(_) => {}
        }
    }
}

/// Within the time that there is for CONNECT.
async fn refuse(stream: &mut TlsStream<TcpStream>, code: ConnectReturnCode) {
    let mut out = bytes::BytesMut::new();
    packets::write(&Packet::ConnAck(ConnAck::new(code, false)), &mut out);
    let told: io::Result<()> = async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    }
    .await;
    if let Err(error) = told {
        tracing::debug!(%error, "could not tell a client why it is refused");
    }
}

pub(super) async fn https(hub: Arc<Inner>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(HTTPS_CONNECTIONS));
    let router = api::router(Arc::clone(&hub));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            () = hub.shutdown.cancelled() => return,
        };
        let Some((stream, permit)) = accepted else { continue };
        let (own, router) = (Arc::clone(&hub), router.clone());
        hub.tasks.spawn(async move {
            let limits = &own.config.limits;
            let handshake = own.tls.acceptor().accept(stream);
            let Ok(Ok(stream)) = tokio::time::timeout(limits.connect_timeout, handshake).await else {
                return;
            };
            let presented = own.tls.presented(stream.get_ref().1.peer_certificates());
            let router = match own.also.get() {
                Some(also) => router.merge(also.clone()),
                None => router,
            };
            let service = TowerToHyperService::new(router.layer(axum::Extension(presented)));
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(limits.connect_timeout)
                .max_buf_size(HEAD_BYTES);
            tokio::select! {
                served = builder.serve_connection(TokioIo::new(stream), service) => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection ended early");
                    }
                }
                () = own.shutdown.cancelled() => {}
            }
            drop(permit);
        });
    }
}
