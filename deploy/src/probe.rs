//! What a replica is asked on its admin port.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};

/// No answer of an admin port is longer, where nothing else is said.
const LONGEST_ANSWER: usize = 64 * 1024;

#[derive(Deserialize)]
struct Drain {
    requests_in_flight: u64,
}

/// Whether a GET of `path` is answered with 200 in time.
pub(crate) async fn succeeds(admin: SocketAddr, path: &str, within: Duration) -> bool {
    status(admin, path, within).await == Some(200)
}

/// The status that a GET of `path` is answered with, if it is in time.
pub(crate) async fn status(at: SocketAddr, path: &str, within: Duration) -> Option<u16> {
    let answer = timeout(within, ask(at, Method::GET, path)).await.ok()?;
    answer.ok().map(|(status, _)| status)
}

/// Takes the replica out of readiness, and says how many requests it still has.
pub(crate) async fn drain(admin: SocketAddr, within: Duration) -> io::Result<u64> {
    let (_, body) = timeout(within, ask(admin, Method::POST, "/drain")).await??;
    Ok(serde_json::from_slice::<Drain>(&body)?.requests_in_flight)
}

/// The body that a GET of `path` is answered with on an admin port, of `most` bytes at most. One that is late is
/// `TimedOut`.
pub async fn read(at: SocketAddr, path: &str, within: Duration, most: usize) -> io::Result<Bytes> {
    match timeout(within, ask_for(at, Method::GET, path, most)).await?? {
        (200, body) => Ok(body),
        (status, _) => Err(io::Error::other(format!("{path} was answered with {status}"))),
    }
}

async fn ask(admin: SocketAddr, method: Method, path: &str) -> io::Result<(u16, Bytes)> {
    ask_for(admin, method, path, LONGEST_ANSWER).await
}

async fn ask_for(admin: SocketAddr, method: Method, path: &str, most: usize) -> io::Result<(u16, Bytes)> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), most).collect().await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection is done once the answer is read; what was read of it is still to be taken.
        _ = &mut connection => exchange.await,
    }
}
