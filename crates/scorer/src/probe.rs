//! `moorline-scorer probe`: the health check of a container, whose image has no other program that could ask.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{failure::Failure, settings::Probe};

/// The longest status line that is read.
const STATUS_LINE: u64 = 64;

pub(crate) fn run(probe: &Probe) -> Result<(), Failure> {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, probe.admin_port));
    let timeout = Duration::from_millis(probe.timeout_ms.into());
    let status =
        ready(admin, timeout).with_context(|| format!("the scorer's admin port {admin} does not answer"))?;
    if !status.contains(" 200") {
        Err(anyhow::anyhow!("the scorer is not ready: {}", status.trim_end()))?;
    }
    Ok(())
}

/// The status line that `/ready` is answered with.
fn ready(admin: SocketAddr, timeout: Duration) -> anyhow::Result<String> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&admin, timeout)?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    write!(stream, "GET /ready HTTP/1.0\r\nhost: {admin}\r\n\r\n")?;
    let mut line = String::new();
    let read = io::BufRead::read_line(&mut io::BufReader::new(stream.take(STATUS_LINE)), &mut line)?;
    if read == 0 {
        bail!("it closed the connection");
    }
    Ok(line)
}
