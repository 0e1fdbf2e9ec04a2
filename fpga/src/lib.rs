//! ONNX models on OpenCL bitstreams: what runs on a device, and how.
//!
//! A **bitstream** is a signed file with kernels for devices; a **plan** says which parts of a model run through its
//! kernels and which on the CPU; a [`program::Program`] is what a device is given: buffers and launches. It is executed
//! in a process of its own, because drivers end the process that they do not get along with.

pub mod bitstream;
pub mod conv16;
pub mod device;
pub mod engine;
pub mod lease;
pub mod lower;
pub mod metrics;
pub mod onnx;
pub mod plan;
pub mod profile;
pub mod program;
pub mod quantize;
pub mod runtime;
pub mod target;
pub mod worker;
