//! Doors from the outside: what they let in, what they cut and how they close.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use moorline_listen::{Door, ListenConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    task::JoinHandle,
};

/// No wait of a test is longer.
const LIMIT: Duration = Duration::from_secs(20);

fn config() -> ListenConfig {
    ListenConfig { max_connections: 16, max_header_bytes: 65536, header_timeout: LIMIT, write_timeout: LIMIT }
}

/// A door whose service says which HTTP it was asked in; `/slow` notifies `arrived` and answers after `release`.
struct Open {
    address: SocketAddr,
    arrived: Arc<Notify>,
    release: Arc<Notify>,
    close: oneshot::Sender<()>,
    closed: JoinHandle<()>,
}

async fn open(config: ListenConfig) -> Open {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let [arrived, release] = [(); 2].map(|()| Arc::new(Notify::new()));
    let (close, told) = oneshot::channel::<()>();
    let gates = [&arrived, &release].map(Arc::clone);
    let closed = tokio::spawn(async move {
        let door = Door::new(&config);
        let service = service_fn(move |request: Request<Incoming>| {
            let [arrived, release] = gates.clone();
            async move {
                if request.uri().path() == "/slow" {
                    arrived.notify_one();
                    release.notified().await;
                }
                let text = format!("{:?}", request.version());
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
            }
        });
        tokio::select! {
            () = door.accept(&listener, service) => {}
            _ = told => {}
        }
        drop(listener);
        door.drain().await;
    });
    Open { address, arrived, release, close, closed }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "door").body(Empty::new()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it comes in time")
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_on_one_port() {
    let door = open(config()).await;
    let stream = TcpStream::connect(door.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(text(within(sender.send_request(get("/"))).await.unwrap()).await, "HTTP/1.1");

    let stream = TcpStream::connect(door.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = get("http://door/");
    *request.version_mut() = Version::HTTP_2;
    assert_eq!(text(within(sender.send_request(request)).await.unwrap()).await, "HTTP/2.0");
}

#[tokio::test]
async fn a_preface_in_two_parts_is_one() {
    let door = open(config()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"PRI * HT").await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(b"TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0; 9];
    within(stream.read_exact(&mut frame)).await.unwrap();
    assert_eq!(frame[3], 4, "the server's SETTINGS come first");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let door = open(ListenConfig { header_timeout: Duration::from_millis(50), ..config() }).await;
    for said in ["", "PRI * HTTP", "GET / HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // Either end of a connection will do: closed, or reset because a byte was not read.
        let _ = within(stream.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn one_connection_too_many_waits_for_a_place() {
    let door = open(ListenConfig { max_connections: 1, ..config() }).await;
    let mut first = TcpStream::connect(door.address).await.unwrap();
    let mut answer = [0; 12];
    first.write_all(b"GET / HTTP/1.1\r\nhost: door\r\n\r\n").await.unwrap();
    within(first.read_exact(&mut answer)).await.unwrap();

    let mut second = TcpStream::connect(door.address).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nhost: door\r\n\r\n").await.unwrap();
    let mut early = [0; 1];
    assert!(
        tokio::time::timeout(Duration::from_millis(50), second.peek(&mut early)).await.is_err(),
        "the place is taken"
    );
    drop(first);
    within(second.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_drained_door_finishes_what_it_has_and_lets_nobody_in() {
    let door = open(config()).await;
    let stream = TcpStream::connect(door.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut idle = TcpStream::connect(door.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: door\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    within(idle.read_exact(&mut answer)).await.unwrap();

    let slow = tokio::spawn(sender.send_request(get("/slow")));
    within(door.arrived.notified()).await;

    door.close.send(()).unwrap();
    let mut rest = Vec::new();
    within(idle.read_to_end(&mut rest)).await.unwrap();
    assert!(TcpStream::connect(door.address).await.is_err(), "nobody listens any more");
    door.release.notify_one();
    assert_eq!(text(within(slow).await.unwrap().unwrap()).await, "HTTP/1.1");
    within(door.closed).await.unwrap();
    within(connection).await.unwrap().unwrap();
}
