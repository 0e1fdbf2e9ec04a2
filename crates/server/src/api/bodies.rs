//! What documents look like on the wire, for the OpenAPI document. `moorline_spec` reads and writes them; these types
//! only describe them, and a test holds the two against each other.

#![expect(dead_code, reason = "the generator of the OpenAPI document alone reads them")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::status::ProvisioningState;

type Tags = BTreeMap<String, String>;

/// One file, uploaded as a blob before.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FileBody {
    /// Relative to the folder, with `/` between parts.
    #[schema(example = "model.onnx")]
    path: String,
    #[schema(minimum = 0)]
    size: u64,
    #[schema(
        example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        pattern = "^sha256:[0-9a-f]{64}$"
    )]
    sha256: String,
}

/// What can be changed about a version.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Described {
    description: Option<String>,
    tags: Option<Tags>,
    properties: Option<Tags>,
    stage: Option<String>,
}

/// Azure ML's `model`, with the uploaded files in place of `path`.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelBody {
    /// `custom_model` where it is left out.
    #[schema(rename = "type")]
    r#type: Option<ModelKind>,
    description: Option<String>,
    tags: Option<Tags>,
    properties: Option<Tags>,
    stage: Option<String>,
    #[schema(value_type = Option<Object>)]
    flavors: Option<BTreeMap<String, Value>>,
    #[schema(min_items = 1)]
    files: Vec<FileBody>,
}

#[derive(Serialize, ToSchema)]
enum ModelKind {
    #[serde(rename = "custom_model")]
    Custom,
    #[serde(rename = "mlflow_model")]
    Mlflow,
    #[serde(rename = "triton_model")]
    Triton,
}

/// Azure ML's `environment`, with the conda file's text in `conda_file` and an uploaded build context.
#[derive(Serialize, ToSchema)]
pub(crate) struct EnvironmentBody {
    description: Option<String>,
    tags: Option<Tags>,
    image: Option<String>,
    /// The conda file: its text, or the object that it holds.
    #[schema(value_type = Option<Object>)]
    conda_file: Option<Value>,
    build: Option<BuildBody>,
    #[schema(value_type = Option<Object>)]
    inference_config: Option<Value>,
    os_type: Option<String>,
    /// Of the build context.
    files: Option<Vec<FileBody>>,
}

#[derive(Serialize, ToSchema)]
struct BuildBody {
    /// The digest of the list of files.
    #[schema(pattern = "^sha256:[0-9a-f]{64}$")]
    context: String,
    /// `Dockerfile` where it is left out.
    dockerfile_path: Option<String>,
}

/// A bitstream, with the uploaded file in place of `path`.
#[derive(Serialize, ToSchema)]
pub(crate) struct BitstreamBody {
    description: Option<String>,
    tags: Option<Tags>,
    properties: Option<Tags>,
    #[schema(min_items = 1, max_items = 1)]
    files: Vec<FileBody>,
}

/// The files of a code folder.
#[derive(Serialize, ToSchema)]
pub(crate) struct CodeBody {
    description: Option<String>,
    tags: Option<Tags>,
    properties: Option<Tags>,
    #[schema(min_items = 1)]
    files: Vec<FileBody>,
}

/// What every registered version has.
#[derive(Serialize, ToSchema)]
struct VersionFacts {
    #[schema(example = "azureml:iris:1")]
    id: String,
    name: String,
    version: String,
    /// What makes it the same as another one.
    digest: String,
    is_anonymous: bool,
    archived: bool,
    creation_context: CreationContext,
    /// Not there in lists.
    files: Option<Vec<FileBody>>,
}

#[derive(Serialize, ToSchema)]
struct CreationContext {
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    last_modified_at: String,
}

/// A model's version.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelVersion {
    #[serde(flatten)]
    facts: VersionFacts,
    r#type: ModelKind,
    description: Option<String>,
    tags: Option<Tags>,
    properties: Option<Tags>,
    stage: Option<String>,
    #[schema(value_type = Option<Object>)]
    flavors: Option<BTreeMap<String, Value>>,
}

/// An environment's version.
#[derive(Serialize, ToSchema)]
pub(crate) struct EnvironmentVersion {
    #[serde(flatten)]
    facts: VersionFacts,
    description: Option<String>,
    tags: Option<Tags>,
    image: Option<String>,
    conda_file: Option<String>,
    build: Option<BuildBody>,
    #[schema(value_type = Option<Object>)]
    inference_config: Option<Value>,
    os_type: Option<String>,
}

/// A bitstream's version.
#[derive(Serialize, ToSchema)]
pub(crate) struct BitstreamVersion {
    #[serde(flatten)]
    facts: VersionFacts,
    description: Option<String>,
    tags: Option<Tags>,
    properties: Option<Tags>,
}

/// A version of code.
#[derive(Serialize, ToSchema)]
pub(crate) struct CodeVersion {
    #[serde(flatten)]
    facts: VersionFacts,
    description: Option<String>,
    tags: Option<Tags>,
    properties: Option<Tags>,
}

/// Azure ML's `workspace`.
#[derive(Serialize, ToSchema)]
pub(crate) struct WorkspaceBody {
    name: Option<String>,
    display_name: Option<String>,
    description: Option<String>,
    tags: Option<Tags>,
}

/// A workspace.
#[derive(Serialize, ToSchema)]
pub(crate) struct WorkspaceShown {
    name: String,
    display_name: Option<String>,
    description: Option<String>,
    tags: Option<Tags>,
    creation_context: CreationContext,
}

/// Azure ML's `compute`, with the settings of its type beside the keys that are listed here.
#[derive(Serialize, ToSchema)]
pub(crate) struct ComputeBody {
    name: Option<String>,
    r#type: ComputeKind,
    description: Option<String>,
    tags: Option<Tags>,
    /// What an `instance_type` means here.
    instance_types: Option<BTreeMap<String, InstanceTypeBody>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ComputeKind {
    Local,
    Container,
    Kubernetes,
    Fpga,
    Edge,
}

#[derive(Serialize, ToSchema)]
struct InstanceTypeBody {
    #[schema(example = "500m")]
    cpu: Option<String>,
    #[schema(example = "4Gi")]
    memory: Option<String>,
}

/// A compute.
#[derive(Serialize, ToSchema)]
pub(crate) struct ComputeShown {
    name: String,
    r#type: ComputeKind,
    description: Option<String>,
    tags: Option<Tags>,
    instance_types: Option<BTreeMap<String, InstanceTypeBody>>,
    provisioning_state: ProvisioningState,
}

/// Azure ML's `onlineEndpoint`, managed and kubernetes.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndpointBody {
    name: Option<String>,
    description: Option<String>,
    tags: Option<Tags>,
    properties: Option<Tags>,
    /// `key` where it is left out.
    auth_mode: Option<AuthModeBody>,
    /// Percentages by deployment, 100 at most in all.
    traffic: Option<BTreeMap<String, u8>>,
    /// One deployment, 50 at most.
    mirror_traffic: Option<BTreeMap<String, u8>>,
    /// Where its deployments run unless they say otherwise: `azureml:NAME`.
    compute: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AuthModeBody {
    Key,
    AmlToken,
    AadToken,
}

/// An endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndpointShown {
    name: String,
    /// `Managed`, or `K8S` where it has a compute.
    kind: String,
    description: Option<String>,
    tags: Tags,
    properties: Tags,
    auth_mode: AuthModeBody,
    traffic: BTreeMap<String, u8>,
    mirror_traffic: BTreeMap<String, u8>,
    compute: Option<String>,
    #[schema(example = "http://127.0.0.1:7440/endpoints/iris/score")]
    scoring_uri: String,
    openapi_uri: String,
    provisioning_state: ProvisioningState,
    generation: u64,
    creation_context: CreationContext,
    /// The newest rollout, if there ever was one.
    rollout: Option<RolloutShown>,
}

/// A rollout, under way or ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct RolloutShown {
    to: String,
    state: RolloutState,
    /// Why it did not come to its end.
    message: Option<String>,
    #[schema(example = "10:5m,50:5m,100")]
    steps: String,
    /// The one that it is at, or ended at, from 1.
    step: usize,
    #[schema(example = "1%")]
    max_error_rate: String,
    #[schema(example = "200ms")]
    max_p99: Option<String>,
    min_requests: u64,
    traffic_before: BTreeMap<String, u8>,
    /// The operation's id.
    operation: String,
}

#[derive(Serialize, ToSchema)]
enum RolloutState {
    Running,
    Promoted,
    RolledBack,
    Aborted,
}

/// Azure ML's `onlineDeployment`, managed and kubernetes; `model`, `environment` and the code are references. What is
/// not listed here is as in Azure ML.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeploymentBody {
    name: Option<String>,
    endpoint_name: Option<String>,
    /// `managed` where it is left out, or `kubernetes`.
    r#type: Option<String>,
    description: Option<String>,
    tags: Option<Tags>,
    /// `moorline.*` among them are settings.
    properties: Option<Tags>,
    #[schema(example = "azureml:iris:1")]
    model: Option<String>,
    code_configuration: Option<CodeConfigurationBody>,
    #[schema(example = "azureml:iris-env@latest")]
    environment: Option<String>,
    environment_variables: Option<BTreeMap<String, String>>,
    instance_count: Option<u32>,
    instance_type: Option<String>,
    #[schema(value_type = Option<Object>)]
    scale_settings: Option<Value>,
    #[schema(value_type = Option<Object>)]
    request_settings: Option<Value>,
    #[schema(value_type = Option<Object>)]
    liveness_probe: Option<Value>,
    #[schema(value_type = Option<Object>)]
    readiness_probe: Option<Value>,
    #[schema(value_type = Option<Object>)]
    resources: Option<Value>,
    #[schema(value_type = Option<Object>)]
    data_collector: Option<Value>,
}

#[derive(Serialize, ToSchema)]
struct CodeConfigurationBody {
    #[schema(example = "azureml:iris-code:1")]
    code: String,
    scoring_script: String,
}

/// A deployment: its document with references pinned to versions, and what is true of it now.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeploymentShown {
    #[serde(flatten)]
    document: DeploymentBody,
    provisioning_state: ProvisioningState,
    /// The compute that it runs on.
    compute_name: String,
    /// Not there in lists.
    replicas: Option<Vec<ReplicaShown>>,
    /// Why the newest change of it failed.
    error: Option<FailureShown>,
    generation: u64,
    creation_context: CreationContext,
}

#[derive(Serialize, ToSchema)]
struct ReplicaShown {
    id: String,
    #[schema(example = "ready")]
    state: String,
    restarts: u32,
    /// Of the newest revision, and not of one that is being replaced.
    current: bool,
}

#[derive(Serialize, ToSchema)]
struct FailureShown {
    message: String,
    /// The last lines, oldest first.
    log: Vec<String>,
}
