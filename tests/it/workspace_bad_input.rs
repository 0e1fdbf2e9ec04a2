//! What a workspace makes of input that it should refuse: a clear word, and nothing half made.

use std::{os::unix::fs::symlink, os::unix::net::UnixListener, thread};

use moorline_tests::{Request, Workspace, documents::endpoint, onnx};
use serde_json::json;

/// Nothing was created by what was refused.
fn nothing_is_there(workspace: &Workspace) {
    for what in ["online-endpoint", "model", "environment"] {
        let listed = workspace.json(&[what, "list"]);
        assert!(listed.as_array().is_some_and(Vec::is_empty), "{what}: {listed}");
    }
}

#[test]
fn documents_that_are_wrong_are_refused_with_their_place() {
    let workspace = Workspace::up();
    let bomb = (0..12).fold("a0: &a0 [x, x]\n".to_owned(), |text, level| {
        let next = level + 1;
        text + &format!("a{next}: &a{next} [*a{level}, *a{level}, *a{level}, *a{level}, *a{level}]\n")
    });
    let large = format!("name: large\ndescription: {}\n", "x".repeat(11 << 20));
    for (content, words) in [
        (bomb, vec![]),
        (large, vec!["MiB"]),
        ("name: one\nname: two\n".to_owned(), vec![":2:1", "name"]),
        ("name: tabs\n\tauth_mode: key\n".to_owned(), vec![":2:"]),
        ("name: fine\nauth_mod: key\n".to_owned(), vec![":2:1", "auth_mod", "auth_mode"]),
        ("name: fine\nauth_mode: keys\n".to_owned(), vec![":2:12", "keys"]),
        ("name: ../escape\n".to_owned(), vec![":1:7", "../escape"]),
        ("name: a/b\n".to_owned(), vec![":1:7"]),
        ("name: größe\n".to_owned(), vec![":1:7"]),
        (format!("name: {}\n", "n".repeat(300)), vec![":1:7"]),
        ("- a\n- list\n".to_owned(), vec![":1:1"]),
        (String::new(), vec![]),
        ("name: [unclosed\n".to_owned(), vec![]),
    ] {
        workspace.write("endpoint.yml", &content);
        let refused = workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]);
        let shown: String = content.chars().take(80).collect();
        assert_eq!(refused.code, Some(1), "{shown}: {}", refused.stderr);
        assert!(refused.stderr.contains("endpoint.yml"), "{shown}: {}", refused.stderr);
        for word in words {
            assert!(refused.stderr.contains(word), "{shown}: no `{word}` in {}", refused.stderr);
        }
        assert!(refused.stderr.len() < 10_000, "{shown}: {} bytes", refused.stderr.len());
    }
    workspace.write("endpoint.yml", b"\xef\xbb\xbfname: with-a-mark\n");
    workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
    workspace.moorline(&["online-endpoint", "delete", "-n", "with-a-mark", "-y"]).ok();
    nothing_is_there(&workspace);
}

#[test]
fn paths_that_are_wrong_are_refused() {
    let workspace = Workspace::up();
    let model = |path: &str| {
        let said = workspace.moorline(&["model", "create", "-n", "m", "-v", "1", "-p", path]);
        assert_eq!(said.code, Some(1), "{path}: {}", said.stderr);
        said.stderr
    };
    assert!(model("nowhere/model.onnx").contains("nowhere/model.onnx"));
    workspace.write("linked/inside", "");
    symlink("/etc/hostname", workspace.work().join("linked/outside")).unwrap();
    assert!(model("linked").contains("link"));
    workspace.write("socketed/inside", "");
    let _socket = UnixListener::bind(workspace.work().join("socketed/socket")).unwrap();
    assert!(model("socketed").contains("socket"));
    nothing_is_there(&workspace);
}

#[test]
fn names_in_requests_are_checked() {
    let workspace = Workspace::up();
    let long = "n".repeat(300);
    for name in ["..", "%2e%2e", "a%2Fb", "gr%C3%B6%C3%9Fe", long.as_str(), "a%00b"] {
        let target = format!("/api/v1/workspaces/default/online-endpoints/{name}");
        let mut request = Request::json(&target, &json!({"name": "fine"}));
        request.method = "PUT".into();
        let reply = workspace.call(&request);
        assert!((400..500).contains(&reply.status), "{name}: {} {}", reply.status, reply.text());
    }
    for body in ["{", "[]", "null", "\"text\"", r#"{"name": 1}"#, r#"{"nam": "x"}"#] {
        let target = "/api/v1/workspaces/default/online-endpoints/fine";
        let mut request = Request::post(target, body).header("content-type", "application/json");
        request.method = "PUT".into();
        let reply = workspace.call(&request);
        assert!((400..500).contains(&reply.status), "{body}: {} {}", reply.status, reply.text());
        assert!(reply.header("content-type").is_some_and(|kind| kind.contains("problem+json")), "{body}");
    }
    nothing_is_there(&workspace);
}

/// Without authentication, a page of the Web must not reach the API through the browser of whoever runs it.
#[test]
fn a_foreign_page_cannot_use_the_api() {
    let workspace = Workspace::up();
    let target = "/api/v1/workspaces";
    assert_eq!(workspace.call(&Request::get(target)).status, 200);
    let rebound = Request::get(target).header("host", "evil.example:80");
    assert_eq!(workspace.call(&rebound).status, 403);
    let foreign = Request::json(target, &json!({"name": "taken"})).header("origin", "https://evil.example");
    assert_eq!(workspace.call(&foreign).status, 403);
}

#[test]
fn of_two_who_create_the_same_endpoint_one_succeeds() {
    let workspace = Workspace::up();
    workspace.write("endpoint.yml", endpoint("contested"));
    let said: Vec<_> = thread::scope(|scope| {
        let create = || workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]);
        let both = [scope.spawn(create), scope.spawn(create)];
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut codes: Vec<_> = said.iter().map(|said| said.code).collect();
    codes.sort_unstable();
    // `az` updates an endpoint that exists; whoever loses the race is told so, or finds it there.
    assert!(codes == [Some(0), Some(1)] || codes == [Some(0), Some(0)], "{said:?}");
    let listed = workspace.json(&["online-endpoint", "list"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
}

/// A quota stands in for a full disk: the file system says the same.
#[test]
fn a_full_disk_refuses_an_upload_and_loses_nothing() {
    let mut workspace = Workspace::down();
    let folder = workspace.home();
    fs_err::create_dir_all(&folder).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(&folder)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        return moorline_tests::skip("no small file system can be mounted here; it takes root");
    }
    // Goes before the folder that it is in.
    let _unmount = Unmount(folder);
    full_disk(&mut workspace);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        // Lazily: what still has a file open lets go of it at its end.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn full_disk(workspace: &mut Workspace) {
    workspace.start();
    workspace.write("small.onnx", onnx::linear_model());
    workspace.write("large/weights.bin", vec![7; 32 << 20]);
    workspace.moorline(&["model", "create", "-n", "small", "-p", "small.onnx"]).ok();
    let refused = workspace.moorline(&["model", "create", "-n", "large", "-p", "large"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let text = refused.stderr.to_lowercase();
    assert!(text.contains("space") || text.contains("disk") || text.contains("full"), "{}", refused.stderr);
    let models = workspace.json(&["model", "list"]);
    assert_eq!(models.as_array().map(Vec::len), Some(1), "{models}");
    workspace.write("other.onnx", onnx::probability_model());
    workspace.moorline(&["model", "create", "-n", "other", "-p", "other.onnx"]).ok();
    assert_eq!(workspace.stop(), Some(0));
}
