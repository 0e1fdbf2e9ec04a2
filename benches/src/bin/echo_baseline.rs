//! Baseline: what HTTP alone costs here. A bare axum handler that sends the body of a POST back, byte for byte: no
//! JSON is parsed and none is written, so that nothing flatters the scorer.
#![expect(clippy::print_stdout, reason = "the harness reads the address from it")]

use anyhow::Result;
use axum::{Router, body::Bytes, http::header::CONTENT_TYPE, routing::post};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<()> {
    let router = Router::new().route("/score", post(echo));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}

async fn echo(body: Bytes) -> impl axum::response::IntoResponse {
    ([(CONTENT_TYPE, "application/json")], body)
}
