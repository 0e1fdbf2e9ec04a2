//! Dynamic batching seen from outside: the same answers as without it, never a mix of shapes, and a bad item that
//! fails alone.

use std::thread;

use moorline_tests::{Connection, ReleaseDir, Request, Scorer, onnx};
use onnx::{ModelWriter, OnnxType, element};
use serde_json::{Value, json};

const BATCHED: [&str; 6] =
    ["--max-batch-size", "8", "--max-batch-delay-us", "3000", "--preferred-batch-sizes", "4,8"];

fn serve(model: &[u8]) -> Scorer {
    ReleaseDir::of_model(model).serve().args(["--engine", "tract", "--sessions", "1"]).args(BATCHED).start()
}

/// `count` clients send `requests` requests each; what they got, with what they sent.
fn exchange(
    scorer: &Scorer,
    count: usize,
    requests: usize,
    body: impl Fn(usize) -> Value + Sync,
) -> Vec<(usize, u16, Value)> {
    thread::scope(|scope| {
        let client = |client: usize| {
            let body = &body;
            scope.spawn(move || {
                let mut connection = Connection::open(scorer.address()).unwrap();
                let one = |number: usize| {
                    let reply = connection.send(&Request::json("/score", &body(number))).unwrap();
                    (number, reply.status, reply.value())
                };
                (client * requests..(client + 1) * requests).map(one).collect::<Vec<_>>()
            })
        };
        let clients: Vec<_> = (0..count).map(client).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// Sum and count of the histogram `moorline_batch_size`.
fn batches(scorer: &Scorer) -> (f64, f64) {
    let labels = r#"{deployment="d",endpoint="e"}"#;
    let value = |part: &str| scorer.metric(&format!("moorline_batch_size_{part}{labels}"));
    (value("sum"), value("count"))
}

#[test]
fn concurrent_requests_share_runs_and_each_gets_its_own_rows() {
    let release = ReleaseDir::of_model(&onnx::linear_model());
    let scorer = release
        .serve()
        .args(["--engine", "tract", "--sessions", "1", "--endpoint", "e", "--deployment", "d"])
        .args(BATCHED)
        .start();
    let rows = |number: usize| -> Vec<[usize; 4]> { vec![[number, 0, 0, 0]; number % 3 + 1] };
    let answers = exchange(&scorer, 16, 40, |number| json!({"data": rows(number)}));
    assert_eq!(answers.len(), 640);
    for (number, status, answer) in answers {
        let row = [0.5, number as f64 + 1.5, number as f64 * 2.0 + 2.5];
        assert_eq!((status, answer), (200, json!(vec![row; number % 3 + 1])), "request {number}");
    }
    let (rows, runs) = batches(&scorer);
    assert!(runs > 0.0 && rows / runs > 1.5, "{rows} rows in {runs} runs is no batching");
}

#[test]
fn shapes_are_never_mixed() {
    let matrix = OnnxType::Tensor(element::FLOAT, vec![None, None]);
    let model =
        ModelWriter::default().input("x", &matrix).output("y", &matrix).node("Neg", &["x"], &["y"]).write();
    let scorer = serve(&model);
    let row =
        |number: usize| -> Vec<f64> { (0..=number % 5).map(|column| (number + column) as f64).collect() };
    for (number, status, answer) in exchange(&scorer, 16, 30, |number| json!({"data": [row(number)]})) {
        let negative: Vec<f64> = row(number).into_iter().map(|value| -value).collect();
        assert_eq!((status, answer), (200, json!([negative])), "request {number}");
    }
}

/// An index beyond the table is an error of the engine: it reaches the batch, and must not reach the others in it.
#[test]
fn a_bad_item_fails_alone() {
    let model = ModelWriter::default()
        .input("index", &OnnxType::rows(element::INT64, &[]))
        .output("y", &OnnxType::rows(element::FLOAT, &[]))
        .floats("table", &[4], &[10.0, 11.0, 12.0, 13.0])
        .node("Gather", &["table", "index"], &["y"])
        .write();
    for engine in moorline_tests::engines() {
        let release = ReleaseDir::of_model(&model);
        let scorer = release.serve().args(["--engine", engine, "--sessions", "1"]).args(BATCHED).start();
        let bad = |number: usize| number.is_multiple_of(7);
        let index = |number: usize| if bad(number) { 99 } else { number % 4 };
        for (number, status, answer) in exchange(&scorer, 12, 21, |number| json!({"data": [index(number)]})) {
            if bad(number) {
                assert!(status >= 400, "{engine}, request {number}: {status} {answer}");
                assert!(answer["message"].is_string(), "{engine}: {answer}");
            } else {
                assert_eq!(
                    (status, answer),
                    (200, json!([10.0 + (number % 4) as f64])),
                    "{engine}, {number}"
                );
            }
        }
    }
}

#[test]
fn a_fixed_batch_dimension_is_refused_with_the_reason() {
    let fixed = OnnxType::Tensor(element::FLOAT, vec![Some(1), Some(4)]);
    let model =
        ModelWriter::default().input("x", &fixed).output("y", &fixed).node("Neg", &["x"], &["y"]).write();
    let failure = ReleaseDir::of_model(&model).serve().args(["--engine", "tract"]).args(BATCHED).fail();
    assert_eq!(failure.code, Some(1), "{}", failure.log);
    assert!(failure.log.contains("first dimension is fixed at 1"), "{}", failure.log);
}

#[test]
fn a_script_with_run_batch_gets_lists() {
    let source = "def init():\n    pass\n\n\ndef run(data):\n    return ['alone', data]\n\n\n\
                  def run_batch(items):\n    return [[len(items), item] for item in items]\n";
    let release = ReleaseDir::of_script(source);
    let scorer = release.serve().args(BATCHED).start();
    let answers = exchange(&scorer, 16, 10, |number| json!(number));
    let mut largest = 0;
    for (number, status, answer) in &answers {
        assert_eq!(*status, 200, "{answer}");
        assert_eq!(answer[1], number.to_string(), "request {number} got another's answer: {answer}");
        largest = largest.max(answer[0].as_u64().unwrap_or(0));
    }
    assert!((2..=8).contains(&largest), "the largest batch had {largest} items");
}

/// What `run_batch` cannot score as a whole is scored one by one.
#[test]
fn a_bad_item_of_a_script_s_batch_fails_alone() {
    let source = "def init():\n    pass\n\n\ndef run(data):\n    return 10 // int(data)\n\n\n\
                  def run_batch(items):\n    return [10 // int(item) for item in items]\n";
    let scorer = ReleaseDir::of_script(source).serve().args(BATCHED).start();
    for (number, status, answer) in exchange(&scorer, 12, 15, |number| json!(number % 5)) {
        match 10_usize.checked_div(number % 5) {
            None => assert_eq!(status, 500, "request {number}: {answer}"),
            Some(quotient) => assert_eq!((status, answer), (200, json!(quotient)), "request {number}"),
        }
    }
}
