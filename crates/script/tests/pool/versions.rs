//! Every Python that the worker promises to run on.

use std::env::{split_paths, var_os};

use moorline_core::Script;

use crate::support::*;

const SCRIPT: &str = r#"
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse
import logging, time
def init(): print("ready")
@rawhttp
def run(request):
    logging.warning("asked %s", request.path)
    if request.args.get("sleep"): time.sleep(60)
    return AMLResponse(request.get_json(), 200, {"x": "1,2"}, json_str=True)
"#;

#[tokio::test]
async fn all_pythons_serve() {
    let Some(pythons) = var_os("MOORLINE_TEST_PYTHONS") else {
        eprintln!("SKIPPED: MOORLINE_TEST_PYTHONS (a `:` list of interpreters) is not set");
        return;
    };
    for python in split_paths(&pythons) {
        let code = Code::new(SCRIPT);
        let mut config = code.config();
        config.python.clone_from(&python);
        config.scoring_timeout = std::time::Duration::from_secs(1);
        let raw = start(config).await;
        println!("{}", raw.info().python);
        assert_eq!(
            ask(&raw, post("[1, {\"a\": null}]")).await.1,
            "[1, {\"a\": null}]",
            "{}",
            python.display()
        );
        raw.score(get("/score?sleep=1")).await.unwrap_err();
        let code = Code::new("def init(): pass\ndef run(data): return data");
        let mut config = code.config();
        config.python.clone_from(&python);
        let plain = start(config).await;
        assert_eq!(ask(&plain, post("x")).await.1, "\"x\"", "{}", python.display());
        assert_eq!(raw.restarts(), 0, "{}", python.display());
    }
}
