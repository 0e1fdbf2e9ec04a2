//! Conditions that hold, that do not, and that cannot be read.

use proptest::prelude::*;

use super::*;

fn holds(condition: &str, body: &str) -> bool {
    let sender: ClientId = "dev1/cam".parse().unwrap();
    let properties =
        Properties::parse("%24.ct=application%2Fjson&%24.on=out&level=7&Alert=yes&it%27s=x").unwrap();
    let condition: Condition = condition.parse().unwrap_or_else(|error| panic!("{condition}: {error}"));
    condition.holds(&Facts::new(&sender, &properties, body.as_bytes()))
}

#[test]
fn conditions_hold_as_azure_says() {
    let body =
        r#"{"t": 30.5, "ok": true, "name": "pump", "none": null, "list": [1, {"a": "b"}], "o": {"p-q": 1}}"#;
    for condition in [
        "$body.t > 30",
        "$body.t >= 30.5 AND $body.t <= 30.5",
        "$body.ok",
        "NOT NOT $body.ok = true",
        "$body.name = 'pump' and $body.name <> \"valve\"",
        "$body.list[0] = 1 AND $body.list[1].a = 'b'",
        "$body.o.p-q = 1",
        "$body.none = null",
        "IS_NULL($body.none) AND NOT IS_DEFINED($body.nothing)",
        "is_string($body.name) AND IS_NUMBER($body.t) AND IS_BOOL($body.ok) AND IS_ARRAY($body.list) AND IS_OBJECT($body.o)",
        "STARTS_WITH($body.name, 'pu') AND ENDS_WITH($body.name, 'mp') AND CONTAINS($body.name, 'um')",
        "AS_NUMBER(level) > 5",
        "alert = 'yes' AND {level} = '7'",
        "$connectionDeviceId = 'dev1' AND $connectionModuleId = 'cam'",
        "$contentType = 'application/json' AND $outputName = 'out'",
        "false OR ($body.t > 100 OR $body.t > 30) AND true",
        "$body.missing > 1 OR $body.ok",
        "-1 < 1e3",
        "'it''s' = 'it\\'s'",
    ] {
        assert!(holds(condition, body), "{condition}");
    }
    for condition in [
        "$body.t > 31",
        "$body.t > 'a'",
        "$body.missing = 1",
        "$body.missing != 1",
        "NOT $body.missing = 1",
        "NOT ($body.missing AND true)",
        "$body.name",
        "level > 5",
        "$body.ok AND $body.ok = false",
        "undefined = undefined",
        "$userId = 'x'",
    ] {
        assert!(!holds(condition, body), "{condition}");
    }
    assert!(!holds("$body.t > 1", "not json"));
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    let error = |text: &str| text.parse::<Condition>().unwrap_err().to_string();
    assert_eq!(
        error("a = "),
        "unexpected `the end` at character 5; expected a value, a property or a function"
    );
    assert_eq!(error("a = 1 b"), "unexpected `b` at character 7; expected AND, OR or the end");
    assert_eq!(error("(a = 1"), "unexpected `the end` at character 7; expected `)`");
    assert_eq!(error("a = 'x"), "the text that begins at character 5 does not end");
    assert!(error("SQRT(2) > 1").starts_with("`SQRT` is no function"));
    assert_eq!(error("CONTAINS('a')"), "`CONTAINS` takes 2 values");
    assert!(error("$bodi.x = 1").starts_with("`$bodi` is no system property"));
    assert_eq!(error(&"(".repeat(40)), "the condition has more than 32 levels");
    assert_eq!(error(&"NOT ".repeat(40)), "the condition has more than 32 levels");
    assert!(error("$body[x] = 1").contains("the number of an item"));
    assert!(error("AND").contains("a value"));
}

proptest! {
    #[test]
    fn nothing_that_is_read_ends_the_reader(text in "[a-z$.()\\[\\]{}'\"<>=!,0-9 \\\\ä-]{0,40}") {
        let _ = text.parse::<Condition>();
    }
}

#[test]
fn devices_are_meant_by_their_tags_and_properties() {
    let device = serde_json::json!({
        "deviceId": "line-3",
        "tags": {"site": "lyon", "gpu": true, "rack": {"row": 4}},
        "properties": {"reported": {"model": "4000x"}, "desired": {}},
    });
    let holds = |text: &str| text.parse::<DeviceCondition>().unwrap().holds(&device);
    for text in [
        "tags.site = 'lyon' AND tags.gpu = true",
        "tags.rack.row >= 4 and not tags.site = 'oslo'",
        "deviceId = 'line-3'",
        "STARTS_WITH(deviceId, 'line-') AND IS_DEFINED(properties.reported.model)",
        "properties.reported.model='4000x'",
        "true",
    ] {
        assert!(holds(text), "{text}");
    }
    for text in ["tags.site = 'oslo'", "tags.none = 'x'", "NOT tags.none = 'x'", "tags.gpu", "tags.site"] {
        assert_eq!(holds(text), text == "tags.gpu", "{text}");
    }
    for (text, at) in
        [("site = 'lyon'", 1), ("tags.site = 'lyon' AND $body.x = 1", 24), ("tags.", 6), ("", 1)]
    {
        let error = text.parse::<DeviceCondition>().unwrap_err();
        assert!(
            matches!(error, ConditionError::Unexpected { at: found, .. } if found == at),
            "{text}: {error}"
        );
    }
}
