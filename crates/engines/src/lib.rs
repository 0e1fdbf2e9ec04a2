//! ONNX on the CPU: the engines `ort` and `tract` behind the [`moorline_core::Engine`] ladder.
