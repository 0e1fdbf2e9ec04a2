//! What a scorer says of itself: metrics by the names of the design, logs with request ids, and traces.

use std::time::Duration;

use moorline_tests::{Collector, ReleaseDir, Request, Scorer, call, onnx, venv};
use serde_json::json;

fn metrics(scorer: &Scorer) -> String {
    let reply = call(scorer.admin(), &Request::get("/metrics"));
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").unwrap().starts_with("text/plain"));
    reply.text()
}

fn serve() -> Scorer {
    ReleaseDir::of_model(&onnx::linear_model())
        .serve()
        .args(["--engine", "tract", "--endpoint", "iris", "--deployment", "blue"])
        .start()
}

#[test]
fn every_metric_of_the_design_is_there_with_its_type() {
    let scorer = serve();
    scorer.post("/score", &json!({"data": [[1, 2, 3, 4]]}));
    let text = metrics(&scorer);
    for (name, kind) in [
        ("moorline_requests_total", "counter"),
        ("moorline_request_duration_seconds", "histogram"),
        ("moorline_queue_duration_seconds", "histogram"),
        ("moorline_inference_duration_seconds", "histogram"),
        ("moorline_batch_size", "histogram"),
        ("moorline_requests_in_flight", "gauge"),
        ("moorline_model_load_seconds", "gauge"),
        ("moorline_script_restarts_total", "counter"),
        ("moorline_request_bytes_total", "counter"),
        ("moorline_response_bytes_total", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_cpu_seconds_total", "counter"),
    ] {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "no {kind} {name} in\n{text}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is not explained");
    }
    let foreign = |line: &&str| !line.starts_with("moorline_") && !line.starts_with("process_");
    let foreign: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).filter(foreign).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn requests_are_counted_by_protocol_and_code() {
    let scorer = serve();
    let counted = |protocol: &str, code: &str| {
        scorer.metric(&format!(
            r#"moorline_requests_total{{code="{code}",deployment="blue",endpoint="iris",protocol="{protocol}"}}"#
        ))
    };
    for _ in 0..3 {
        scorer.post("/score", &json!({"data": [[1, 2, 3, 4]]}));
    }
    scorer.post("/score", &json!({"data": [[1, 2]]}));
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]});
    scorer.post("/v2/models/tested/infer", &json!({"inputs": [input]}));
    assert_eq!((counted("score", "200"), counted("score", "400")), (3.0, 1.0));
    assert_eq!(counted("oip_rest", "200"), 1.0);
    let labels = r#"{deployment="blue",endpoint="iris"}"#;
    let duration = r#"{deployment="blue",endpoint="iris",protocol="score"}"#;
    assert_eq!(scorer.metric(&format!("moorline_request_duration_seconds_count{duration}")), 4.0);
    assert_eq!(scorer.metric(&format!("moorline_inference_duration_seconds_count{labels}")), 4.0);
    assert_eq!(scorer.metric(&format!("moorline_requests_in_flight{labels}")), 0.0);
    assert!(scorer.metric(&format!("moorline_model_load_seconds{labels}")) > 0.0);
    assert!(scorer.metric(&format!("moorline_request_bytes_total{labels}")) > 100.0);
    assert!(scorer.metric(&format!("moorline_response_bytes_total{labels}")) > 50.0);
}

/// Nothing that a client sends may become a label: that would be a leak that anybody can open.
#[test]
fn labels_come_from_closed_sets() {
    let scorer = serve();
    let before = metrics(&scorer).lines().count();
    for index in 0..50 {
        scorer.call(&Request::new(&format!("M{index}"), "/score"));
        scorer.get(&format!("/made-up-{index}"));
        scorer.post(&format!("/v2/models/made-up-{index}/infer"), &json!({}));
        scorer.call(&Request::post("/score", "{").header("x-request-id", &format!("made-up-{index}")));
    }
    let text = metrics(&scorer);
    assert!(!text.contains("made-up"), "{text}");
    assert!(text.lines().count() < before + 60, "{before} lines became {}", text.lines().count());
}

#[test]
fn the_admin_port_serves_no_scores_and_the_data_port_no_metrics() {
    let scorer = serve();
    assert_eq!(scorer.get("/metrics").status, 404);
    assert_eq!(call(scorer.admin(), &Request::post("/score", "{}")).status, 404);
    assert_eq!(call(scorer.admin(), &Request::get("/live")).status, 200);
}

#[test]
fn json_logs_are_json_and_carry_request_ids() {
    let scorer =
        ReleaseDir::of_script("def init():\n    pass\n\n\ndef run(data):\n    raise ValueError('sour')\n")
            .serve()
            .start();
    scorer.call(&Request::post("/score", "x").header("x-request-id", "id-of-mine"));
    assert!(scorer.log().wait_for_text(Duration::from_secs(5), "ValueError: sour"));
    let text = scorer.log().text();
    for line in text.lines() {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        for field in ["timestamp", "level", "message"] {
            assert!(event[field].is_string(), "no {field} in {line}");
        }
    }
    let of_request = scorer.log().events().into_iter().any(|event| event.to_string().contains("id-of-mine"));
    assert!(of_request, "{text}");
}

#[test]
fn text_logs_and_levels() {
    let release = ReleaseDir::of_model(&onnx::linear_model());
    let failure = {
        fs_err::remove_file(release.model().join("model.onnx")).unwrap();
        release.serve().args(["--engine", "tract", "--log-level", "ERROR"]).fail()
    };
    assert!(failure.log.contains("model.onnx") && !failure.log.contains("INFO"), "{}", failure.log);
}

#[test]
fn a_trace_that_comes_in_goes_out_to_the_collector_and_into_the_script() {
    let Some(venv) = venv("tools") else { return };
    let collector = Collector::start(&venv);
    let script = "def init():\n    pass\n\n\ndef run(data, request_headers):\n    return request_headers.get('Traceparent')\n";
    let mut scorer = ReleaseDir::of_script(script)
        .serve()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .start();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let reply = scorer.call(&Request::post("/score", "x").header("traceparent", &parent));
    assert_eq!(reply.status, 200);
    // What is left must go out at the end.
    scorer.terminate();
    assert_eq!(scorer.wait(Duration::from_secs(20)), Some(0));
    let spans = collector.trace(trace, 4);
    let named = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap();
    let (own, script) = (named("score"), named("script"));
    assert_eq!((&own["parent"], &own["kind"]), (&json!("b7ad6b7169203331"), &json!("server")));
    assert_eq!(script["parent"], own["id"]);
    for part in ["queue", "run"] {
        assert_eq!(named(part)["parent"], script["id"], "{part}");
    }
    let given = format!("00-{trace}-{}-01", script["id"].as_str().unwrap());
    assert_eq!(reply.value(), given, "the script goes on from a span that is exported");
}

#[test]
fn answered_requests_are_logged_where_that_is_wanted() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = Request::post("/score", r#"{"data": [[1, 2, 3, 4]]}"#)
        .header("x-request-id", "id-of-mine")
        .header("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"));
    for wanted in [true, false] {
        let release = ReleaseDir::of_model(&onnx::linear_model());
        let mut scorer = release
            .serve()
            .args(["--engine", "tract"])
            .env("MOORLINE_LOG_REQUESTS", wanted.to_string())
            .start();
        assert_eq!(scorer.call(&request).status, 200);
        scorer.terminate();
        assert_eq!(scorer.wait(Duration::from_secs(20)), Some(0));
        let of_mine = scorer.log().events().into_iter().find(|event| event["request_id"] == "id-of-mine");
        let Some(event) = of_mine else {
            assert!(!wanted, "{}", scorer.log().text());
            continue;
        };
        assert!(wanted, "{event}");
        assert_eq!((&event["status"], &event["trace_id"]), (&json!(200), &json!(trace)));
    }
}

#[test]
fn a_collector_that_is_not_there_costs_nothing() {
    let scorer = ReleaseDir::of_model(&onnx::linear_model())
        .serve()
        .args(["--engine", "tract"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .start();
    for _ in 0..20 {
        assert_eq!(scorer.post("/score", &json!({"data": [[1, 2, 3, 4]]})).status, 200);
    }
}
