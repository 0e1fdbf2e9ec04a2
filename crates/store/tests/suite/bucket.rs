//! The same blobs in a real S3-compatible server, from a Python environment that `cargo xtask test` makes.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use moorline_core::Secret;
use moorline_store::{Blobs, Store, StoreError};

use crate::{
    blobs, garbage,
    place::{Place, venv},
};

const BUCKET: &str = "moorline-test";

/// A running server; it goes with this.
struct Bucket {
    child: Child,
    address: String,
}

impl Bucket {
    fn start() -> Option<Self> {
        let venv = venv("s3")?;
        let mut child = Command::new(venv.join("bin/python"))
            .arg(venv.join("bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("Running on http://")?.1.trim().to_owned()))
            .expect("the server says where it listens");
        // Until it ends, so that it never waits for a reader of its log.
        std::thread::spawn(move || lines.count());
        let bucket = Self { child, address };
        let mut connection = TcpStream::connect(&bucket.address).unwrap();
        write!(
            connection,
            "PUT /{BUCKET} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            bucket.address
        )
        .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(bucket)
    }

    fn blobs(&self, bucket: &str, prefix: &str) -> Blobs {
        let endpoint = format!("http://{}", self.address);
        let options: BTreeMap<String, Secret> = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", "id"),
            ("aws_secret_access_key", "key"),
            ("aws_allow_http", "true"),
            // Of another program.
            ("aws_pager", "less"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned())))
        .collect();
        Blobs::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned(), options }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn place(blobs: Blobs) -> Place {
    // What a binary does before it opens a store; a second time changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut place = Place::sqlite();
    place.blobs = blobs;
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_bucket() {
    let Some(bucket) = Bucket::start() else { return };
    blobs::holds_everywhere(place(bucket.blobs(BUCKET, "work/one"))).await;
    // What another prefix holds is not this one's garbage.
    Box::pin(garbage::goes_and_nothing_else(place(bucket.blobs(BUCKET, "")))).await;
    garbage::never_takes_what_is_being_registered(place(bucket.blobs(BUCKET, "work/two"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_does_not_answer_is_named() {
    let Some(bucket) = Bucket::start() else { return };
    let missing = Store::open(place(bucket.blobs("no-such-bucket", "")).config()).await.unwrap_err();
    assert!(matches!(missing, StoreError::Configuration { .. }), "{missing:?}");
    let Blobs::S3 { bucket: name, prefix, mut options } = bucket.blobs(BUCKET, "") else { unreachable!() };
    let silent = Blobs::S3 { bucket: name.clone(), prefix: prefix.clone(), options: options.clone() };
    let silent = place(silent);
    drop(bucket);
    let error = Store::open(silent.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::BlobsUnreachable { .. }), "{error:?}");
    options.insert("aws_endpoint".to_owned(), Secret::new("not an address".to_owned()));
    let wrong = place(Blobs::S3 { bucket: name, prefix, options });
    let wrong = Store::open(wrong.config()).await.unwrap_err();
    assert!(matches!(wrong, StoreError::Configuration { .. }), "{wrong:?}");
}
