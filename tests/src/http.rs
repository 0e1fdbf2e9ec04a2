//! A plain HTTP/1.1 client, small enough to see through: header bytes go out as given and come back as received, and
//! nothing is retried, decoded or followed behind a test's back.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// No answer of a scorer under test takes longer.
const READ_LIMIT: Duration = Duration::from_mins(1);

/// One request. `host` and `content-length` are added where they are not given.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST whose body is JSON, and says so.
    pub fn json(target: &str, body: &Value) -> Self {
        Self::post(target, body.to_string()).header("content-type", "application/json")
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", target) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn gives(&self, name: &str) -> bool {
        self.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))
    }

    /// The bytes of the head, up to and including the empty line.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.gives("host") {
            head.push_str("host: scorer\r\n");
        }
        let bare = matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS") && self.body.is_empty();
        if !bare && !self.gives("content-length") && !self.gives("transfer-encoding") {
            write!(head, "content-length: {}\r\n", self.body.len()).expect("a String takes everything");
        }
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("a String takes everything");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(own, _): &&(String, String)| own.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the body where it is none.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("status {}, not JSON ({error}): {}", self.status, self.text()))
    }

    /// The text of the `message` (or, in the Open Inference Protocol, the `error`) of an error.
    pub fn message(&self) -> String {
        let value = self.value();
        let message = value.get("message").or_else(|| value.get("error")).and_then(Value::as_str);
        message.unwrap_or_else(|| panic!("no message in {value}")).to_owned()
    }
}

/// One kept-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        stream.set_write_timeout(Some(READ_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub fn send(&mut self, request: &Request) -> io::Result<Reply> {
        let mut bytes = request.head();
        bytes.extend_from_slice(&request.body);
        // A server may answer early and stop reading (413): its answer counts, not the broken pipe.
        let written = self.write(&bytes);
        match self.read_reply(&request.method) {
            Ok(reply) => Ok(reply),
            Err(error) => written.and(Err(error)),
        }
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The socket, for tests that shut it down or change its limits.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Whether the server has closed this connection: waits for it, and says no when `within` passes.
    pub fn closed(&mut self, within: Duration) -> bool {
        let limited = self.socket().set_read_timeout(Some(within));
        limited.expect("a timeout that is not zero can be set");
        loop {
            match self.stream.fill_buf() {
                Ok([]) => return true,
                Ok(bytes) => {
                    let count = bytes.len();
                    self.stream.consume(count);
                }
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Reads one answer to a request with `method`; interim answers (1xx) are passed over.
    pub fn read_reply(&mut self, method: &str) -> io::Result<Reply> {
        loop {
            let reply = self.read_one(method)?;
            if reply.status >= 200 {
                return Ok(reply);
            }
        }
    }

    fn read_one(&mut self, method: &str) -> io::Result<Reply> {
        let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| bad(&format!("not a status line: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(reply);
        }
        if reply.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16);
                let size = size.map_err(|_| bad("a chunk without a size"))?;
                let start = reply.body.len();
                reply.body.resize(start + size, 0);
                self.stream.read_exact(&mut reply.body[start..])?;
                self.line()?;
                if size == 0 {
                    return Ok(reply);
                }
            }
        }
        if let Some(length) = reply.header("content-length") {
            let length = length.parse().map_err(|_| bad("a content-length that is not a number"))?;
            reply.body.resize(length, 0);
            self.stream.read_exact(&mut reply.body)?;
        } else {
            self.stream.read_to_end(&mut reply.body)?;
        }
        Ok(reply)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection ended within an answer",
            ));
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// One request on a connection of its own.
pub fn call(address: SocketAddr, request: &Request) -> Reply {
    let sent = Connection::open(address).and_then(|mut connection| connection.send(request));
    sent.unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.target))
}
