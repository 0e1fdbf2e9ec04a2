//! A registry that does as the test says: for lies, cuts and moods that a real one does not have.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// The path, and the query if there is one.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("a text")).unwrap_or_default()
    }

    pub(crate) fn is(&self, method: &str, target: &str) -> bool {
        self.method == method && self.target == target
    }
}

/// What is answered: a status, headers, and content that may be cut off.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    content: Bytes,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Sound,
    Cut,
    Stuck,
}

pub(crate) fn answer(status: u16) -> Answer {
    Answer { status, headers: Vec::new(), content: Bytes::new(), end: End::Sound }
}

impl Answer {
    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn content(mut self, content: impl Into<Bytes>) -> Self {
        self.content = content.into();
        self
    }

    /// The connection ends after the content, whatever was announced.
    pub(crate) fn cut(mut self) -> Self {
        self.end = End::Cut;
        self
    }

    /// Nothing comes after the content, and the connection stays.
    pub(crate) fn stuck(mut self) -> Self {
        self.end = End::Stuck;
        self
    }

    fn build(self) -> Response<BoxBody<Bytes, io::Error>> {
        let mut response = Response::builder().status(StatusCode::from_u16(self.status).expect("a status"));
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        let given = stream::iter([Ok(Frame::data(self.content))]);
        let end = self.end;
        let cut = stream::iter((end != End::Sound).then_some(())).then(move |()| async move {
            if end == End::Stuck {
                std::future::pending::<()>().await;
            }
            // What was given before has to be on its way.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            Err(io::Error::other("cut"))
        });
        response.body(BoxBody::new(StreamBody::new(given.chain(cut)))).expect("a response")
    }
}

/// The server, which ends with the test.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

impl Scripted {
    /// `script` is told the own host and each request.
    pub(crate) async fn start(script: impl Fn(&str, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let host = listener.local_addr().expect("an address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        let serving = tokio::spawn({
            let (host, asked) = (host.clone(), Arc::clone(&asked));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (script, host, asked) = (Arc::clone(&script), host.clone(), Arc::clone(&asked));
                    let serve = service_fn(move |request: Request<Incoming>| {
                        let (script, host, asked) = (Arc::clone(&script), host.clone(), Arc::clone(&asked));
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.map(http_body_util::Collected::to_bytes);
                            let came = Asked {
                                method: head.method,
                                target: head.uri.to_string(),
                                headers: head.headers,
                                body: body.unwrap_or_default(),
                            };
                            asked.lock().expect("nobody panicked with it").push(came.clone());
                            Ok::<_, Infallible>(script(&host, &came).build())
                        }
                    });
                    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
                }
            }
        });
        Self { host, asked, serving }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("nobody panicked with it").clone()
    }

    pub(crate) fn reference(&self, rest: &str) -> moorline_deploy::registry::Reference {
        format!("{}/{rest}", self.host).parse().expect("a reference")
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
