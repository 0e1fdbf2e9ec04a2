//! Routes, headers and ids around a script.

use moorline_tests::{Connection, ReleaseDir, Request};

use super::{run_of, serve};

const ECHO: &str = "return data";

#[test]
fn the_root_is_healthy() {
    let scorer = serve(&run_of(ECHO));
    let answer = scorer.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "Healthy"));
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
}

#[test]
fn swagger_is_served_in_its_versions_and_no_other() {
    let scorer = serve(&run_of(ECHO));
    for (query, key, version) in [
        ("", "swagger", "2.0"),
        ("?version=2", "swagger", "2.0"),
        ("?version=2.0", "swagger", "2.0"),
        ("?version=3", "openapi", "3.0.3"),
        ("?version=3.0", "openapi", "3.0.3"),
        ("?version=3.1", "openapi", "3.1.0"),
    ] {
        let answer = scorer.get(&format!("/swagger.json{query}"));
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(answer.value()[key], version, "{query}");
        assert_eq!(answer.value()["info"]["title"], "ML service");
    }
    let answer = scorer.get("/swagger.json?version=9");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.message(), "Swagger version [9] is not valid. Supported versions: [2, 3, 3.1].");
}

#[test]
fn a_swagger_of_the_user_wins() {
    let mut contents = ReleaseDir::contents().script(&run_of(ECHO));
    for (name, title) in
        [("swagger.json", "two"), ("swagger3.json", "three"), ("swagger3.1.json", "three-one")]
    {
        contents = contents.code(name, format!(r#"{{"info": {{"title": "{title}"}}}}"#).as_bytes());
    }
    let scorer = contents.make().serve().start();
    for (query, title) in [("", "two"), ("?version=3", "three"), ("?version=3.1", "three-one")] {
        assert_eq!(scorer.get(&format!("/swagger.json{query}")).value()["info"]["title"], title);
    }
}

#[test]
fn options_is_200_and_empty() {
    let scorer = serve(&run_of(ECHO));
    let answer = scorer.call(&Request::new("OPTIONS", "/score"));
    assert_eq!((answer.status, answer.body.len()), (200, 0));
}

#[test]
fn other_methods_are_405_and_other_paths_404_each_with_a_message() {
    let scorer = serve(&run_of(ECHO));
    for (method, target, status) in [
        ("PUT", "/score", 405),
        ("DELETE", "/score", 405),
        ("PATCH", "/score", 405),
        ("POST", "/", 405),
        ("POST", "/swagger.json", 405),
        ("GET", "/nope", 404),
        ("POST", "/score/", 404),
        ("POST", "/score/more", 404),
    ] {
        let answer = scorer.call(&Request::new(method, target));
        assert_eq!(answer.status, status, "{method} {target}");
        assert!(!answer.message().is_empty());
        assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {target}");
    }
}

#[test]
fn every_success_of_score_tells_that_and_how_long_run_ran() {
    let scorer = serve(&run_of("import time\ntime.sleep(0.02)\nreturn 1"));
    let answer = scorer.call(&Request::post("/score", "x"));
    assert_eq!(answer.header("x-ms-run-function-failed"), Some("False"));
    let text = answer.header("x-ms-run-fn-exec-ms").unwrap();
    assert_eq!(text.split_once('.').unwrap().1.len(), 3, "{text} has not three decimals");
    assert!((20.0..5000.0).contains(&text.parse::<f64>().unwrap()), "{text} ms");
}

#[test]
fn the_server_version_is_ours_and_can_be_turned_off() {
    let scorer = serve(&run_of(ECHO));
    let answer = scorer.call(&Request::post("/score", "x"));
    let version = answer.header("x-ms-server-version").unwrap();
    assert!(version.starts_with("moorline/"), "{version}");
    let release = ReleaseDir::of_script(&run_of(ECHO));
    let scorer = release.serve().env("SERVER_VERSION_LOG_RESPONSE_ENABLED", "false").start();
    assert!(scorer.call(&Request::post("/score", "x")).header("x-ms-server-version").is_none());
}

#[test]
fn ids_are_taken_made_and_echoed() {
    let scorer = serve(&run_of(ECHO));
    let ids = |headers: &[(&str, &str)]| {
        let request = headers
            .iter()
            .fold(Request::post("/score", "x"), |request, (name, value)| request.header(name, value));
        let answer = scorer.call(&request);
        assert_eq!(answer.status, 200);
        ["x-request-id", "x-ms-request-id", "x-ms-client-request-id", "traceid"]
            .map(|name| answer.header(name).map(str::to_owned))
    };
    let own = |text: &str| Some(text.to_owned());
    let made = ids(&[]);
    assert_eq!(made[0].as_ref().unwrap().len(), 36);
    assert_eq!(made[0], made[1]);
    assert_eq!(made[2], None);
    assert_ne!(made[0], ids(&[])[0]);
    assert_eq!(ids(&[("x-request-id", "a")]), [own("a"), own("a"), None, None]);
    let client = ids(&[("x-ms-client-request-id", "b")]);
    assert_eq!(client[1..3], [own("b"), own("b")]);
    let legacy = ids(&[("x-ms-request-id", "c")]);
    assert_eq!(legacy[1..3], [own("c"), own("c")]);
    assert_eq!(ids(&[("TraceId", "t")])[3], own("t"));
    let all = ids(&[("x-request-id", "a"), ("x-ms-client-request-id", "b"), ("x-ms-request-id", "c")]);
    assert_eq!(all[..3], [own("a"), own("c"), own("b")]);
}

#[test]
fn ids_longer_than_100_characters_are_431() {
    let scorer = serve(&run_of(ECHO));
    let (fits, long) = ("i".repeat(100), "i".repeat(101));
    for (header, said) in [
        ("x-request-id", "x-request-id must not exceed 100 characters"),
        ("x-ms-request-id", "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters"),
        (
            "x-ms-client-request-id",
            "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters",
        ),
    ] {
        assert_eq!(scorer.call(&Request::post("/score", "x").header(header, &fits)).status, 200, "{header}");
        let answer = scorer.call(&Request::post("/score", "x").header(header, &long));
        assert_eq!((answer.status, answer.message().as_str()), (431, said), "{header}");
    }
}

#[test]
fn connections_stay_open() {
    let scorer = serve(&run_of(ECHO));
    let mut connection = Connection::open(scorer.address()).unwrap();
    for _ in 0..50 {
        let answer = connection.send(&Request::post("/score", "x")).unwrap();
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("connection"), Some("close"));
    }
}

#[test]
fn output_of_the_script_becomes_log_lines_with_the_request_id() {
    let scorer = serve(&run_of(
        "import logging, sys\nprint('said on stdout')\nprint('said on stderr', file=sys.stderr)\n\
         logging.getLogger('mine').warning('said by logging')\nreturn 1",
    ));
    scorer.call(&Request::post("/score", "x").header("x-request-id", "the-loud-one"));
    let limit = std::time::Duration::from_secs(5);
    for said in ["said on stdout", "said on stderr", "said by logging"] {
        let line = scorer.log().wait_for(limit, |line| line.contains(said).then(|| line.to_owned()));
        let line = line.unwrap_or_else(|| panic!("`{said}` is not in the log:\n{}", scorer.log().text()));
        assert!(line.contains("the-loud-one"), "no request id in {line}");
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "not JSON: {line}");
    }
}
