//! What a manifest must keep to beyond its types, whoever signed it.

use std::collections::BTreeSet;

use super::{BitstreamError, File, Image, KERNEL_ABI, Manifest, SCHEMA};

/// The prefixes of variables that an image may ask for: those of OpenCL drivers. Anything else could make a process do
/// what its user did not ask for, as `LD_PRELOAD` would.
const VARIABLES: [&str; 6] = ["POCL_", "CL_CONFIG_", "CL_CONTEXT_", "ACL_", "AOCL_", "XCL_"];
/// The most arguments that a kernel may have.
const ARGUMENTS: usize = 64;
/// The most kernels, images or golden tests.
const ENTRIES: usize = 256;
/// The largest file, and the most of all together.
pub(super) const LARGEST: u64 = 1 << 30;
const NAMES: usize = 128;

impl Manifest {
    /// Whether it is one that this version can use, and does not contradict itself.
    pub fn check(&self) -> Result<(), BitstreamError> {
        if self.schema != SCHEMA {
            return Err(BitstreamError::Schema { expected: SCHEMA, found: self.schema });
        }
        if self.abi != KERNEL_ABI {
            return Err(BitstreamError::Abi { expected: KERNEL_ABI, found: self.abi });
        }
        self.contradictions().map_err(|reason| BitstreamError::Contradiction { reason })
    }

    fn contradictions(&self) -> Result<(), String> {
        let fail = |reason: String| Err(reason);
        if !is_name(&self.id, "") {
            return fail(format!("`{}` is no id: lower-case letters, digits, dots and dashes", self.id));
        }
        if !is_version(&self.version) {
            return fail(format!("`{}` is no version of three numbers", self.version));
        }
        let fingerprint = self.arch.fingerprint(self.abi);
        if self.arch_fingerprint != fingerprint {
            return fail(format!(
                "the fingerprint of its architecture is {fingerprint} and not {}",
                self.arch_fingerprint
            ));
        }
        for (what, count) in [
            ("ops", self.ops.len()),
            ("kernels", self.kernels.len()),
            ("images", self.images.len()),
            ("golden tests", self.golden.len()),
        ] {
            if count == 0 || count > ENTRIES {
                return fail(format!("it has {count} {what}; expected 1 to {ENTRIES}"));
            }
        }
        for op in &self.ops {
            if let Some(strange) = op.numerics.iter().find(|name| !self.numerics.contains(name)) {
                return fail(format!(
                    "op `{}` keeps the contract `{strange}`, which the bitstream lacks",
                    op.op
                ));
            }
        }
        let mut names = BTreeSet::new();
        for kernel in &self.kernels {
            if !is_identifier(&kernel.name) || !names.insert(&kernel.name) {
                return fail(format!("`{}` is no name of a kernel, or one of two", kernel.name));
            }
            if kernel.arguments.len() > ARGUMENTS {
                return fail(format!("kernel `{}` has more than {ARGUMENTS} arguments", kernel.name));
            }
        }
        for golden in &self.golden {
            if golden.outputs.is_empty() {
                return fail(format!("the golden test `{}` expects no output", golden.name));
            }
        }
        self.images.iter().try_for_each(check_environment)?;
        self.check_files()
    }

    fn check_files(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        let mut total = 0_u64;
        for File { file, size, .. } in self.files() {
            if !is_path(file) || !names.insert(file) {
                return Err(format!("`{file}` is no name of a file in a bitstream, or one of two"));
            }
            total = total.saturating_add(*size);
            if total > LARGEST {
                return Err(format!("its files have more than {LARGEST} bytes"));
            }
        }
        Ok(())
    }
}

fn check_environment(image: &Image) -> Result<(), String> {
    let strange = image.env.iter().find(|(name, value)| {
        !VARIABLES.iter().any(|prefix| name.starts_with(prefix))
            || !is_identifier(name)
            || value.contains('\0')
            || value.len() > 4096
    });
    match strange {
        Some((name, _)) => Err(format!("the image `{}` may not set `{name}`", image.binary.file)),
        None => Ok(()),
    }
}

fn is_name(text: &str, also: &str) -> bool {
    let allowed =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c) || also.contains(c);
    !text.is_empty() && text.len() <= NAMES && text.chars().all(allowed)
}

fn is_identifier(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty()
        && text.len() <= NAMES
        && text.chars().all(allowed)
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn is_version(text: &str) -> bool {
    let numbers: Vec<&str> = text.split('.').collect();
    let digits =
        |part: &&str| !part.is_empty() && part.len() <= 9 && part.chars().all(|c| c.is_ascii_digit());
    numbers.len() == 3 && numbers.iter().all(digits)
}

/// Folders and a name, none of which leads elsewhere.
fn is_path(text: &str) -> bool {
    let part = |part: &str| is_name(part, "_ABCDEFGHIJKLMNOPQRSTUVWXYZ") && !part.starts_with('.');
    text.len() <= NAMES
        && text != super::archive::MANIFEST
        && text != super::archive::SIGNATURE
        && text.split('/').all(part)
}
