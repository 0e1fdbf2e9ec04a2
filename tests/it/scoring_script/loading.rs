//! How a script is found, imported and started, and what its failures say.

use moorline_tests::{Failure, ReleaseDir, Request, onnx};
use serde_json::json;

use super::{run_of, serve};

fn fail(source: &str) -> Failure {
    ReleaseDir::of_script(source).serve().fail()
}

#[test]
fn the_script_knows_its_folders() {
    let release = ReleaseDir::contents()
        .script(&run_of(
            "import os\nreturn {name: os.environ.get(name) for name in ('AML_APP_ROOT', 'AZUREML_MODEL_DIR', 'OWN')} \
             | {'model': os.listdir(os.environ['AZUREML_MODEL_DIR']), 'beside': os.path.dirname(__file__)}",
        ))
        .model("weights.bin", b"weights")
        .env("OWN", "of the release")
        .make();
    let (code, model) = (release.code(), release.model());
    let scorer = release.serve().start();
    let folder = |text: &serde_json::Value| fs_err::canonicalize(text.as_str().unwrap()).unwrap();
    let answer = scorer.call(&Request::post("/score", "x")).value();
    assert_eq!(folder(&answer["AML_APP_ROOT"]), fs_err::canonicalize(code).unwrap());
    assert_eq!(folder(&answer["AZUREML_MODEL_DIR"]), fs_err::canonicalize(model).unwrap());
    assert_eq!(answer["beside"], answer["AML_APP_ROOT"]);
    assert_eq!(answer["model"], json!(["weights.bin"]));
    assert_eq!(answer["OWN"], "of the release");
}

#[test]
fn a_model_folder_keeps_its_name_below_the_model_directory() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("my-model");
    fs_err::create_dir_all(model.join("deep")).unwrap();
    fs_err::write(model.join("deep/weights.txt"), "7").unwrap();
    let body = "import os\nreturn open(os.path.join(os.environ['AZUREML_MODEL_DIR'], 'my-model/deep/weights.txt')).read()";
    let scorer = ReleaseDir::contents().script(&run_of(body)).model_at(&model).make().serve().start();
    assert_eq!(scorer.call(&Request::post("/score", "x")).text(), "\"7\"");
}

#[test]
fn the_app_root_and_the_source_directory_are_on_the_path() {
    let scorer = ReleaseDir::contents()
        .script("import beside\nimport below\n\ndef init():\n    pass\n\ndef run(data):\n    return [beside.X, below.X]\n")
        .code("beside.py", b"X = 'beside'\n")
        .code("lib/below.py", b"X = 'below'\n")
        .env("AZUREML_SOURCE_DIRECTORY", "lib")
        .make()
        .serve()
        .start();
    let answer = scorer.call(&Request::post("/score", "x")).value();
    assert_eq!(answer, json!(["beside", "below"]));
}

#[test]
fn config_json_in_the_app_root_sets_what_variables_do_not() {
    let scorer = ReleaseDir::contents()
        .script(&run_of("return data"))
        .code("config.json", br#"{"SERVICE_NAME": "from the file", "SERVICE_VERSION": "from the file"}"#)
        .env("SERVICE_VERSION", "from the variable")
        .make()
        .serve()
        .start();
    let info = scorer.get("/swagger.json").value()["info"].clone();
    assert_eq!(info["title"], "from the file");
    assert_eq!(info["version"], "from the variable");
}

#[test]
fn init_runs_once_in_every_worker_before_the_first_request() {
    let source = "import os\nCOUNT = []\n\ndef init():\n    COUNT.append(os.getpid())\n\ndef run(data):\n    \
                  return COUNT == [os.getpid()]\n";
    let scorer = ReleaseDir::of_script(source).serve().args(["--worker-count", "2"]).start();
    for _ in 0..8 {
        assert_eq!(scorer.call(&Request::post("/score", "x")).text(), "true");
    }
}

#[test]
fn a_script_without_init_is_refused_by_name() {
    let failure = fail("def run(data):\n    return data\n");
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    assert!(failure.log.contains("score.py does not define init()"), "{}", failure.log);
}

#[test]
fn a_script_without_run_is_refused_by_name() {
    let failure = fail("def init():\n    pass\n");
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    assert!(failure.log.contains("score.py does not define run()"), "{}", failure.log);
}

#[test]
fn an_import_that_raises_ends_with_3_and_shows_the_traceback() {
    let failure =
        fail("import a_package_that_is_not_there\n\ndef init():\n    pass\n\ndef run(data):\n    pass\n");
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    assert!(failure.log.contains("No module named 'a_package_that_is_not_there'"), "{}", failure.log);
    assert!(failure.log.contains("Traceback"), "{}", failure.log);
}

#[test]
fn a_syntax_error_ends_with_3_and_shows_the_line() {
    let failure = fail("def init()\n    pass\n");
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    assert!(failure.log.contains("SyntaxError") && failure.log.contains("score.py"), "{}", failure.log);
}

#[test]
fn an_init_that_raises_ends_with_3_the_traceback_and_the_list_of_the_model_directory() {
    let failure = ReleaseDir::contents()
        .script("def init():\n    raise RuntimeError('the model is sour')\n\ndef run(data):\n    pass\n")
        .model("weights-of-mine.bin", b"weights")
        .make()
        .serve()
        .fail();
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    for part in ["RuntimeError: the model is sour", "Traceback", "score.py", "weights-of-mine.bin"] {
        assert!(failure.log.contains(part), "`{part}` is not in:\n{}", failure.log);
    }
}

#[test]
fn an_init_that_exits_ends_with_3() {
    let failure = fail("import sys\n\ndef init():\n    sys.exit(0)\n\ndef run(data):\n    pass\n");
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    assert!(failure.log.contains("SystemExit"), "{}", failure.log);
}

#[test]
fn an_init_that_kills_its_process_ends_with_3_and_says_how_it_died() {
    let failure = fail("import os\n\ndef init():\n    os._exit(7)\n\ndef run(data):\n    pass\n");
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    assert!(failure.log.contains("exit") && failure.log.contains('7'), "{}", failure.log);
}

#[test]
fn an_init_that_takes_longer_than_the_worker_timeout_is_refused() {
    let source = "import time\n\ndef init():\n    time.sleep(600)\n\ndef run(data):\n    pass\n";
    let failure = ReleaseDir::of_script(source).serve().args(["--worker-timeout", "1"]).fail();
    assert_ne!(failure.code, Some(0), "{}", failure.log);
    assert!(failure.log.contains("not ready after 1 s"), "{}", failure.log);
}

#[test]
fn run_may_not_take_variable_or_positional_only_arguments() {
    for parameters in ["*args", "**kwargs", "data, *, x=1, **more", "data, /"] {
        let failure = fail(&format!("def init():\n    pass\n\n\ndef run({parameters}):\n    return 1\n"));
        assert_eq!(failure.code, Some(3), "{parameters}: {}", failure.log);
        let said = "score.py cannot accept positional-only arguments, *args, or **kwargs";
        assert!(failure.log.contains(said), "{parameters}: {}", failure.log);
    }
}

#[test]
fn run_needs_an_input_parameter() {
    let failure = fail("def init():\n    pass\n\n\ndef run():\n    return 1\n");
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    assert!(failure.log.contains("score.py needs to accept an argument for input data"), "{}", failure.log);
}

#[test]
fn run_needs_an_input_parameter_besides_request_headers() {
    let failure = fail("def init():\n    pass\n\n\ndef run(request_headers):\n    return 1\n");
    assert_eq!(failure.code, Some(3), "{}", failure.log);
    let said = "score.py needs to accept an argument other than";
    assert!(failure.log.contains(said), "{}", failure.log);
}

#[test]
fn a_driver_module_redirects_run_but_not_init() {
    let scorer = serve(
        "import types\nSEEN = []\n\ndef init():\n    SEEN.append('init')\n\ndef run(data):\n    return 'the driver'\n\n\
         driver_module = types.ModuleType('m')\ndriver_module.__file__ = __file__\n\
         exec('def run(data):\\n    return [data, SEEN]', driver_module.__dict__)\n\
         driver_module.SEEN = SEEN\n",
    );
    let answer = scorer.call(&Request::post("/score", "x")).value();
    assert_eq!(answer, json!(["x", ["init"]]));
}

#[test]
fn a_script_can_load_an_onnx_model_that_lies_in_its_release() {
    let scorer = ReleaseDir::contents()
        .script(&run_of("import os\nreturn os.path.getsize(os.environ['AZUREML_MODEL_DIR'] + '/model.onnx')"))
        .model("model.onnx", &onnx::linear_model())
        .make()
        .serve()
        .start();
    let size = scorer.call(&Request::post("/score", "x")).value();
    assert_eq!(size, onnx::linear_model().len());
}
