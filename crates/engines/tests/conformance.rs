//! Both engines against the seam's contract and the ONNX contract of `moorline-testkit`.

use std::sync::Arc;

use moorline_core::{DataType, Engine};
use moorline_engines::TractEngine;
use moorline_testkit::{OnnxSupport, engine_conformance, onnx_conformance};

#[test]
fn tract_keeps_the_contract_of_the_seam() {
    engine_conformance(|| Arc::new(TractEngine::new()));
}

#[test]
fn tract_runs_onnx() {
    let support =
        OnnxSupport { data_types_missing: &[DataType::Bf16], sequences: false, optional_types: false };
    onnx_conformance(|| Arc::new(TractEngine::new()), support);
}

#[cfg(feature = "ort")]
mod ort {
    use std::{
        io::Write,
        path::{Path, PathBuf},
    };

    use moorline_engines::{OrtEngine, OrtSearch};
    use moorline_testkit::missing_engine_conformance;

    use super::*;

    /// Where `cargo xtask` puts the library, and what a developer sets by hand.
    fn search() -> OrtSearch {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        OrtSearch {
            dylib_path: std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from),
            binary_dir: Some(workspace.join("target/onnxruntime")),
            python: None,
        }
    }

    /// Whether there is a library. Without one there is nothing to test, and only the developer can tell whether that
    /// is meant: the message goes past the test harness, which would keep it to itself.
    fn usable() -> bool {
        match OrtEngine::new(search()).check() {
            Ok(()) => true,
            Err(error) => {
                let mut stderr = std::io::stderr();
                writeln!(stderr, "SKIPPED, nothing of engine `ort` was tested: {error}")
                    .expect("stderr is open");
                false
            }
        }
    }

    #[test]
    fn it_keeps_the_contract_of_the_seam() {
        if usable() {
            engine_conformance(|| Arc::new(OrtEngine::new(search())));
        }
    }

    #[test]
    fn it_runs_onnx() {
        if usable() {
            let support = OnnxSupport { data_types_missing: &[], sequences: true, optional_types: true };
            onnx_conformance(|| Arc::new(OrtEngine::new(search())), support);
        }
    }

    #[test]
    fn without_a_library_it_says_where_it_looked() {
        let nowhere = PathBuf::from("/nonexistent/libonnxruntime.so");
        let engine = OrtEngine::new(OrtSearch { dylib_path: Some(nowhere), ..OrtSearch::default() });
        missing_engine_conformance(&engine);
        assert_eq!(engine.library(), None);
        let text = engine.check().unwrap_err().to_string();
        assert!(text.contains("/nonexistent/libonnxruntime.so"), "{text}");
        assert!(text.contains("pip install onnxruntime"), "{text}");
    }
}
