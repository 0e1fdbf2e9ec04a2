//! One request to an endpoint: its body, its answer, and what Azure's codes say about one that failed.

use std::{io::Read, path::Path, time::Duration};

use anyhow::{Context, bail};
use moorline_core::Name;
use reqwest::{RequestBuilder, StatusCode, header::CONTENT_TYPE};

use crate::{client::Client, exit::Explained};

/// Beyond the longest `request_timeout_ms` there is.
const PATIENCE: Duration = Duration::from_mins(5);
/// Of a request that is sent and of an answer that is shown.
const MAX_BYTES: u64 = 1 << 30;
/// What the gateway says of a model's own error.
const MODEL_STATUS: &str = "ms-azureml-model-error-statuscode";
const REQUEST_ID: &str = "x-request-id";
const DEPLOYMENT: &str = "azureml-model-deployment";

/// The body of the request; `az` sends an empty object where no file is named.
pub(super) fn body(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match file {
        None => return Ok(b"{}".to_vec()),
        Some(path) if path.as_os_str() == "-" => {
            std::io::stdin().lock().take(MAX_BYTES).read_to_end(&mut bytes)?;
        }
        Some(path) => {
            fs_err::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
        }
    }
    if bytes.len() as u64 == MAX_BYTES {
        bail!("the request is larger than 1 GiB");
    }
    Ok(bytes)
}

/// The body of the answer, or why there is none.
pub(super) async fn send(
    client: &Client,
    request: RequestBuilder,
    body: Vec<u8>,
    endpoint: &Name,
) -> anyhow::Result<String> {
    let request = request.timeout(PATIENCE).header(CONTENT_TYPE, "application/json").body(body);
    let response = client.send_raw(request).await?;
    let status = response.status();
    let header = |name: &str| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
    };
    let (of_model, id, deployment) = (header(MODEL_STATUS), header(REQUEST_ID), header(DEPLOYMENT));
    let text = response.text().await.context("the answer broke off")?;
    if status.is_success() {
        return Ok(text);
    }
    let reason = match (status.as_u16(), of_model) {
        (424, Some(code)) => format!("the model answered {code}"),
        _ => format!("the endpoint answered {status}"),
    };
    let mut explained = Explained::new(reason);
    if !text.trim().is_empty() {
        explained = explained.detail(text.trim_end());
    }
    if let Some(id) = &id {
        explained = explained.detail(format!("request id: {id}"));
    }
    if let Some(hint) = hint(status, endpoint, id.as_deref().zip(deployment.as_deref())) {
        explained = explained.hint(hint);
    }
    Err(explained.into())
}

/// `found` are the request's id and the deployment that had it, where there is one.
fn hint(status: StatusCode, endpoint: &Name, found: Option<(&str, &str)>) -> Option<String> {
    Some(match status.as_u16() {
        404 => format!("`moorline online-deployment list -e {endpoint}` shows what there is to ask"),
        408 => {
            "request_settings.request_timeout_ms of the deployment is the time that a request has".to_owned()
        }
        424 | 500 | 502 => match found {
            Some((id, deployment)) => format!(
                "`moorline online-deployment get-logs -e {endpoint} -n {deployment} --request-id {id}` shows what its log says"
            ),
            None => {
                format!("`moorline online-deployment get-logs -e {endpoint} -n DEPLOYMENT` shows its log")
            }
        },
        429 => {
            "the deployment has more requests than it takes at one time; more instances take more".to_owned()
        }
        503 => format!(
            "no instance can take it; `moorline online-endpoint show -n {endpoint}` shows the traffic, and \
             `moorline online-deployment list -e {endpoint}` the deployments"
        ),
        _ => return None,
    })
}
