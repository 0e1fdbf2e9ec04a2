//! Why operations that a plan gave to the device cannot be lowered.

use thiserror::Error;

/// An island that cannot be lowered.
#[derive(Debug, Error)]
pub enum LowerError {
    #[error("a feature map of {shape:?} is larger than kernels can count: take a smaller batch")]
    TooLarge { shape: [usize; 4] },
    #[error(
        "the bitstream `{bitstream}` has no kernel `{kernel}`, which its operators need: build it again with `cargo xtask fpga build`"
    )]
    Kernel { bitstream: String, kernel: String },
    #[error(
        "the bitstream `{bitstream}` works on {vec} channels at once, and {expected} are wanted: build it again with `cargo xtask fpga build`"
    )]
    Architecture { bitstream: String, vec: u32, expected: usize },
    #[error(
        "`{tensor}` holds codes that are read with two different zeros: quantise the model again with one for each tensor"
    )]
    Zeros { tensor: String },
    #[error(
        "node `{node}` has weights of {found} numbers, and {expected} are wanted: check the model with `onnx.checker`"
    )]
    Weights { node: String, found: usize, expected: usize },
}
