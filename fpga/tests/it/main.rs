//! Bitstreams, workers and leases on the real PoCL. Where it is missing, every test says that it is skipped, and fails
//! where `CI=true`.

mod bad_images;
mod bench;
mod devices;
mod ends;
mod kernels;
mod leases;
mod programs;
