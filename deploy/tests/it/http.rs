//! The least of an HTTP client: one request on one connection.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A request for the fixture's model, twice what it is given.
pub(crate) async fn infer(address: SocketAddr) -> io::Result<()> {
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}"#;
    let reply = post(address, "/v2/models/double/infer", body).await?;
    if reply.starts_with("HTTP/1.1 200") && reply.contains("[2.0,4.0,6.0]") {
        return Ok(());
    }
    Err(io::Error::other(reply))
}

/// The whole answer to a POST.
pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}
