//! What a bitstream says of itself: the first entry of the archive, and the one that is signed. Everything else in the
//! archive is named here with its digest.

use std::collections::BTreeMap;

use jiff::Timestamp;
use moorline_core::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The version of these types.
pub const SCHEMA: u32 = 1;
/// The version of what host and kernels agree on: names, arguments, layouts and the order of sums.
pub const KERNEL_ABI: u32 = 2;

/// A bitstream's description. Models are lowered for [`Manifest::fingerprint`], never for a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub schema: u32,
    /// Lower-case words joined by dots, as `org.moorline.conv16`.
    pub id: String,
    /// Three numbers joined by dots.
    pub version: String,
    pub arch: Architecture,
    /// [`Architecture::fingerprint`] of `arch` and `abi`.
    pub arch_fingerprint: String,
    /// The version of the agreement between host and kernels that they were written for.
    pub abi: u32,
    /// The contracts that its results keep, as `f32-fma-v1`.
    pub numerics: Vec<String>,
    /// The operators that it executes, and within which limits.
    pub ops: Vec<Op>,
    pub kernels: Vec<Kernel>,
    /// One binary for each kind of device.
    pub images: Vec<Image>,
    /// What each device must compute before it is trusted with requests.
    pub golden: Vec<Golden>,
    /// The text that the images were made of, where it is given away: emulation may be built from it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<File>,
    /// After this moment it is no longer taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// The parameters of the kernels' architecture. What is lowered for one architecture is wrong for any other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// For people, as `v16t14_f32_i8w8a32`.
    pub name: String,
    /// Channels in a vector: the innermost dimension of a feature map in device memory.
    pub vec: u32,
    /// Output columns that one work item of a convolution computes at a time.
    pub lane_tile: u32,
    /// The type of integer sums.
    pub acc: String,
    /// The types that activations may have.
    pub act: Vec<String>,
    /// Products of signed integers that are summed exactly before they are spilled; 0 where all are.
    pub k_block_i8: u32,
    /// The same where activations are unsigned.
    pub k_block_u8: u32,
}

impl Architecture {
    /// Hexadecimal SHA-256 of the parameters in their canonical form (JSON in the order of the fields, without
    /// spaces) and of the kernels' ABI.
    pub fn fingerprint(&self, abi: u32) -> String {
        let mut hasher = Sha256::new();
        // Strings, numbers and lists of strings: serialising them cannot fail.
        hasher.update(serde_json::to_vec(self).unwrap_or_default());
        hasher.update(format!("\nabi {abi}\n"));
        Digest::new(hasher.finalize().into()).hex()
    }
}

/// An operator that the kernels execute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// Its name in ONNX.
    pub op: String,
    /// The contracts under which it is executed; each is one of [`Manifest::numerics`].
    pub numerics: Vec<String>,
    /// Bounds on what the plan measures of a node, by name; what is not named is not bounded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Limit>,
}

/// What a number of a node may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<i64>>,
}

impl Limit {
    pub fn admits(&self, value: i64) -> bool {
        self.at_least.is_none_or(|least| value >= least)
            && self.at_most.is_none_or(|most| value <= most)
            && self.one_of.as_ref().is_none_or(|values| values.contains(&value))
    }
}

/// A kernel as the host calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    pub name: String,
    /// By position.
    pub arguments: Vec<KernelArgument>,
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelArgument {
    pub name: String,
    /// The type in OpenCL C, as `float16*` or `int`.
    #[serde(rename = "type")]
    pub type_name: String,
    pub kind: ArgumentKind,
}

/// What the host gives for an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArgumentKind {
    /// A piece of device memory.
    Buffer,
    I32,
    F32,
}

/// A file of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name in the archive.
    pub file: String,
    pub sha256: Digest,
    pub size: u64,
}

/// A binary for one kind of device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    pub binary: File,
    pub class: DeviceClass,
    pub target: ImageTarget,
    /// Variables that the driver must find in its environment to take the binary as it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Whether kernels run on hardware made for them. What is measured on emulation is never called acceleration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceClass {
    Hardware,
    Emulation,
}

impl DeviceClass {
    /// As in labels and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Emulation => "emulation",
        }
    }
}

/// What a binary was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ImageTarget {
    /// Exactly this device under exactly this driver.
    Device { platform: String, driver: String, device: String },
    /// A board by the name under which its driver offers it. The driver itself compares the interface of the board's
    /// shell and refuses what does not fit; it is told here for the message.
    Board { platform: String, board: String, interface_uuid: String },
}

/// A program, what goes in, and what must come out to the last bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// What it proves, for messages.
    pub name: String,
    /// [`Program`](crate::program::Program) as JSON.
    pub program: File,
    /// The program's constants.
    pub constants: File,
    /// The inputs of the program, one behind the other, in its order.
    pub inputs: File,
    /// The digests of its outputs, in its order.
    pub outputs: Vec<Digest>,
}

impl Manifest {
    /// What models are lowered for.
    pub fn fingerprint(&self) -> &str {
        &self.arch_fingerprint
    }

    /// The operator of that name under a contract.
    pub fn op(&self, name: &str, numerics: &str) -> Option<&Op> {
        self.ops.iter().find(|op| op.op == name && op.numerics.iter().any(|n| n == numerics))
    }

    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// Every file of the archive besides the manifest and its signature, in the order of the archive.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        let images = self.images.iter().map(|image| &image.binary);
        let golden =
            self.golden.iter().flat_map(|golden| [&golden.program, &golden.constants, &golden.inputs]);
        images.chain(golden).chain(&self.source)
    }
}
