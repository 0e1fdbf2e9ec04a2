//! One request as it is found again: its trace over gateway, scorer and script, its line in the access log, and what was
//! said meanwhile.

use std::{path::Path, time::Duration};

use moorline_tests::{Collector, Request, Workspace, documents::script_deployment, eventually, venv};
use serde_json::{Value, json};

const SCRIPT: &str = "import logging\n\n\ndef init():\n    pass\n\n\ndef run(data, request_headers):\n    print('printed', data)\n    logging.warning('logged %s', data)\n    if 'raise' in data:\n        raise ValueError('sour')\n    return request_headers.get('Traceparent')\n";
/// Spans of scorers arrive soon.
const SOON: &str = "environment_variables:\n  OTEL_BSP_SCHEDULE_DELAY: '100'\n";
const CALLER: &str = "b7ad6b7169203331";

/// A script at `traced`, and the key of its endpoint.
fn deployed(workspace: &Workspace) -> String {
    workspace.write("code/score.py", SCRIPT);
    workspace.deploy("traced", &(script_deployment("blue", "traced", "code") + SOON))
}

fn traceparent(trace: &str, sampled: bool) -> String {
    format!("00-{trace}-{CALLER}-{:02}", u8::from(sampled))
}

/// The line of the access log for a request.
fn line(log: &Path, id: &str) -> Value {
    let find = || {
        let text = fs_err::read_to_string(log).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.into_iter().find(|line| line["request_id"] == id)
    };
    assert!(eventually(Duration::from_secs(10), || find().is_some()), "no line of {id}");
    find().unwrap()
}

fn one<'a>(spans: &'a [Value], name: &str, service: &str, parent: &Value) -> &'a Value {
    let mut fits = spans
        .iter()
        .filter(|span| span["name"] == name && span["service"] == service && span["parent"] == *parent);
    let found = fits.next().unwrap_or_else(|| panic!("no `{name}` of {service} under {parent}: {spans:#?}"));
    assert!(fits.next().is_none(), "two of `{name}` of {service} under {parent}");
    found
}

/// What a scorer and its script have done under `parent`.
fn scored<'a>(spans: &'a [Value], deployment: &str, parent: &Value) -> &'a Value {
    let service = format!("traced/{deployment}");
    let scorer = one(spans, "score", &service, parent);
    let script = one(spans, "script", &service, &scorer["id"]);
    one(spans, "queue", &service, &script["id"]);
    one(spans, "run", &service, &script["id"]);
    script
}

#[test]
fn a_request_is_one_trace_over_gateway_scorer_and_script_with_its_mirror() {
    let Some(venv) = venv("tools") else { return };
    let collector = Collector::start(&venv);
    let mut workspace = Workspace::down();
    let log = workspace.work().join("access.json");
    workspace.set_variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    workspace.set_variable("OTEL_BSP_SCHEDULE_DELAY", "100");
    workspace.set_variable("MOORLINE_ACCESS_LOG", &log);
    workspace.start();
    let key = deployed(&workspace);
    workspace.write("green.yml", script_deployment("green", "traced", "code") + SOON);
    workspace.moorline(&["online-deployment", "create", "-f", "green.yml"]).ok();
    workspace.moorline(&["online-endpoint", "update", "-n", "traced", "--mirror-traffic", "green=50"]).ok();
    let scoring = |id: &str| {
        // Every second one is mirrored, and this one is not.
        assert_eq!(workspace.call(&Workspace::scoring("traced", &key, "{}")).status, 200);
        Workspace::scoring("traced", &key, "{}").header("x-request-id", id)
    };

    let reply = workspace.call(&scoring("begun-here"));
    assert_eq!(reply.status, 200);
    let seen = line(&log, "begun-here");
    let trace = seen["trace_id"].as_str().unwrap();
    let spans = collector.trace(trace, 12);
    let gateway = one(&spans, "POST traced", "moorline", &json!(""));
    assert_eq!(gateway["kind"], "server");
    for (name, value) in [
        ("moorline.endpoint", json!("traced")),
        ("moorline.deployment", json!("blue")),
        ("moorline.request_id", json!("begun-here")),
        ("http.response.status_code", json!(200)),
        ("url.path", json!("/score")),
    ] {
        assert_eq!(gateway["attributes"][name], value, "{name} in {gateway}");
    }
    let sent = one(&spans, "send", "moorline", &gateway["id"]);
    assert_eq!(sent["kind"], "client");
    assert!(sent["attributes"]["moorline.replica"].is_string(), "{sent}");
    let script = scored(&spans, "blue", &sent["id"]);
    assert_eq!(reply.value(), format!("00-{trace}-{}-01", script["id"].as_str().unwrap()));
    let mirror = one(&spans, "mirror", "moorline", &gateway["id"]);
    let copied = one(&spans, "send", "moorline", &mirror["id"]);
    scored(&spans, "green", &copied["id"]);

    // Whoever asks decides, and is the parent.
    let (wanted, unwanted) = ("1af7651916cd43dd8448eb211c80319c", "2af7651916cd43dd8448eb211c80319c");
    let told = |id: &str, trace: &str, sampled: bool| {
        workspace.call(&scoring(id).header("traceparent", &traceparent(trace, sampled)))
    };
    let reply = told("not-recorded", unwanted, false);
    let given = reply.value();
    assert!(given.as_str().unwrap().starts_with(&format!("00-{unwanted}-")), "{given}");
    assert!(given.as_str().unwrap().ends_with("-00"), "{given}");
    told("recorded", wanted, true);
    let spans = collector.trace(wanted, 12);
    one(&spans, "POST traced", "moorline", &json!(CALLER));
    assert!(collector.spans(unwanted).is_empty());
    assert_eq!(line(&log, "not-recorded")["trace_id"], unwanted);

    // What is left when the server ends is sent.
    told("last", "3af7651916cd43dd8448eb211c80319c", true);
    assert_eq!(workspace.stop(), Some(0));
    assert_eq!(collector.trace("3af7651916cd43dd8448eb211c80319c", 12).len(), 12);
}

#[test]
fn a_share_of_none_begins_no_trace_and_a_caller_may_still_want_one() {
    let Some(venv) = venv("tools") else { return };
    let collector = Collector::start(&venv);
    let workspace = Workspace::up_with(&["--otlp-endpoint", collector.endpoint(), "--trace-ratio", "0"]);
    let key = deployed(&workspace);
    for _ in 0..10 {
        assert_eq!(workspace.call(&Workspace::scoring("traced", &key, "{}")).status, 200);
    }
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let wanted = Workspace::scoring("traced", &key, "{}").header("traceparent", &traceparent(trace, true));
    assert_eq!(workspace.call(&wanted).status, 200);
    let spans = collector.trace(trace, 6);
    assert_eq!(collector.count(), spans.len());
}

#[test]
fn a_collector_that_is_away_costs_no_request_and_gets_spans_when_it_is_back() {
    let Some(venv) = venv("tools") else { return };
    let collector = Collector::start(&venv);
    let endpoint = collector.endpoint().to_owned();
    drop(collector);
    let mut workspace = Workspace::down();
    workspace.set_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    workspace.set_variable("OTEL_BSP_SCHEDULE_DELAY", "100");
    workspace.start();
    let key = deployed(&workspace);
    let ask = || workspace.call(&Workspace::scoring("traced", &key, "{}")).status;
    for _ in 0..20 {
        assert_eq!(ask(), 200);
    }
    let collector = Collector::start_at(&venv, &endpoint);
    // Spans of a request that was asked now: one export may still wait for the collector that was away.
    let back = || {
        assert_eq!(ask(), 200);
        collector.count() > 0
    };
    assert!(eventually(Duration::from_mins(1), back), "{}", workspace.server_log());
}

#[test]
fn a_request_is_found_by_its_id() {
    let mut workspace = Workspace::down();
    let log = workspace.work().join("access.json");
    workspace.set_variable("MOORLINE_ACCESS_LOG", &log);
    workspace.start();
    let key = deployed(&workspace);
    let ask = |id: &str, body: &str| {
        let trace = traceparent("0af7651916cd43dd8448eb211c80319c", true);
        let scoring = Workspace::scoring("traced", &key, body);
        workspace.call(&scoring.header("x-request-id", id).header("traceparent", &trace))
    };
    assert_eq!(ask("mine", "first?key=secret").status, 200);
    assert_eq!(ask("mine-too", "second").status, 200);
    assert_eq!(ask("sour", "raise").status, 424);

    let logs = |arguments: &[&str]| {
        let all = [&["online-deployment", "get-logs", "-n", "blue", "-e", "traced"], arguments].concat();
        workspace.moorline(&all).ok().stdout
    };
    let of = |id: &str, lines: usize| {
        let has = || logs(&["--request-id", id]).lines().count() >= lines;
        assert!(eventually(Duration::from_secs(10), has), "{}", logs(&[]));
        logs(&["--request-id", id])
    };
    let mine = of("mine", 2);
    assert!(mine.contains("printed first") && mine.contains("logged first"), "{mine}");
    assert!(!mine.contains("second") && !mine.contains("raise"), "{mine}");
    for line in mine.lines() {
        assert!(line.contains("trace_id=0af7651916cd43dd8448eb211c80319c"), "{line}");
    }
    let sour = of("sour", 4);
    assert!(sour.contains("ValueError: sour") && sour.contains("Traceback"), "{sour}");
    let last = logs(&["--request-id", "mine", "--lines", "1"]);
    assert!(last.lines().count() == 1 && last.contains("first"), "{last}");
    assert_eq!(logs(&["--request-id", "nobody's"]), "");
    let too_long = "x".repeat(101);
    let refused = workspace.moorline(&[
        "online-deployment",
        "get-logs",
        "-n",
        "blue",
        "-e",
        "traced",
        "--request-id",
        &too_long,
    ]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);

    // Who asked with the command line is told where to go on.
    workspace.write("raise.json", "\"raise\"");
    let failed = workspace.moorline(&["online-endpoint", "invoke", "-n", "traced", "-r", "raise.json"]);
    assert_eq!(failed.code, Some(1));
    let id = failed.stderr.split("request id: ").nth(1).and_then(|rest| rest.lines().next());
    let id = id.unwrap_or_else(|| panic!("no id in {}", failed.stderr));
    assert!(
        failed.stderr.contains(&format!("get-logs -e traced -n blue --request-id {id}")),
        "{}",
        failed.stderr
    );
    assert!(of(id, 4).contains("ValueError: sour"));

    // And the gateway has a line for each, without what is nobody's business.
    let seen = line(&log, "sour");
    for (name, value) in [
        ("endpoint", json!("traced")),
        ("deployment", json!("blue")),
        ("method", json!("POST")),
        ("path", json!("/score")),
        ("status", json!(424)),
        ("attempts", json!(1)),
        ("bytes_in", json!(5)),
    ] {
        assert_eq!(seen[name], value, "{name} in {seen}");
    }
    assert!(seen["bytes_out"].as_u64().unwrap() > 10 && seen["ms"].as_f64().unwrap() > 0.0, "{seen}");
    let strange =
        Request::new("BREW", "/endpoints/no\"where/score?key=secret").header("x-request-id", "strange");
    assert_eq!(workspace.call(&strange).status, 404);
    let seen = line(&log, "strange");
    assert_eq!((&seen["status"], &seen["attempts"], seen.get("deployment")), (&json!(404), &json!(0), None));
    let text = fs_err::read_to_string(&log).unwrap();
    assert!(!text.contains(&key) && !text.contains("secret") && !text.contains('?'), "{text}");
}

#[test]
fn a_log_is_followed_for_one_request() {
    let workspace = Workspace::up();
    let key = deployed(&workspace);
    let mut command = workspace.command(&[
        "online-deployment",
        "get-logs",
        "-n",
        "blue",
        "-e",
        "traced",
        "--follow",
        "--request-id",
        "wanted",
    ]);
    let file = workspace.work().join("followed");
    let (out, _) = fs_err::File::create(&file).unwrap().into_parts();
    let mut child = command.stdout(out).spawn().unwrap();
    let read = || fs_err::read_to_string(&file).unwrap();
    // Until it follows, and then for the one that is wanted.
    let arrives = || {
        for id in ["other", "wanted"] {
            let scoring = Workspace::scoring("traced", &key, id).header("x-request-id", id);
            assert_eq!(workspace.call(&scoring).status, 200);
        }
        read().contains("logged wanted")
    };
    let arrived = eventually(Duration::from_secs(20), arrives);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(arrived, "{}", read());
    assert!(!read().contains("other"), "{}", read());
}
