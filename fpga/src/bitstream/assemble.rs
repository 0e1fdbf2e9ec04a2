//! A bitstream from its parts: what its author says of the kernels, what a compiler made of them, and the tests that a
//! device must pass.

use std::collections::BTreeMap;

use jiff::Timestamp;
use moorline_core::Digest;
use serde::{Deserialize, Serialize};

use super::{
    Architecture, BitstreamError, DeviceClass, File, Golden, Image, ImageTarget, KERNEL_ABI, Kernel,
    Manifest, Op, SCHEMA, Unverified,
};
use crate::{device::Device, program::Program};

/// What the author of kernels says of them: a file of `bitstreams/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub id: String,
    pub version: String,
    pub arch: Architecture,
    pub numerics: Vec<String>,
    pub ops: Vec<Op>,
}

/// A program, what goes in, and what must come out to the last bit.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenCase {
    /// What it proves: it names files, too.
    pub name: String,
    pub program: Program,
    pub constants: Vec<u8>,
    /// The inputs, one behind the other.
    pub inputs: Vec<u8>,
    pub outputs: Vec<Vec<u8>>,
}

/// A binary and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    pub binary: Vec<u8>,
    pub class: DeviceClass,
    pub target: ImageTarget,
    pub env: BTreeMap<String, String>,
}

impl Compiled {
    /// A binary for exactly this device under exactly its driver.
    pub fn for_device(device: &Device, binary: Vec<u8>) -> Self {
        let target = ImageTarget::Device {
            platform: device.platform.clone(),
            driver: device.driver.clone(),
            device: device.name.clone(),
        };
        Self { binary, class: device.class, target, env: BTreeMap::new() }
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Parts {
    pub recipe: Recipe,
    pub kernels: Vec<Kernel>,
    pub images: Vec<Compiled>,
    pub golden: Vec<GoldenCase>,
    /// The kernels' text, where emulation may be built from it.
    pub source: Option<String>,
    pub expires: Option<Timestamp>,
}

impl Parts {
    /// The manifest and the files that it names, for [`pack`](super::pack).
    pub fn assemble(self) -> Result<(Manifest, BTreeMap<String, Vec<u8>>), BitstreamError> {
        let (manifest, files) = self.lay_out()?;
        manifest.check()?;
        Ok((manifest, files))
    }

    /// The same for what is not complete yet.
    pub(crate) fn lay_out(self) -> Result<(Manifest, BTreeMap<String, Vec<u8>>), BitstreamError> {
        let mut files = BTreeMap::new();
        let mut add = |name: String, content: Vec<u8>| {
            let file = File::of(&name, &content);
            files.insert(name, content);
            file
        };
        let mut images = Vec::new();
        for (index, image) in self.images.into_iter().enumerate() {
            let binary = add(format!("img/{index}.bin"), image.binary);
            images.push(Image { binary, class: image.class, target: image.target, env: image.env });
        }
        let mut golden = Vec::new();
        for case in self.golden {
            let program =
                serde_json::to_vec(&case.program).map_err(|source| BitstreamError::Manifest { source })?;
            let folder = format!("golden/{}", case.name);
            golden.push(Golden {
                program: add(format!("{folder}/program.json"), program),
                constants: add(format!("{folder}/constants"), case.constants),
                inputs: add(format!("{folder}/inputs"), case.inputs),
                outputs: case.outputs.iter().map(|output| Digest::of(output)).collect(),
                name: case.name,
            });
        }
        let source = self.source.map(|source| add("source.cl".to_owned(), source.into_bytes()));
        let Recipe { id, version, arch, numerics, ops } = self.recipe;
        let manifest = Manifest {
            schema: SCHEMA,
            id,
            version,
            arch_fingerprint: arch.fingerprint(KERNEL_ABI),
            arch,
            abi: KERNEL_ABI,
            numerics,
            ops,
            kernels: self.kernels,
            images,
            golden,
            source,
            expires: self.expires,
        };
        Ok((manifest, files))
    }
}

impl Unverified {
    /// The manifest and the files of this bitstream with one image more, for [`pack`](super::pack): the kernels, their
    /// operators and their golden tests are the same, since all images of a bitstream are made of one text. An image for
    /// the same target is replaced.
    pub fn with_image(
        &self,
        image: Compiled,
    ) -> Result<(Manifest, BTreeMap<String, Vec<u8>>), BitstreamError> {
        let mut manifest = self.manifest().clone();
        manifest.images.retain(|own| own.target != image.target);
        let mut files: BTreeMap<String, Vec<u8>> =
            manifest.files().map(|file| (file.file.clone(), self.content(file).to_vec())).collect();
        // One name more than there are files: one of them is free.
        let mut names = (0..=files.len()).map(|number| format!("img/{number}.bin"));
        let name = names.find(|name| !files.contains_key(name));
        let binary = File::of(&name.unwrap_or_default(), &image.binary);
        files.insert(binary.file.clone(), image.binary);
        manifest.images.push(Image { binary, class: image.class, target: image.target, env: image.env });
        manifest.check()?;
        Ok((manifest, files))
    }
}
