//! What the server's machine can do: the findings of `moorline doctor` and the devices of `moorline device list`.
//!
//! The server asks its own program, in a process of its own, for the reason why that does the same: a driver that is
//! looked at may end the process that looks.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use moorline_core::ErrorClass;
use moorline_store::RecordKind;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{io::AsyncReadExt, process::Command, sync::Mutex};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{AtName, Refusals, extract::At, list::List};
use crate::{control::Control, problem::ApiError};

/// How long it may look.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long what was found is found still.
const REMEMBERED: Duration = Duration::from_secs(20);
/// Of what it says.
const MOST_BYTES: u64 = 1 << 20;

/// What was said of late, by what was asked. Whoever comes while somebody looks waits for what they find.
#[derive(Debug, Default)]
pub(crate) struct Findings(Mutex<HashMap<&'static str, (Instant, Arc<Value>)>>);

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(doctor)).routes(routes!(devices))
}

/// Something that was looked for.
#[derive(Deserialize, Serialize, ToSchema)]
struct Finding {
    /// `tool`, `compute`, `store` or `server`.
    kind: String,
    name: String,
    /// `found`, `missing`, `works`, `does not`, or `-` where it is neither good nor bad.
    state: String,
    detail: String,
}

/// An OpenCL device of the server's machine, and who has it.
#[derive(Serialize, ToSchema)]
struct OpenClDevice {
    platform: String,
    name: String,
    /// Which one it is among those of one platform with the same name.
    index: u32,
    #[schema(example = "hardware")]
    class: String,
    driver: String,
    /// Bytes.
    memory: u64,
    /// Who has it; nobody where it is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    /// Why nobody may have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine: Option<String>,
}

/// A device as `moorline device list` prints it.
#[derive(Deserialize)]
struct Listed {
    platform: String,
    name: String,
    index: u32,
    class: String,
    driver: String,
    memory: u64,
    lease: Lease,
}

#[derive(Deserialize)]
struct Lease {
    holder: Option<String>,
    quarantine: Option<String>,
}

/// What is installed on the server's machine, and what each kind of compute can do with it.
#[utoipa::path(get, path = "/doctor", responses((status = 200, body = List<Finding>), Refusals))]
async fn doctor(State(control): State<Control>) -> Result<Json<List<Finding>>, ApiError> {
    let value = ask::<Vec<Finding>>(&control, "doctor", &["doctor"]).await?;
    Ok(Json(List { value, next: None }))
}

/// The OpenCL devices that a compute of `type: fpga` over this machine chooses among, with their leases.
#[utoipa::path(get, path = "/workspaces/{workspace}/computes/{name}/devices", params(AtName),
    responses((status = 200, body = List<OpenClDevice>), Refusals))]
async fn devices(
    State(control): State<Control>,
    At(at): At<AtName>,
) -> Result<Json<List<OpenClDevice>>, ApiError> {
    let record = control.store.record(&at.workspace, RecordKind::Compute, at.name.as_str()).await?;
    let below = record.body["compute"].as_str().map(|name| name.strip_prefix("azureml:").unwrap_or(name));
    let unsupported = |why: String| ApiError::new(ErrorClass::Unsupported, why);
    if record.body["type"] != "fpga" {
        return Err(unsupported(format!("compute `{}` is not of `type: fpga`", at.name)));
    }
    if let Some(below) = below.filter(|below| !below.eq_ignore_ascii_case("local")) {
        return Err(unsupported(format!(
            "the devices of compute `{}` are those of compute `{below}`",
            at.name
        ))
        .hint("`moorline device list` on that machine shows them"));
    }
    let listed = ask::<Vec<Listed>>(&control, "devices", &["device", "list"]).await?;
    let shown = listed.into_iter().map(|device| OpenClDevice {
        platform: device.platform,
        name: device.name,
        index: device.index,
        class: device.class,
        driver: device.driver,
        memory: device.memory,
        holder: device.lease.holder,
        quarantine: device.lease.quarantine,
    });
    Ok(Json(List { value: shown.collect(), next: None }))
}

/// What this program says to these arguments, in JSON.
async fn ask<T: DeserializeOwned>(
    control: &Control,
    what: &'static str,
    arguments: &[&str],
) -> Result<T, ApiError> {
    let mut said = control.findings.0.lock().await;
    said.retain(|_, (since, _)| since.elapsed() < REMEMBERED);
    let value = if let Some((_, value)) = said.get(what) {
        Arc::clone(value)
    } else {
        let asked = tokio::time::timeout(PATIENCE, run(control, arguments)).await;
        let value = Arc::new(asked.unwrap_or_else(|_| Err(failure(what, "it took too long")))?);
        said.insert(what, (Instant::now(), Arc::clone(&value)));
        value
    };
    drop(said);
    T::deserialize(&*value).map_err(|error| failure(what, error))
}

async fn run(control: &Control, arguments: &[&str]) -> Result<Value, ApiError> {
    let what = arguments[0];
    let mut child = Command::new(&control.config.program)
        .args(arguments)
        .args(["--output", "json"])
        .env_clear()
        .envs(&control.config.environment)
        .env("MOORLINE_HOME", &control.config.home)
        .env("MOORLINE_SCORER", &control.config.scorer)
        .env_remove("MOORLINE_SERVER")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failure(what, error))?;
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MOST_BYTES).read_to_end(&mut text).await.map_err(|error| failure(what, error))?;
    }
    // It prints what it found even where that is not enough to deploy anything, which its exit code says.
    let status = child.wait().await.map_err(|error| failure(what, error))?;
    serde_json::from_slice(&text)
        .map_err(|_| failure(what, format!("`moorline {}` ended with {status}", arguments.join(" "))))
}

fn failure(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
    ApiError::new(ErrorClass::Unavailable, format!("could not look at this machine ({what})"))
        .hint("`moorline doctor` and `moorline device list` on the server's machine say more")
        .caused_by(error)
}
