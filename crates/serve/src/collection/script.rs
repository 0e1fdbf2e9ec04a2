//! Where scoring scripts hand over what they collect: the port of the machine's own that the package
//! `azureml-ai-monitoring` writes to, so that a script that uses it runs as it is.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::SystemTime};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    routing::post,
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use tokio::net::TcpListener;

use super::{
    MOST_RECORD_BYTES, Recorder,
    record::{Body, Head, Record},
};

/// What the package calls each kind of event, with the collection's name behind it.
const EVENT: &str = "azureml.inference.";
const CONFIG: &str = "collector.json";
/// What is read of a request that is too long to be kept, so that its client hears of it.
const MOST_READ: usize = 64 * 1024 * 1024;

/// The port, and what a script's process has to be told to find it.
#[derive(Debug)]
pub struct ScriptCollector {
    /// Variables of the process.
    pub variables: BTreeMap<String, String>,
}

impl ScriptCollector {
    /// Listens, if a script has anything to give.
    pub async fn start(recorder: &Arc<Recorder>) -> io::Result<Option<Self>> {
        if !recorder.config.settings.from_script() {
            return Ok(None);
        }
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let port = listener.local_addr()?.port();
        // The package samples each record by itself, so that inputs would lose their outputs: it is told to give all.
        let collections: serde_json::Map<String, serde_json::Value> = recorder
            .counts
            .iter()
            .map(|own| (own.name.clone(), json!({ "enabled": true, "sampleRatePercentage": 100 })))
            .collect();
        let path = recorder.spool().folder().join(CONFIG);
        let text = json!({ "collections": collections, "runMode": "cloud" }).to_string();
        let variables = [
            ("AZUREML_MDC_HOST", "127.0.0.1".to_owned()),
            ("AZUREML_MDC_PORT", port.to_string()),
            ("AZUREML_MDC_CONFIG_PATH", path.display().to_string()),
        ];
        tokio::task::spawn_blocking(move || fs_err::write(path, text)).await.map_err(io::Error::other)??;
        let routes = Router::new()
            .route("/modeldata/log", post(take))
            .layer(DefaultBodyLimit::max(MOST_READ))
            .with_state(Arc::clone(recorder));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::warn!(%error, "scripts cannot hand over what they collect any more");
            }
        });
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
        Ok(Some(Self { variables: variables.collect() }))
    }
}

async fn take(State(recorder): State<Arc<Recorder>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let Some(event) = text("ce-type") else { return StatusCode::BAD_REQUEST };
    let named = event.strip_prefix(EVENT).unwrap_or(&event).to_ascii_lowercase();
    let Some(collection) = recorder.counts.iter().position(|own| own.name == named) else {
        return StatusCode::NOT_FOUND;
    };
    if body.len() > MOST_RECORD_BYTES {
        recorder.refuse(collection);
        return StatusCode::PAYLOAD_TOO_LARGE;
    }
    let id = text("ce-x-request-id").or_else(|| text("trace-id")).unwrap_or_default();
    if recorder.is_sampled(&id) {
        recorder.offer(Record {
            collection,
            id: id.into(),
            time: SystemTime::now(),
            body: Body::of_bytes(headers.get(header::CONTENT_TYPE), &body),
            head: Head::Script {
                event,
                data_type: text("ce-collect-data-type"),
                agent: text("ce-agent"),
                model_version: text("ce-model-version"),
            },
        });
    }
    StatusCode::OK
}
