//! Models planned, lowered and run on the real PoCL, against ONNX Runtime on the CPU. What is missing is said and skipped,
//! and fails where `CI=true`.

mod bench;
mod conformance;
mod layers;
mod node_cases;
mod onnx;
mod refusals;
mod zoo;
