//! Bad input: bombs, anchors, tabs, byte order marks, large files. Nothing hangs, nothing eats the memory.

use std::fmt::Write as _;

use moorline_core::ErrorClass;
use moorline_spec::{OnlineEndpoint, SourceError, read_file};
use proptest::prelude::*;

use crate::sample::{folder, load_in, said};

#[test]
fn a_bomb_of_aliases_is_refused_before_it_is_built() {
    let mut text = "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for (before, name) in ('a'..='z').zip('b'..='z') {
        let aliases = vec![format!("*{before}"); 9].join(", ");
        writeln!(text, "{name}: &{name} [{aliases}]").unwrap();
    }
    insta::assert_snapshot!(said::<OnlineEndpoint>(&text), @"doc.yml:6:12: more than 200000 values, with those of aliases");
    let text =
        format!("name: abc\ntags: &t\n  a: {}\nx: [{}]\n", "y".repeat(1 << 20), vec!["*t"; 64].join(", "));
    insta::assert_snapshot!(said::<OnlineEndpoint>(&text), @"doc.yml:4:125: more than 32 MiB of text, with that of aliases");
}

#[test]
fn depth_is_bounded_in_text_and_through_aliases() {
    let text = format!("tags: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    insta::assert_snapshot!(said::<OnlineEndpoint>(&text), @"doc.yml:1:262: more than 64 levels of nesting");
    let mut text = "a0: &a0 [[[[[x]]]]]\n".to_owned();
    for level in 1..20 {
        writeln!(text, "a{level}: &a{level} [[[[[*a{}]]]]]", level - 1).unwrap();
    }
    insta::assert_snapshot!(said::<OnlineEndpoint>(&text), @"doc.yml:13:16: more than 64 levels of nesting");
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: abc\ntags: &t {a: *t}\n"), @"doc.yml:2:14: an alias that stands inside of what it stands for");
}

#[test]
fn anchors_and_merge_keys_mean_what_yaml_says() {
    let text = "
name: abc
tags: &tags {a: one, b: two}
properties: {<<: *tags, b: three}
";
    let endpoint = load_in::<OnlineEndpoint>(folder().path(), text, &[]).unwrap().document;
    let properties: Vec<(&str, &str)> =
        endpoint.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(properties, [("a", "one"), ("b", "three")]);
    insta::assert_snapshot!(said::<OnlineEndpoint>("name: abc\ntags: {<<: text}\n"), @"doc.yml:2:12: `<<` merges objects; this is none");
}

#[test]
fn many_mistakes_are_cut_off() {
    let mut text = "name: abc\n".to_owned();
    for index in 0..5000 {
        writeln!(text, "unknown{index}: 1").unwrap();
    }
    let said = said::<OnlineEndpoint>(&text);
    assert_eq!(said.lines().count(), 101);
    assert_eq!(said.lines().last(), Some("doc.yml: 4900 more"));
}

#[test]
fn files_are_read_within_their_bound() {
    let folder = folder();
    let path = folder.path().join("doc.yml");
    let class = |bytes: &[u8]| {
        fs_err::write(&path, bytes).unwrap();
        read_file(&path).map_err(|error| error.class())
    };
    assert_eq!(class(b"\xef\xbb\xbfname: abc\n").unwrap().text, "name: abc\n");
    assert_eq!(class(b"name: \xff\n"), Err(ErrorClass::InvalidInput));
    let most = "#".repeat(moorline_spec::MAX_FILE_BYTES as usize);
    assert!(class(most.as_bytes()).is_ok());
    assert_eq!(class(format!("{most}#").as_bytes()), Err(ErrorClass::TooLarge));
    assert_eq!(read_file(&folder.path().join("absent.yml")).unwrap_err().class(), ErrorClass::NotFound);
    assert!(matches!(read_file(folder.path()), Err(SourceError::Folder { .. })));
    assert!(matches!(read_file("/dev/zero".as_ref()), Err(SourceError::Special { .. })));
}

#[test]
fn a_document_of_ten_mebibytes_is_read() {
    let text = format!("name: abc\ndescription: {}\n", "word ".repeat(2 << 20).trim());
    assert_eq!(said::<OnlineEndpoint>(&text), "accepted");
    let mut text = "name: abc\ntags:\n".to_owned();
    for index in 0..300_000 {
        writeln!(text, "  key{index}: {index}").unwrap();
    }
    insta::assert_snapshot!(said::<OnlineEndpoint>(&text), @"doc.yml:100000:13: more than 200000 values, with those of aliases");
}

#[test]
fn ten_mebibytes_of_anything_are_answered() {
    let most = moorline_spec::MAX_FILE_BYTES as usize;
    for part in [
        "- ",
        "[",
        "{",
        "? ",
        "a: ",
        "\"",
        "'",
        "# x\n",
        "\n",
        " ",
        "a\n",
        "&a ",
        "*a ",
        "!a ",
        "| ",
        "a: b\n",
        "- - a\n",
        "{a: b}, ",
        "[a, ",
        "a: &a\n",
        "%x\n",
        "---\n",
        "\\",
        "é",
        "x ",
        "\"a\\\n",
        ",",
        ":",
        "]",
        "}",
        "a: [b, c]\n",
        "<<: ",
    ] {
        let text = part.repeat(most / part.len());
        let said = said::<OnlineEndpoint>(&text);
        assert!(said.len() < 100_000 && said != "accepted", "{part}: {said}");
    }
}

#[test]
fn a_byte_order_mark_is_left_out() {
    assert_eq!(said::<OnlineEndpoint>("\u{feff}name: abc\n"), "accepted");
    assert_eq!(said::<OnlineEndpoint>("name: abc\r\ntags:\r\n  a: b\r\n"), "accepted");
}

/// Fragments that parsers trip over, glued together.
fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        Just("name: "),
        Just("- "),
        Just(": "),
        Just("\n"),
        Just("  "),
        Just("\t"),
        Just("&a "),
        Just("*a"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just("? "),
        Just("| \n"),
        Just("> \n"),
        Just("'"),
        Just("\""),
        Just("#"),
        Just("!!int "),
        Just("!<x> "),
        Just("<<"),
        Just("%YAML 1.1\n"),
        Just("---\n"),
        Just("...\n"),
        Just("\u{feff}"),
        Just("\0"),
        Just("é"),
        Just("0x"),
        Just("azureml:"),
        Just("file:"),
        Just("tags"),
        Just("traffic"),
        Just("model"),
        Just("\\"),
        Just("\u{2028}"),
        Just("\r"),
    ];
    proptest::collection::vec(fragment, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in fragments()) {
        let _ = said::<OnlineEndpoint>(&text);
        let _ = said::<moorline_spec::OnlineDeployment>(&text);
        let _ = moorline_spec::conda::parse(&moorline_spec::SourceFile::new("conda.yml", text.as_str()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = said::<moorline_spec::Environment>(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_override_makes_it_panic(text in "[a-z.=\\[\\]0-9'\"\\\\{}]{0,20}") {
        if let Ok(change) = moorline_spec::Override::parse(&text) {
            let mut value = serde_json::json!({"a": [1, {"b": null}]});
            let _ = moorline_spec::set(&mut value, &change);
            let file = moorline_spec::SourceFile::new("doc.yml", "name: abc\ntags: {a: b}\n");
            let _ = moorline_spec::load::<OnlineEndpoint>(&file, &[change]);
        }
    }
}
