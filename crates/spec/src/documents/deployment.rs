//! `onlineDeployment`, managed and kubernetes: a release with a scale, under an endpoint.

use std::collections::BTreeMap;

use moorline_core::{Name, Probe, RequestSettings, Resources, Scheduling};
use serde::Serialize;

use super::{
    DataCollector, Environment, Model, RuntimeSettings, Tags, azure, collector, environment, model, runtime,
};
use crate::{
    document::{Document, sealed::Read},
    fields::Fields,
    paths::{self, AssetWord},
    reader::Reader,
    reference::{AssetRef, CodeSource},
    scalars,
    yaml::{Content, Node},
};

/// Seconds for which fewer replicas must have been enough before some are taken away.
const DEFAULT_SCALE_DOWN_DELAY: u32 = 60;

/// A release with a scale, under an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnlineDeployment {
    pub name: Name,
    pub endpoint_name: Name,
    #[serde(rename = "type")]
    pub kind: DeploymentType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// `moorline.*` among them are read by [`OnlineDeployment::runtime`].
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub properties: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<AssetRef<Model>>,
    /// Of a custom container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_mount_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_configuration: Option<CodeConfiguration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<AssetRef<Environment>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment_variables: BTreeMap<String, String>,
    /// 1 where it is left out.
    pub instance_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_settings: Option<ScaleSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_settings: Option<RequestSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_collector: Option<DataCollector>,
}

/// Which of Azure ML's two kinds a document was written for; where it runs is its compute's matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentType {
    #[default]
    Managed,
    Kubernetes,
}

/// The scoring script and what lies beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CodeConfiguration {
    pub code: CodeSource,
    /// Relative to `code`, with `/` between parts.
    pub scoring_script: String,
}

/// How many replicas, in Azure ML's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ScaleSettings {
    /// `instance_count` replicas.
    Default,
    TargetUtilization {
        /// Seconds; 1.
        polling_interval: u32,
        /// 70.
        target_utilization_percentage: u32,
        /// 1; 0 scales to zero.
        min_instances: u32,
        /// 1.
        max_instances: u32,
    },
}

/// How much of a machine a replica asks for and may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResourceRequirements {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceSettings>,
}

/// Kubernetes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResourceSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

impl Document for OnlineDeployment {
    const KIND: &'static str = "online deployment";
}

impl OnlineDeployment {
    /// What the `moorline.*` properties say.
    pub fn runtime(&self) -> RuntimeSettings {
        RuntimeSettings::of(&self.properties)
    }

    /// What one replica may use: `resources.limits`.
    pub fn limits(&self) -> Resources {
        let limits = self.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let text = |part: fn(&ResourceSettings) -> &Option<String>| {
            limits.and_then(|limits| part(limits).as_deref())
        };
        super::compute::resources(text(|limits| &limits.cpu), text(|limits| &limits.memory))
    }

    /// `resources.requests`, and the devices of either.
    pub fn scheduling(&self) -> Scheduling {
        let Some(ResourceRequirements { requests, limits }) = &self.resources else {
            return Scheduling::default();
        };
        let settings = |settings: &Option<ResourceSettings>| settings.clone().unwrap_or_default();
        let (requests, limits) = (settings(requests), settings(limits));
        let devices = limits.gpu.or(requests.gpu).and_then(|count| count.parse().ok());
        let devices = devices.filter(|count| *count > 0).map(|count| (GPU.to_owned(), count));
        Scheduling {
            requests: super::compute::resources(requests.cpu.as_deref(), requests.memory.as_deref()),
            devices: devices.into_iter().collect(),
            ..Scheduling::default()
        }
    }

    /// How many replicas, and who decides.
    pub fn scale(&self) -> moorline_core::Scale {
        match self.scale_settings {
            None | Some(ScaleSettings::Default) => {
                moorline_core::Scale::Fixed { instances: self.instance_count }
            }
            Some(ScaleSettings::TargetUtilization {
                polling_interval,
                target_utilization_percentage,
                min_instances,
                max_instances,
            }) => moorline_core::Scale::TargetUtilization {
                min_instances,
                max_instances,
                target_utilization_percentage,
                polling_interval,
                scale_down_delay: self.runtime().scale_down_delay.unwrap_or(DEFAULT_SCALE_DOWN_DELAY),
            },
        }
    }
}

/// What Azure ML means by `gpu`.
const GPU: &str = "nvidia.com/gpu";

const MODEL: AssetWord = AssetWord { one: "model", many: "models" };
const ENVIRONMENT: AssetWord = AssetWord { one: "environment", many: "environments" };

impl Read for OnlineDeployment {
    fn read(reader: &mut Reader, node: &Node) -> Option<Self> {
        let mut fields = Fields::open(reader, node, Self::KIND)?;
        fields.read_only(&["$schema", "id", "provisioning_state", "creation_context"]);
        fields.read_only(&["compute_name", "replicas", "error", "generation"]);
        let name = fields.required(reader, "name", scalars::deployment_name);
        let endpoint_name = fields.required(reader, "endpoint_name", scalars::endpoint_name);
        let types = [("managed", DeploymentType::Managed), ("kubernetes", DeploymentType::Kubernetes)];
        let kind = fields.optional(reader, "type", scalars::choice(&types)).unwrap_or_default();
        let description = fields.optional(reader, "description", scalars::text);
        let tags = fields.optional(reader, "tags", scalars::tags);
        let properties = fields.optional(reader, "properties", |reader, node| {
            runtime::check(reader, node);
            scalars::tags(reader, node)
        });
        let model = fields
            .optional(reader, "model", |reader, node| paths::asset_ref(reader, node, MODEL, model::inline));
        let model_mount_path = fields.optional(reader, "model_mount_path", scalars::filled);
        let code_configuration = fields.optional(reader, "code_configuration", code_configuration);
        let environment = fields.optional(reader, "environment", |reader, node| {
            paths::asset_ref(reader, node, ENVIRONMENT, environment::inline)
        });
        let environment_variables = fields.optional(reader, "environment_variables", variables);
        let instance_count = fields.optional(reader, "instance_count", scalars::between(0, MAX_INSTANCES));
        let instance_type = fields.optional(reader, "instance_type", scalars::filled);
        let scale_settings = fields.optional(reader, "scale_settings", scale_settings);
        let request_settings = fields.optional(reader, "request_settings", request_settings);
        let liveness_probe = fields.optional(reader, "liveness_probe", probe);
        let readiness_probe = fields.optional(reader, "readiness_probe", probe);
        let data_collector = fields.optional(reader, "data_collector", collector::read);
        fields.azure_only(
            reader,
            "app_insights_enabled",
            "metrics, logs and traces are there without it",
            scalars::boolean,
        );
        let mut resources = None;
        match kind {
            DeploymentType::Managed => {
                let access = "a deployment reaches what its machine reaches";
                fields.azure_only(reader, "egress_public_network_access", access, azure::access);
                fields.azure_only(reader, "private_network_connection", access, scalars::boolean);
            }
            DeploymentType::Kubernetes => {
                resources = fields.optional(reader, "resources", resource_requirements);
            }
        }
        fields.close_with(reader, |key| belongs_elsewhere(key, kind));
        Some(Self {
            name: name?,
            endpoint_name: endpoint_name?,
            kind,
            description,
            tags: tags.unwrap_or_default(),
            properties: properties.unwrap_or_default(),
            model,
            model_mount_path,
            code_configuration,
            environment,
            environment_variables: environment_variables.unwrap_or_default(),
            instance_count: instance_count.unwrap_or(1),
            instance_type,
            scale_settings,
            request_settings,
            liveness_probe,
            readiness_probe,
            resources,
            data_collector,
        })
    }
}

/// More replicas than this are a slip of the finger.
const MAX_INSTANCES: u32 = 10_000;

/// For keys that are none of a deployment, but nearly.
fn belongs_elsewhere(key: &str, kind: DeploymentType) -> Option<String> {
    let inside = |key: &str| Some(format!("it belongs inside of `{key}`"));
    match key {
        "resources" if kind == DeploymentType::Managed => Some(
            "it belongs to deployments of `type: kubernetes`; here `instance_type` says the size".to_owned(),
        ),
        "egress_public_network_access" | "private_network_connection" => {
            Some("it belongs to deployments of `type: managed`".to_owned())
        }
        "request_timeout_ms" | "max_concurrent_requests_per_instance" | "max_queue_wait_ms" => {
            inside("request_settings")
        }
        "scoring_script" | "code" => inside("code_configuration"),
        "min_instances" | "max_instances" | "target_utilization_percentage" | "polling_interval" => {
            inside("scale_settings")
        }
        "image" | "conda_file" | "build" | "inference_config" => inside("environment"),
        "traffic" | "mirror_traffic" | "auth_mode" | "compute" => {
            Some("it belongs to the endpoint".to_owned())
        }
        _ => None,
    }
}

fn code_configuration(reader: &mut Reader, node: &Node) -> Option<CodeConfiguration> {
    let mut fields = Fields::open(reader, node, "code configuration")?;
    let code = fields.required(reader, "code", paths::code);
    let script = fields.required(reader, "scoring_script", paths::inner_path);
    let place = fields.peek("scoring_script").map_or(fields.place(), |entry| entry.value.place);
    fields.close(reader);
    let (code, scoring_script) = (code?, script?);
    if let CodeSource::Local(folder) = &code
        && !folder.resolve().join(&scoring_script).is_file()
    {
        let message = format!("`{}` holds no `{scoring_script}`", folder.resolve().display());
        reader.at_key("scoring_script", |reader| reader.error(place, message));
        return None;
    }
    Some(CodeConfiguration { code, scoring_script })
}

/// Variables of a process: names without `=`, and nothing with a zero byte.
fn variables(reader: &mut Reader, node: &Node) -> Option<BTreeMap<String, String>> {
    let variables = scalars::tags(reader, node)?;
    let Content::Map(entries) = &node.content else { return None };
    for entry in entries {
        let value = variables.get(&entry.key).map_or("", String::as_str);
        if entry.key.is_empty() || entry.key.contains(['=', '\0']) || value.contains('\0') {
            let message = format!("`{}` cannot be a variable of a process", crate::yaml::shown(&entry.key));
            reader.at_key(&entry.key, |reader| reader.error(entry.place, message));
            return None;
        }
    }
    Some(variables)
}

fn scale_settings(reader: &mut Reader, node: &Node) -> Option<ScaleSettings> {
    let mut fields = Fields::open(reader, node, "scale settings")?;
    let types = [("default", false), ("target_utilization", true)];
    let by_utilization = fields.required(reader, "type", scalars::choice(&types));
    if by_utilization == Some(false) {
        fields.close_with(reader, |_| Some("it needs `type: target_utilization`".to_owned()));
        return Some(ScaleSettings::Default);
    }
    let count = scalars::between(0, MAX_INSTANCES);
    let polling_interval =
        fields.optional(reader, "polling_interval", scalars::between(1, 86_400)).unwrap_or(1);
    let target_utilization_percentage =
        fields.optional(reader, "target_utilization_percentage", scalars::between(1, 100)).unwrap_or(70);
    let min_instances = fields.optional(reader, "min_instances", &count).unwrap_or(1);
    let max_instances =
        fields.optional(reader, "max_instances", scalars::between(1, MAX_INSTANCES)).unwrap_or(1);
    let place =
        fields.peek("min_instances").or_else(|| fields.peek("max_instances")).map(|entry| entry.place);
    fields.close(reader);
    by_utilization?;
    if let Some(place) = place
        && min_instances > max_instances
    {
        let message = format!("`min_instances` ({min_instances}) exceeds `max_instances` ({max_instances})");
        reader.error(place, message);
        return None;
    }
    Some(ScaleSettings::TargetUtilization {
        polling_interval,
        target_utilization_percentage,
        min_instances,
        max_instances,
    })
}

fn request_settings(reader: &mut Reader, node: &Node) -> Option<RequestSettings> {
    let mut fields = Fields::open(reader, node, "request settings")?;
    let time = scalars::between(1, u32::MAX);
    let request_timeout_ms = fields.optional(reader, "request_timeout_ms", &time).map(u64::from);
    let max_concurrent_requests_per_instance =
        fields.optional(reader, "max_concurrent_requests_per_instance", scalars::positive);
    let max_queue_wait_ms =
        fields.optional(reader, "max_queue_wait_ms", scalars::between(0, u32::MAX)).map(u64::from);
    fields.close(reader);
    Some(RequestSettings { request_timeout_ms, max_concurrent_requests_per_instance, max_queue_wait_ms })
}

fn probe(reader: &mut Reader, node: &Node) -> Option<Probe> {
    let mut fields = Fields::open(reader, node, "probe")?;
    let defaults = Probe::default();
    let time = scalars::between(1, 86_400);
    let count = scalars::between(1, 10_000);
    let initial_delay = fields.optional(reader, "initial_delay", scalars::between(0, 86_400));
    let period = fields.optional(reader, "period", &time);
    let timeout = fields.optional(reader, "timeout", &time);
    let success_threshold = fields.optional(reader, "success_threshold", &count);
    let failure_threshold = fields.optional(reader, "failure_threshold", &count);
    fields.close(reader);
    Some(Probe {
        initial_delay: initial_delay.unwrap_or(defaults.initial_delay),
        period: period.unwrap_or(defaults.period),
        timeout: timeout.unwrap_or(defaults.timeout),
        success_threshold: success_threshold.unwrap_or(defaults.success_threshold),
        failure_threshold: failure_threshold.unwrap_or(defaults.failure_threshold),
    })
}

fn resource_requirements(reader: &mut Reader, node: &Node) -> Option<ResourceRequirements> {
    let mut fields = Fields::open(reader, node, "resources")?;
    let requests = fields.optional(reader, "requests", resource_settings);
    let limits = fields.optional(reader, "limits", resource_settings);
    fields.close(reader);
    Some(ResourceRequirements { requests, limits })
}

fn resource_settings(reader: &mut Reader, node: &Node) -> Option<ResourceSettings> {
    let mut fields = Fields::open(reader, node, "resource settings")?;
    let cpu = fields.optional(reader, "cpu", scalars::cores);
    let memory = fields.optional(reader, "memory", scalars::memory);
    let gpu = match fields.peek("nvidia.com/gpu") {
        Some(_) => fields.optional(reader, "nvidia.com/gpu", scalars::whole),
        None => fields.optional(reader, "gpu", scalars::whole),
    };
    fields.close(reader);
    Some(ResourceSettings { cpu, memory, gpu })
}
