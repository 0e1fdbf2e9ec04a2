//! `compute`: a place where deployments run.

use std::collections::BTreeMap;

use moorline_core::{Name, Resources, Scheduling, TargetKind, Toleration};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Tags, azure,
    container::ContainerHost,
    edge::EdgeDevices,
    fpga::FpgaDevices,
    kubernetes::{self, KubernetesCluster},
};
use crate::{
    document::{Document, sealed::Read},
    fields::Fields,
    quantity::{parse_bytes, parse_millis},
    reader::{Finding, Reader},
    scalars,
    yaml::Node,
};

/// A place where deployments run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compute {
    pub name: Name,
    #[serde(rename = "type")]
    pub kind: TargetKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// What an `instance_type` means here; one that is not listed means no limit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub instance_types: BTreeMap<String, InstanceType>,
    /// What only this kind of compute knows (`namespace`, `context`, …), read by its target.
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

/// A size: what one replica may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InstanceType {
    /// A quantity: `2`, `500m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// A quantity: `4Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// What it is guaranteed; as much as it may use, where it is left out. This and what follows is for places of many
    /// machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// Devices and how many: `nvidia.com/gpu: 1`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, u32>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub node_selector: Tags,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// What a replica is guaranteed, as quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

impl InstanceType {
    pub fn resources(&self) -> Resources {
        resources(self.cpu.as_deref(), self.memory.as_deref())
    }

    pub fn scheduling(&self) -> Scheduling {
        let requests = self.requests.as_ref();
        Scheduling {
            requests: requests
                .map(|requests| resources(requests.cpu.as_deref(), requests.memory.as_deref()))
                .unwrap_or_default(),
            devices: self.devices.clone(),
            node_selector: self.node_selector.clone(),
            tolerations: self.tolerations.clone(),
        }
    }
}

/// Of quantities that were checked when they were read.
pub(super) fn resources(cpu: Option<&str>, memory: Option<&str>) -> Resources {
    Resources {
        cpu_millis: cpu.and_then(|text| parse_millis(text).ok()),
        memory_bytes: memory.and_then(|text| parse_bytes(text).ok()),
    }
}

impl Compute {
    /// The settings of a compute of `type: container`.
    pub fn container(&self) -> ContainerHost {
        ContainerHost::of(&self.settings)
    }

    /// The settings of a compute of `type: edge`.
    pub fn edge(&self) -> EdgeDevices {
        EdgeDevices::of(&self.settings)
    }

    /// The settings of a compute of `type: fpga`.
    pub fn fpga(&self) -> FpgaDevices {
        FpgaDevices::of(&self.settings)
    }

    /// The settings of a compute of `type: kubernetes`.
    pub fn kubernetes(&self) -> KubernetesCluster {
        KubernetesCluster::of(&self.settings)
    }
}

impl Document for Compute {
    const KIND: &'static str = "compute";
}

/// More devices of one kind are a slip of the finger.
const MAX_DEVICES: u32 = 1024;

/// Computes that only Azure can make.
const AZURE_TYPES: [&str; 5] = ["amlcompute", "computeinstance", "virtualmachine", "synapsespark", "adla"];

impl Read for Compute {
    fn read(reader: &mut Reader, node: &Node) -> Option<Self> {
        let mut fields = Fields::open(reader, node, Self::KIND)?;
        fields.read_only(&[
            "$schema",
            "id",
            "provisioning_errors",
            "provisioning_state",
            "created_on",
            "creation_context",
        ]);
        let name = fields.required(reader, "name", scalars::name);
        let kind = fields.required(reader, "type", kind);
        let description = fields.optional(reader, "description", scalars::text);
        let tags = fields.optional(reader, "tags", scalars::tags);
        let instance_types = fields
            .optional(reader, "instance_types", |reader, node| scalars::map(reader, node, instance_type));
        fields.azure_only(reader, "location", "a compute is where its machines are", scalars::text);
        fields.azure_only(reader, "identity", "there are no managed identities", azure::identity);
        fields.azure_only(reader, "resource_id", "it names a thing in Azure", scalars::text);
        let settings = match kind {
            // What else there is to say of this machine has flags of its own.
            None | Some(TargetKind::Local) => Map::new(),
            Some(TargetKind::Kubernetes) => KubernetesCluster::read(reader, &mut fields),
            Some(TargetKind::Container) => ContainerHost::read(reader, &mut fields),
            Some(TargetKind::Fpga) => FpgaDevices::read(reader, &mut fields),
            Some(TargetKind::Edge) => EdgeDevices::read(reader, &mut fields),
        };
        // Which keys there are is not known before the kind is; one that was meant to be `type` is.
        if kind.is_some() || fields.peek("type").is_none() {
            fields.close(reader);
        }
        Some(Self {
            name: name?,
            kind: kind?,
            description,
            tags: tags.unwrap_or_default(),
            instance_types: instance_types.unwrap_or_default(),
            settings,
        })
    }
}

fn kind(reader: &mut Reader, node: &Node) -> Option<TargetKind> {
    if let Some(text) = node.written()
        && AZURE_TYPES.contains(&text.to_lowercase().as_str())
    {
        let message = format!("`type` is `{text}`, which only Azure can make");
        reader.report(Finding::error(node.place, message).expected("a place of your own, such as `local`"));
        return None;
    }
    let kinds = [
        TargetKind::Local,
        TargetKind::Container,
        TargetKind::Kubernetes,
        TargetKind::Fpga,
        TargetKind::Edge,
    ];
    scalars::choice(&kinds.map(|kind| (kind.as_str(), kind)))(reader, node)
}

fn instance_type(reader: &mut Reader, node: &Node) -> Option<InstanceType> {
    let mut fields = Fields::open(reader, node, "instance type")?;
    let cpu = fields.optional(reader, "cpu", scalars::cores);
    let memory = fields.optional(reader, "memory", scalars::memory);
    let requests = fields.optional(reader, "requests", requests);
    let devices = fields.optional(reader, "devices", |reader, node| {
        scalars::map(reader, node, scalars::between(1, MAX_DEVICES))
    });
    let node_selector = fields.optional(reader, "node_selector", scalars::tags);
    let tolerations = fields
        .optional(reader, "tolerations", |reader, node| scalars::list(reader, node, kubernetes::toleration));
    fields.close(reader);
    Some(InstanceType {
        cpu,
        memory,
        requests,
        devices: devices.unwrap_or_default(),
        node_selector: node_selector.unwrap_or_default(),
        tolerations: tolerations.unwrap_or_default(),
    })
}

fn requests(reader: &mut Reader, node: &Node) -> Option<Requests> {
    let mut fields = Fields::open(reader, node, "requests")?;
    let cpu = fields.optional(reader, "cpu", scalars::cores);
    let memory = fields.optional(reader, "memory", scalars::memory);
    fields.close(reader);
    Some(Requests { cpu, memory })
}
