//! The portal in a real browser, on a real server: `portal/tests` clicks, and asks here for what is done to the server.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use moorline_tests::{Request, Workspace, documents, onnx, own_folder, skip};

fn portal() -> PathBuf {
    own_folder().parent().expect("this package has a workspace").join("portal")
}

/// Whether what a browser test needs is here; `SKIPPED` says what is not.
fn can_browse(workspace: &Workspace) -> bool {
    let lacks = |what: &str| {
        skip(&format!("{what}; `cargo xtask test` installs and builds it"));
        false
    };
    if !portal().join("node_modules/playwright-core").exists() {
        return lacks("the portal's npm packages are not installed");
    }
    if !Path::new("/usr/bin/chromium").exists() {
        return lacks("there is no Chromium");
    }
    let host = workspace.address().to_string();
    if workspace.call(&Request::get("/").header("host", &host)).status != 200 {
        return lacks("the portal was not built before the server");
    }
    true
}

/// Plays a story to its end. `act` is given what the story asks for.
fn play(story: &str, variables: &[(&str, String)], mut act: impl FnMut(&str)) {
    let mut node = Command::new("node")
        .arg(portal().join("tests").join(story))
        .current_dir(portal())
        .env("PORTAL_PICTURES", pictures())
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node can be started");
    let mut answers = node.stdin.take().expect("its input is a pipe");
    let said = BufReader::new(node.stdout.take().expect("its output is a pipe"));
    let mut whole = String::new();
    for line in said.lines() {
        let line = line.expect("a story writes text");
        if let Some(what) = line.strip_prefix("ASK ") {
            act(what);
            writeln!(answers, "done").expect("the story waits for an answer");
        }
        whole += &line;
        whole.push('\n');
    }
    let status = node.wait().expect("a child can be waited for");
    assert!(
        status.success() && whole.lines().any(|line| line == "DONE"),
        "{story} ended with {status}:\n{whole}"
    );
    println!("{whole}");
}

/// Where pictures of the pages are kept for whoever wants to look: beside the binaries.
fn pictures() -> PathBuf {
    let binaries = moorline_tests::binary("moorline");
    binaries.parent().expect("a binary lies in a folder").with_file_name("portal-pictures")
}

fn url(workspace: &Workspace) -> String {
    format!("http://127.0.0.1:{}", workspace.address().port())
}

#[test]
fn the_readmes_story_is_told_by_clicks() {
    let mut workspace = Workspace::up();
    if !can_browse(&workspace) {
        return;
    }
    workspace.write("model.onnx", onnx::linear_model());
    // A file's name is in the log of whatever cannot read it.
    let broken = "<img src=x onerror=window.hacked=1>.onnx";
    workspace.write(broken, b"no model");
    let file = |name: &str| workspace.work().join(name).display().to_string();
    let variables = [
        ("PORTAL_BASE", url(&workspace)),
        ("PORTAL_MODEL", file("model.onnx")),
        ("PORTAL_BROKEN", file(broken)),
    ];
    // The page goes on asking where the server was.
    let address = workspace.address().to_string();
    workspace.set_listen(&address);
    play("story.mjs", &variables, |what| match what.split_once(' ') {
        None if what == "stop" => {
            workspace.stop();
        }
        None if what == "start" => workspace.start(),
        Some(("endpoint", name)) => {
            workspace.moorline(&["online-endpoint", "create", "-n", name]).ok();
        }
        _ => panic!("the story asks for `{what}`"),
    });
}

#[test]
fn roles_are_offered_what_they_may_do() {
    let mut workspace = Workspace::up();
    if !can_browse(&workspace) {
        return;
    }
    workspace.write("endpoint.yml", documents::endpoint("iris"));
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    let token = |role: &str| {
        let made = workspace.json(&["token", "create", "--name", role, "--role", role]);
        made["token"].as_str().expect("a token is shown once").to_owned()
    };
    let (owner, reader) = (token("owner"), token("reader"));
    workspace.stop();
    workspace.set_listen("0.0.0.0:0");
    workspace.start();
    let variables = [("PORTAL_BASE", url(&workspace)), ("PORTAL_OWNER", owner), ("PORTAL_READER", reader)];
    play("roles.mjs", &variables, |what| panic!("the story asks for `{what}`"));
}
