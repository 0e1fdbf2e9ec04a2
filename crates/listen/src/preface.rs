//! Which HTTP a connection speaks, found without taking a byte from it, so that a silent client can be left waiting no
//! longer than a head may take.

use std::{io, time::Duration};

use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Looks at a connection's first bytes until it is certain whether they are HTTP/2's preface.
pub(crate) async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    let mut seen = 0;
    loop {
        let count = stream.peek(&mut first).await?;
        if first[..count] != PREFACE[..count] {
            return Ok(false);
        }
        match count {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if count == PREFACE.len() => return Ok(true),
            // A part of the preface is there already, so that the socket stays readable: look again a little later.
            _ if count == seen => tokio::time::sleep(Duration::from_millis(5)).await,
            _ => seen = count,
        }
    }
}
