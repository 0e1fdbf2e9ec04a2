//! Models planned, lowered and run on the real PoCL, against ONNX Runtime on the CPU. What is missing is said and skipped,
//! and fails where `CI=true`.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod bfp;
#[cfg(test)]
mod codes;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod formula;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod node_cases;
#[cfg(test)]
mod onnx;
#[cfg(test)]
mod profile;
#[cfg(test)]
mod quantized;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod zoo;
