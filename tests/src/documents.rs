//! Documents for tests: the least that describes an endpoint and a deployment.

/// An endpoint.
pub fn endpoint(name: &str) -> String {
    format!("name: {name}\nauth_mode: key\n")
}

/// A deployment of an ONNX file, without a script.
pub fn onnx_deployment(name: &str, endpoint: &str, model: &str) -> String {
    format!("name: {name}\nendpoint_name: {endpoint}\nmodel:\n  path: {model}\ninstance_count: 1\n")
}

/// A deployment of `FOLDER/score.py`, without packages.
pub fn script_deployment(name: &str, endpoint: &str, folder: &str) -> String {
    format!(
        "name: {name}\nendpoint_name: {endpoint}\ncode_configuration:\n  code: {folder}\n  \
         scoring_script: score.py\nenvironment:\n  image: python:3.11\ninstance_count: 1\n"
    )
}
