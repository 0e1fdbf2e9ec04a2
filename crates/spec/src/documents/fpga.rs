//! What a compute of `type: fpga` says beyond what every compute says: the bitstream, and which devices may run it.

use std::collections::BTreeMap;

use moorline_core::Name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::container::public_keys;
use crate::{fields::Fields, reader::Reader, reference::Reference, scalars, yaml::Node};

/// Devices, and the compute that they are on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FpgaDevices {
    /// The compute below: `azureml:NAME` of type local, container or kubernetes. This machine, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<String>,
    /// The registered bitstream: `azureml:NAME:VERSION`, or without a version the newest. A deployment can name another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitstream: Option<String>,
    /// Public keys (PEM), one of which has to have signed the bitstream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_keys: Vec<String>,
    /// Any device where it is left out.
    #[serde(skip_serializing_if = "FpgaDevice::is_any")]
    pub device: FpgaDevice,
    /// The least share of a model's operations that must run on the device, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_coverage: Option<f64>,
    /// The contract of the results: `f32-fma-v1`, `i8-rne-v1` or `bfp9-v1`. A deployment can name another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numerics: Option<String>,
    /// The least share of answers in which a quantized model agrees with the one that it was made of, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_agreement: Option<f64>,
    /// Whether an emulated device may build the kernels from the bitstream's source.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rebuild: bool,
    /// Whether there is a device to spare: an update takes that one, and the former revision serves until it is ready.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rolling_updates: bool,
    /// An image with the OpenCL loader and the device's driver, on which those of deployments are built that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Paths below `/dev` that containers are given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<String>,
    /// Numbers of the groups that may open them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_groups: Vec<u32>,
    /// What a cluster's pods ask for: the names of extended resources, and how many of each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extended_resources: BTreeMap<String, u32>,
}

/// Which devices may be taken. What is left out is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FpgaDevice {
    /// A part of the platform's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// A part of the device's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// `hardware` or `emulation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// More devices than one machine has.
const MOST_DEVICES: u32 = 1024;
/// The contracts of results that kernels keep.
pub(super) const NUMERICS: [&str; 3] = ["f32-fma-v1", "i8-rne-v1", "bfp9-v1"];

impl FpgaDevice {
    fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

impl FpgaDevices {
    /// Of a compute's settings, which were checked when its document was read.
    pub(super) fn of(settings: &Map<String, Value>) -> Self {
        serde_json::from_value(Value::Object(settings.clone())).unwrap_or_default()
    }

    pub(super) fn read(reader: &mut Reader, fields: &mut Fields<'_>) -> Map<String, Value> {
        let numerics = NUMERICS.map(|name| (name, name));
        let read = Self {
            compute: fields.optional(reader, "compute", compute),
            bitstream: fields.optional(reader, "bitstream", reference),
            trusted_keys: fields.optional(reader, "trusted_keys", public_keys).unwrap_or_default(),
            device: fields.optional(reader, "device", device).unwrap_or_default(),
            min_coverage: fields.optional(reader, "min_coverage", scalars::fraction),
            numerics: fields.optional(reader, "numerics", scalars::choice(&numerics)).map(str::to_owned),
            min_agreement: fields.optional(reader, "min_agreement", scalars::fraction),
            rebuild: fields.optional(reader, "rebuild", scalars::boolean).unwrap_or_default(),
            rolling_updates: fields.optional(reader, "rolling_updates", scalars::boolean).unwrap_or_default(),
            image: fields.optional(reader, "image", scalars::filled),
            device_nodes: fields
                .optional(reader, "device_nodes", |reader, node| scalars::list(reader, node, device_node))
                .unwrap_or_default(),
            device_groups: fields
                .optional(reader, "device_groups", |reader, node| {
                    scalars::list(reader, node, scalars::between(0, u32::MAX))
                })
                .unwrap_or_default(),
            extended_resources: fields
                .optional(reader, "extended_resources", |reader, node| {
                    scalars::map(reader, node, scalars::between(1, MOST_DEVICES))
                })
                .unwrap_or_default(),
        };
        match serde_json::to_value(read) {
            Ok(Value::Object(settings)) => settings,
            _ => unreachable!("a struct is an object"),
        }
    }
}

/// The name of another compute, as endpoints write it: `azureml:docker`.
fn compute(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    let name = text.strip_prefix("azureml:").unwrap_or(&text);
    if name.parse::<Name>().is_ok() {
        return Some(name.to_owned());
    }
    reader.mismatch(node, "the name of a compute, such as `azureml:docker`");
    None
}

/// The path of a device: nothing else of the host comes into a container this way.
fn device_node(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    let sound =
        |rest: &str| rest.split('/').all(|part| !matches!(part, "" | "." | "..")) && !rest.contains(':');
    if text.strip_prefix("/dev/").is_some_and(sound) {
        return Some(text);
    }
    reader.mismatch(node, "the path of a device below `/dev`, such as `/dev/dri/renderD128`");
    None
}

/// A reference to a bitstream, as text: `azureml:convnet:3`.
fn reference(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    if text.parse::<Reference>().is_ok() {
        return Some(text);
    }
    reader.mismatch(node, "a registered bitstream, such as `azureml:convnet:3`");
    None
}

fn device(reader: &mut Reader, node: &Node) -> Option<FpgaDevice> {
    let mut fields = Fields::open(reader, node, "device")?;
    let classes = [("hardware", "hardware"), ("emulation", "emulation")];
    let read = FpgaDevice {
        platform: fields.optional(reader, "platform", part),
        name: fields.optional(reader, "name", part),
        index: fields.optional(reader, "index", scalars::between(0, MOST_DEVICES)),
        class: fields.optional(reader, "class", scalars::choice(&classes)).map(str::to_owned),
    };
    fields.close(reader);
    Some(read)
}

/// A part of a name, which goes into a list with commas.
fn part(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    if text.contains(',') {
        reader.mismatch(node, "a part of the name that has no comma");
        return None;
    }
    Some(text)
}
