//! Ours beside a real `azmlinfsrv`: the same script, the same requests, the same answers. The scripts and requests
//! are data, one folder each under `scenarios/differential`; what is known to differ is told there, with the reason.

use std::fmt::Write as _;

use moorline_tests::{Oracle, ReleaseDir, Reply, Request, Venv, own_folder, skip, venv};
use serde_json::Value;

/// Headers of the transport, or that differ by design: the connection stays open, the body's length follows its
/// spelling, and the version is ours.
const NOT_COMPARED: [&str; 7] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "server",
    "transfer-encoding",
    "x-ms-server-version",
];

/// Headers that ours may send where azmlinfsrv sends none: its router refuses a path or a method before ids are looked
/// at, while every answer of ours can be found in the log by its id; and RFC 9110 wants `Allow` with a 405.
const MAY_BE_ADDED: [&str; 4] = ["allow", "traceid", "x-ms-request-id", "x-request-id"];

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test] fn $name() { compare(stringify!($name)); })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

scenarios! {
    cors driver_module flask_response keyword_only own_swagger plain rawhttp rawhttp_new_import request_headers
    responses schema_numpy schema_pandas schema_standard slow
}

#[test]
fn every_scenario_has_a_test() {
    for entry in fs_err::read_dir(own_folder().join("scenarios/differential")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.contains('.') || NAMES.contains(&name.as_str()), "`{name}` is not in the list above");
    }
}

fn compare(name: &str) {
    let Some(venv) = venv("oracle") else { return };
    let folder = own_folder().join("scenarios/differential").join(name);
    let text = fs_err::read_to_string(folder.join("scenario.json")).unwrap();
    let scenario: Value = serde_json::from_str(&text).unwrap();
    if !has_imports(&venv, &scenario["imports"]) {
        return;
    }
    let variables: Vec<(String, String)> = scenario["variables"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();

    let mut contents = ReleaseDir::contents();
    for entry in fs_err::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        let content = fs_err::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        contents = match name {
            "score.py" => contents.script(std::str::from_utf8(&content).unwrap()),
            "scenario.json" => contents,
            other => contents.code(other, &content),
        };
    }
    for (name, value) in &variables {
        contents = contents.env(name, value);
    }
    let release = contents.make();
    let code = release.code();
    let mut command = release.serve().env("MOORLINE_PYTHON", venv.python());
    for (name, value) in &variables {
        command = command.env(name, value);
    }
    let ours = command.start();
    let oracle = Oracle::start(&venv, &code, &variables);

    let mut differences = String::new();
    for case in scenario["requests"].as_array().unwrap() {
        let request = request_of(case);
        let (their, our) = (oracle.call(&request), ours.call(&request));
        let ignored: Vec<&str> =
            case["differs"].as_object().into_iter().flatten().map(|(what, _why)| what.as_str()).collect();
        let (their, our) = if request.target.starts_with("/swagger.json") {
            (without_descriptions(their), without_descriptions(our))
        } else {
            (their, our)
        };
        for difference in differences_between(&their, &our, &ignored) {
            writeln!(differences, "{name}/{}: {difference}", case["name"].as_str().unwrap()).unwrap();
        }
    }
    assert!(differences.is_empty(), "answers differ from azmlinfsrv's:\n{differences}");
}

/// Whether the environment has the packages that the script imports; says so where it does not.
fn has_imports(venv: &Venv, imports: &Value) -> bool {
    for package in imports.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let mut python = std::process::Command::new(venv.python());
        if !python.args(["-c", &format!("import {package}")]).output().unwrap().status.success() {
            skip(&format!("the oracle's environment has no package `{package}`"));
            return false;
        }
    }
    true
}

fn request_of(case: &Value) -> Request {
    let text = |name: &str| case[name].as_str();
    let mut request = Request::new(text("method").unwrap(), text("target").unwrap());
    for header in case["headers"].as_array().into_iter().flatten() {
        request = request.header(header[0].as_str().unwrap(), header[1].as_str().unwrap());
    }
    request.body = match (text("text"), text("hex")) {
        (Some(body), _) => body.repeat(case["times"].as_u64().unwrap_or(1) as usize).into_bytes(),
        (None, Some(hex)) => {
            let digits: Vec<char> = hex.chars().collect();
            let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
            digits.chunks(2).map(byte).collect()
        }
        (None, None) => Vec::new(),
    };
    request
}

/// Swagger's prose is each server's own; everything that a generator of clients reads is compared.
fn without_descriptions(mut reply: Reply) -> Reply {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.retain(|name, value| name != "description" || !value.is_string());
                members.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    if let Ok(mut value) = serde_json::from_slice::<Value>(&reply.body) {
        strip(&mut value);
        reply.body = value.to_string().into_bytes();
    }
    reply
}

/// What a client could tell apart. `ignored` names what a scenario says differs: `status`, `body` or a header.
fn differences_between(their: &Reply, our: &Reply, ignored: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    if !ignored.contains(&"status") && their.status != our.status {
        found.push(format!("status {} became {} ({})", their.status, our.status, our.text()));
    }
    if !ignored.contains(&"body") && !same_body(their, our) {
        found.push(body_difference(their, our));
    }
    let mut names: Vec<String> =
        their.headers.iter().chain(&our.headers).map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    names.dedup();
    for name in names {
        if NOT_COMPARED.contains(&name.as_str()) || ignored.contains(&name.as_str()) {
            continue;
        }
        let (theirs, ours) = (their.all(&name), our.all(&name));
        let added = theirs.is_empty() && matches!(their.status, 404 | 405);
        let same = match name.as_str() {
            added_name if added && MAY_BE_ADDED.contains(&added_name) => true,
            "x-ms-run-fn-exec-ms" => shape(&theirs, is_milliseconds) == shape(&ours, is_milliseconds),
            "x-request-id" | "x-ms-request-id" => {
                theirs == ours || shape(&theirs, is_uuid) == shape(&ours, is_uuid)
            }
            // Order and spacing of a list do not matter to a client.
            "access-control-allow-methods" | "access-control-allow-headers" | "allow" | "vary" => {
                list(&theirs) == list(&ours)
            }
            _ => theirs == ours,
        };
        if !same {
            found.push(format!("header {name} {theirs:?} became {ours:?}"));
        }
    }
    found
}

/// Bytes where the script answers; the value where the server itself writes JSON and only its spacing could differ.
fn same_body(their: &Reply, our: &Reply) -> bool {
    let json = |reply: &Reply| serde_json::from_slice::<Value>(&reply.body).ok();
    let written_by_server = their.header("x-ms-run-fn-exec-ms").is_none();
    their.body == our.body || (written_by_server && json(their).is_some() && json(their) == json(our))
}

/// Where two JSON bodies first differ, or else both bodies.
fn body_difference(their: &Reply, our: &Reply) -> String {
    let json = |reply: &Reply| serde_json::from_slice::<Value>(&reply.body).ok();
    if let (Some(theirs), Some(ours)) = (json(their), json(our)) {
        let mut places = Vec::new();
        json_differences("", &theirs, &ours, &mut places);
        if !places.is_empty() {
            return format!("body {}", places.join("; "));
        }
    }
    format!("body {:?} became {:?}", short(their), short(our))
}

fn json_differences(at: &str, theirs: &Value, ours: &Value, places: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let mut names: Vec<&String> = theirs.keys().chain(ours.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let part = |of: &serde_json::Map<String, Value>| of.get(name).cloned().unwrap_or(Value::Null);
                json_differences(&format!("{at}/{name}"), &part(theirs), &part(ours), places);
            }
        }
        _ if theirs == ours => {}
        _ => places.push(format!("at {at}/ {theirs} became {ours}")),
    }
}

fn short(reply: &Reply) -> String {
    reply.text().chars().take(600).collect()
}

/// Each value's being of a shape stands for the value: the header is there, as often, and is well formed.
fn shape(values: &[&str], is: fn(&str) -> bool) -> Vec<Option<String>> {
    values.iter().map(|value| (!is(value)).then(|| (*value).to_owned())).collect()
}

/// `0.078`: three decimals.
fn is_milliseconds(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(whole, part)| digits(whole) && digits(part) && part.len() == 3)
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn list(values: &[&str]) -> Vec<String> {
    let mut items: Vec<String> = values
        .iter()
        .flat_map(|value| value.split(','))
        .map(|item| item.trim().to_ascii_lowercase())
        .filter(|item| !item.is_empty())
        .collect();
    items.sort();
    items
}
