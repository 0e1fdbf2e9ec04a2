//! gRPC passes with its trailers, and is refused in trailers.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::harness::{Front, Server, deployment, endpoint, until};

/// Sends a message back, and a status behind it.
async fn echo() -> Server {
    Server::start(|request: Request<Body>| async {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        assert!(!request.headers().contains_key("moorline-endpoint"));
        let path = request.uri().path().to_owned();
        let message = request.into_body().collect().await.unwrap().to_bytes();
        let trailers = HeaderMap::from_iter([
            ("grpc-status".parse().unwrap(), HeaderValue::from_static("0")),
            ("x-path".parse().unwrap(), path.parse().unwrap()),
        ]);
        let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<_, std::io::Error>);
        let mut response = Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    })
    .await
}

async fn client(front: &Front) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(front.server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn call(path: &str, endpoint: Option<&str>) -> Request<Body> {
    let mut request = Request::post(format!("http://front{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(endpoint) = endpoint {
        request = request.header("moorline-endpoint", endpoint);
    }
    request.body(Body::from("\0\0\0\0\x05hello")).unwrap()
}

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

#[tokio::test]
async fn a_call_passes_with_its_trailers() {
    let front = Front::new().await;
    let replica = echo().await;
    front.gateway.set(endpoint(vec![deployment("blue", &[replica.address])]));
    let mut client = client(&front).await;
    for (path, named) in [(INFER, Some("iris")), (&*format!("/endpoints/iris{INFER}"), None)] {
        for _ in 0..3 {
            let response = client.send_request(call(path, named)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["azureml-model-deployment"], "blue");
            let body = response.into_body().collect().await.unwrap();
            let trailers = body.trailers().unwrap().clone();
            assert_eq!(body.to_bytes(), Bytes::from_static(b"\0\0\0\0\x05hello"));
            assert_eq!(
                (&trailers["grpc-status"], &trailers["x-path"]),
                (&"0".parse().unwrap(), &INFER.parse().unwrap())
            );
        }
    }
    until("nothing is left", || front.gateway.load(&crate::harness::id("blue")).in_flight == 0).await;
}

#[tokio::test]
async fn a_connection_that_ended_is_made_again() {
    let front = Front::new().await;
    let first = echo().await;
    front.gateway.set(endpoint(vec![deployment("blue", &[first.address])]));
    let mut client = client(&front).await;
    assert_eq!(client.send_request(call(INFER, Some("iris"))).await.unwrap().status(), StatusCode::OK);
    let second = echo().await;
    front.gateway.set(endpoint(vec![deployment("blue", &[second.address])]));
    first.drain().await;
    let response = client.send_request(call(INFER, Some("iris"))).await.unwrap();
    assert!(!response.headers().contains_key("grpc-status"));
}

#[tokio::test]
async fn a_refusal_is_a_status_in_trailers() {
    let front = Front::new().await;
    let mut client = client(&front).await;
    let mut status = async |named| {
        let response = client.send_request(call(INFER, named)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.headers()["grpc-status"].to_str().unwrap().to_owned()
    };
    assert_eq!(status(Some("iris")).await, "5");
    assert_eq!(status(None).await, "3");
    front.gateway.set(endpoint(vec![deployment("blue", &[])]));
    assert_eq!(status(Some("iris")).await, "14");
}
