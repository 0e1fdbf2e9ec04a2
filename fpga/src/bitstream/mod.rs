//! The artifact: a signed archive with kernels for one or more kinds of devices, and the choice of the one that fits a
//! device. Nothing here knows OpenCL.

mod archive;
mod assemble;
mod check;
mod choose;
mod error;
mod key;
mod manifest;
#[cfg(test)]
mod tests;

pub use archive::{Bitstream, Unverified, pack};
pub use assemble::{Compiled, GoldenCase, Parts, Recipe};
pub use error::BitstreamError;
pub use key::{PublicKey, SigningKey};
pub use manifest::{
    Architecture, ArgumentKind, DeviceClass, File, Golden, Image, ImageTarget, KERNEL_ABI, Kernel,
    KernelArgument, Limit, Manifest, Op, SCHEMA,
};
