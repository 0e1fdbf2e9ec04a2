//! What a script must be, and what its author is told when it is not.

use moorline_core::{ErrorClass, Script};
use moorline_script::{ScriptPool, StartError};

use crate::support::*;

fn reason(error: &StartError) -> &str {
    match error {
        StartError::Script { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_breaks_the_contract_is_named_with_its_file() {
    for (script, expected) in [
        ("def run(x): pass", "score.py does not define init()"),
        ("def init(): pass", "score.py does not define run()"),
        ("def init(): pass\ndef run(): pass", "needs to accept an argument for input data"),
        ("def init(): pass\ndef run(request_headers): pass", "an argument other than \"request_headers\""),
        (
            "def init(): pass\ndef run(x, /): pass",
            "cannot accept positional-only arguments, *args, or **kwargs",
        ),
        (
            "def init(): pass\ndef run(*x): pass",
            "cannot accept positional-only arguments, *args, or **kwargs",
        ),
        (
            "def init(): pass\ndef run(x, **y): pass",
            "cannot accept positional-only arguments, *args, or **kwargs",
        ),
    ] {
        let error = Code::new(script).refused().await;
        assert!(reason(&error).contains(expected) && reason(&error).contains("score.py"), "{error}");
    }
}

#[tokio::test]
async fn a_script_that_is_not_there_is_named() {
    let code = Code::new("");
    let mut config = code.config();
    config.entry_script = Some("nowhere.py".to_owned());
    let error = ScriptPool::start(config).await.unwrap_err();
    assert!(reason(&error).contains("nowhere.py does not exist"), "{error}");
}

#[tokio::test]
async fn the_crash_log_of_init_and_the_model_folder_are_in_the_error() {
    let code = Code::new("def helper(): return {}['gone']\ndef init(): helper()\ndef run(x): pass")
        .file("model/deep/model.pkl", "");
    let mut config = code.config();
    config.model_dir = Some(code.folder.path().join("model"));
    let text = ScriptPool::start(config).await.unwrap_err().to_string();
    for part in ["Traceback", "in helper", "KeyError: 'gone'", "deep/model.pkl"] {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
    assert!(!text.contains("moorline_worker"), "our own frames are in:\n{text}");
}

#[tokio::test]
async fn imports_exits_and_crashes_while_starting_are_told() {
    for (script, expected) in [
        ("import nothere", "No module named 'nothere'"),
        ("def init(: pass", "SyntaxError"),
        ("import sys\ndef init(): sys.exit('no licence')\ndef run(x): pass", "no licence"),
        ("import os\nprint('about to go')\nos._exit(7)", "about to go"),
        ("import os\nos._exit(7)", "it exited with code 7"),
        (
            "import os, signal\nos.write(2, b'bad pointer')\nos.kill(os.getpid(), signal.SIGKILL)",
            "bad pointer",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "segmentation fault"),
    ] {
        let error = Code::new(script).refused().await;
        assert!(error.to_string().contains(expected), "{script}: {error}");
    }
}

#[tokio::test]
async fn a_slow_init_is_given_up() {
    let code = Code::new(
        "import time\ndef init():\n print('loading', flush=True)\n time.sleep(600)\ndef run(x): pass",
    );
    let mut config = code.config();
    config.start_timeout = std::time::Duration::from_secs(1);
    let error = ScriptPool::start(config).await.unwrap_err();
    assert!(
        error.to_string().contains("not ready after 1 s") && error.to_string().contains("loading"),
        "{error}"
    );
}

#[tokio::test]
async fn no_interpreter_is_an_error_that_names_it() {
    let code = Code::new("");
    let mut config = code.config();
    let no_program = code.folder.path().join("python");
    fs_err::write(&no_program, "not a program").unwrap();
    for python in ["/nowhere/python".into(), no_program, "/".into()] {
        config.python.clone_from(&python);
        let error = ScriptPool::start(config.clone()).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StartError::Interpreter { .. }) && text.contains("--python"), "{error:?}");
        assert!(text.contains(&format!("`{}`", python.display())), "{text}");
        assert_ne!(error.class(), ErrorClass::Script);
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_not_blamed_on_python() {
    let code = Code::new("");
    let mut config = code.config();
    config.app_root = code.folder.path().join("gone");
    let error = ScriptPool::start(config).await.unwrap_err();
    assert!(matches!(&error, StartError::NoFolder { folder } if folder.ends_with("gone")), "{error:?}");
    assert!(!error.to_string().to_lowercase().contains("python"), "{error}");
}

#[tokio::test]
async fn a_pool_that_says_it_is_ready_takes_a_request_at_once() {
    for _ in 0..20 {
        let code = Code::new("def init(): pass\ndef run(x): return x");
        let pool = code.start().await;
        assert!(pool.ready());
        assert_eq!(ask(&pool, post("x")).await, (200, "\"x\"".to_owned()));
    }
}

#[tokio::test]
async fn imports_work_beside_the_script_and_from_the_source_folder() {
    let code = Code::new("")
        .file(
            "source/deep/entry.py",
            "import beside, below, above\ndef init(): pass\ndef run(x): return [beside.X, below.X, above.X]",
        )
        .file("source/deep/beside.py", "X = 1")
        .file("source/below.py", "X = 2")
        .file("above.py", "X = 3");
    let mut config = code.config();
    config.source_dir = Some("source".into());
    config.entry_script = Some("deep/entry.py".to_owned());
    let pool = start(config).await;
    assert_eq!(ask(&pool, post("")).await.1, "[1, 2, 3]");
}

#[tokio::test]
async fn without_an_entry_script_it_is_main_and_a_driver_module_may_run() {
    let code = Code::new("")
        .file("main.py", "import driver as driver_module\ndef init(): driver_module.ready = 'yes'\ndef run(x): return 'main'")
        .file("driver.py", "ready = 'no'\ndef run(x): return ['driver', ready]");
    let mut config = code.config();
    config.entry_script = None;
    let pool = start(config).await;
    assert_eq!(ask(&pool, post("")).await.1, r#"["driver", "yes"]"#);
}

#[tokio::test]
async fn the_environment_is_the_releases() {
    let code = Code::new(
        "import os\ndef init(): pass\ndef run(x): return [os.environ[k] for k in ('AZUREML_MODEL_DIR', 'MINE')] + [os.getcwd() == os.path.realpath(os.environ['AML_APP_ROOT'])]",
    );
    let mut config = code.config();
    config.model_dir = Some("/models".into());
    config.env.insert("MINE".to_owned(), "1".to_owned());
    let pool = start(config).await;
    assert_eq!(ask(&pool, post("")).await.1, r#"["/models", "1", true]"#);
}
