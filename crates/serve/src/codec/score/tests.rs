//! `/score` bodies, right and wrong, with the texts that clients see.

use super::*;
use crate::codec::fixtures::{one, several, spec};
use moorline_core::{DataType, ErrorClass, TensorData};

fn read(body: &str, signature: &Signature) -> Result<ScoreRequest, CodecError> {
    decode(body.as_bytes(), signature, Limits::default(), Door::Score)
}

fn shape_and_data(request: &ScoreRequest, name: &str) -> (Vec<usize>, TensorData) {
    let Some(Value::Tensor(tensor)) = request.inputs.get(name) else { panic!("no tensor `{name}`") };
    tensor.clone().into_parts()
}

#[test]
fn every_form_is_read_and_answered_in_kind() {
    let forms = [
        (r#"{"data":[[1,2,3]]}"#, Style::Bare),
        (r#"{"data":{"x":[[1,2,3]]}}"#, Style::Bare),
        (r#"{"data":[1,2,3]}"#, Style::Bare),
        (r#"{"method":"predict","data":[[1,2,3]]}"#, Style::Bare),
        (r#"{"input_data":[[1,2,3]]}"#, Style::Bare),
        (r#"{"input_data":{"x":[[1,2,3]]}}"#, Style::Bare),
        (r#"{"input_data":{"columns":["a","b","c"],"index":[0],"data":[[1,2,3]]}}"#, Style::Bare),
        (r#"{"input_data":{"data":[[1,2,3]],"columns":["a","b","c"]}}"#, Style::Bare),
        (r#"{"inputs":{"x":[[1,2,3]]}}"#, Style::Outputs),
        (r#"{"inputs":[[1,2,3]]}"#, Style::Outputs),
        (r#"{"instances":[[1,2,3]]}"#, Style::Predictions),
        (r#"{"instances":[{"x":[1,2,3]}],"params":{}}"#, Style::Predictions),
        (r#"{"dataframe_split":{"columns":[0,1,2],"data":[[1,2,3]]}}"#, Style::Predictions),
        (r#"{"dataframe_records":[{"a":1,"b":2,"c":3}]}"#, Style::Predictions),
        ("\u{feff} {\"data\" :\n[ [1 ,\t2, 3.0 ] ] } ", Style::Bare),
    ];
    for (body, style) in forms {
        let request = read(body, &one()).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(shape_and_data(&request, "x"), (vec![1, 3], vec![1.0_f32, 2.0, 3.0].into()), "{body}");
        assert_eq!(request.style, style, "{body}");
        let request = decode(body.as_bytes(), &one(), Limits::default(), Door::Invocations).unwrap();
        assert_eq!(request.style, Style::Predictions, "{body}");
    }
}

#[test]
fn several_inputs_are_read_by_name_or_by_position() {
    let forms = [
        r#"{"data":[[31,"Oslo"],[40,"Rome"]]}"#,
        r#"{"inputs":{"age":[31,40],"town":[["Oslo"],["Rome"]]}}"#,
        r#"{"input_data":{"columns":["town","age"],"data":[["Oslo",31],["Rome",40]]}}"#,
        r#"{"dataframe_records":[{"age":31,"town":"Oslo"},{"town":"Rome","age":40}]}"#,
    ];
    for body in forms {
        let request = read(body, &several()).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(shape_and_data(&request, "age"), (vec![2, 1], vec![31_i64, 40].into()), "{body}");
        let towns = vec!["Oslo".to_owned(), "Rome".to_owned()];
        assert_eq!(shape_and_data(&request, "town"), (vec![2, 1], towns.into()), "{body}");
    }
}

#[test]
fn records_in_another_order_keep_the_columns() {
    let request = read(r#"{"data":[{"a":1,"b":2,"c":3},{"c":6,"a":4,"b":5}]}"#, &one()).unwrap();
    let expected = vec![1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(shape_and_data(&request, "x"), (vec![2, 3], expected.into()));
}

#[test]
fn an_input_called_like_a_part_of_a_table_is_still_an_input() {
    let signature = Signature { inputs: vec![spec("data", DataType::F32, &[-1, 1])], outputs: Vec::new() };
    let request = read(r#"{"input_data":{"data":[[7]]}}"#, &signature).unwrap();
    assert_eq!(shape_and_data(&request, "data"), (vec![1, 1], vec![7.0_f32].into()));
    let request = read(r#"{"input_data":{"columns":["a"],"data":[[7]]}}"#, &signature).unwrap();
    assert_eq!(shape_and_data(&request, "data"), (vec![1, 1], vec![7.0_f32].into()));
}

#[test]
fn shapes_are_fitted_only_where_it_is_plain() {
    let cases: [(&[i64], &str, &[usize]); 9] = [
        (&[-1, 3], "[1,2,3]", &[1, 3]),
        (&[-1, 1], "[1,2,3]", &[3, 1]),
        (&[-1], "[[1],[2]]", &[2]),
        (&[-1], "5", &[1]),
        (&[], "[5]", &[]),
        (&[1, 2, 2], "[[1,2],[3,4]]", &[1, 2, 2]),
        (&[-1, 3], "[]", &[0, 3]),
        (&[-1, -1, 2], "[[],[]]", &[2, 0, 2]),
        (&[1, 1], "[5]", &[1, 1]),
    ];
    for (declared, data, expected) in cases {
        let signature = Signature { inputs: vec![spec("x", DataType::F32, declared)], outputs: Vec::new() };
        let request = read(&format!("{{\"data\":{data}}}"), &signature).unwrap();
        assert_eq!(shape_and_data(&request, "x").0, expected, "{data} as {declared:?}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let cases = [
        ("", "the body is not valid JSON: it ends too early at line 1 column 1"),
        ("nope", "the body is not valid JSON: expected a value at line 1 column 1"),
        (
            r#"{"data":[[1,2,3]]} x"#,
            "the body is not valid JSON: characters after its end at line 1 column 20",
        ),
        (r#"{"data":[[1,2,3],]}"#, "the body is not valid JSON: expected a value at line 1 column 18"),
        (r#"{"data":[[01,2,3]]}"#, "the body is not valid JSON: a number begins with 0 at line 1 column 11"),
        (
            r#"{"data":[[1,2,NaN]]}"#,
            "the body is not valid JSON: NaN and Infinity are not JSON values; send null at line 1 column 15",
        ),
        ("{\"data\":\n [[1,2,\n\"a\"]]}", "input `x`[0][2]: expected FP32, found a string (line 3 column 1)"),
        (r#"{"data":[[1,2,true]]}"#, "input `x`[0][2]: expected FP32, found true (line 1 column 15)"),
        (
            r#"{"data":[[1,2,1e999]]}"#,
            "input `x`[0][2]: 1e999 is out of the range of FP32 (line 1 column 15)",
        ),
        (
            r#"{"data":[[1,2,-1e39]]}"#,
            "input `x`[0][2]: -1e39 is out of the range of FP32 (line 1 column 15)",
        ),
        (r#"{"data":[[1,2]]}"#, "input `x` has shape [1, 2], but the model takes [?, 3]"),
        (
            r#"{"data":[[1,2,3],[4,5]]}"#,
            "input `x`[1]: a list of 2 elements where the ones before it have 3 (line 1 column 23)",
        ),
        (
            r#"{"data":[[1,2,3],4]}"#,
            "input `x`[1]: expected a list, as before it, found 4 (line 1 column 18)",
        ),
        (
            r#"{"data":[[1,2,[3]]]}"#,
            "input `x`[0][2]: expected a single value, as before it, found a list (line 1 column 15)",
        ),
        (r#"{"data":[[1,2,3]],"data":[]}"#, "the body has `data` twice"),
        (r#"{"data":[[1,2,3]],"inputs":[]}"#, "the body has both `data` and `inputs`; send one of them"),
        (r#"{"inputs":{"x":[[1,2,3]],"x":[]}}"#, "input `x` is given twice"),
        (r#"{"inputs":{"z":[[1,2,3]]}}"#, "input `z` is unknown; the model takes `x`"),
        (r#"{"inputs":{}}"#, "input `x` is missing"),
        (r#"{"dataframe_split":{"columns":["a"]}}"#, "the table has no `data`"),
        (
            r#"{"dataframe_split":{"columns":["a","b"],"data":[[1,2,3]]}}"#,
            "input `x`[0]: a row of 3 cells where 2 columns are expected (line 1 column 49)",
        ),
        (r#"{"data":[{"a":1,"b":2,"c":3},{"a":1,"b":2}]}"#, "row 1 has no `c`"),
        (r#"{"data":[{"a":1,"b":2,"c":3},{"d":1}]}"#, "row 1 has `d`, which the first row has not"),
        (r#"{"data":[{"a":1,"b":2,"c":3},{"a":1,"b":2,"a":3}]}"#, "row 1 has `a` twice"),
    ];
    for (body, message) in cases {
        let error = read(body, &one()).unwrap_err();
        assert_eq!(error.to_string(), message, "{body}");
        assert_eq!(error.class(), ErrorClass::InvalidInput, "{body}");
    }
    let expected = "expected an object with one of `data`, `input_data`, `inputs`, `instances`, \
                    `dataframe_split` and `dataframe_records`";
    assert_eq!(read("[1]", &one()).unwrap_err().to_string(), format!("the body is a list; {expected}"));
    assert_eq!(read("{}", &one()).unwrap_err().to_string(), format!("the body has no payload; {expected}"));
}

#[test]
fn elements_keep_to_their_data_type() {
    let cases = [
        (
            r#"{"data":[[1.5,"a"]]}"#,
            "input `age`[0][0]: 1.5 is not an integer, as INT64 needs (line 1 column 11)",
        ),
        (
            r#"{"data":[[9223372036854775808,"a"]]}"#,
            "input `age`[0][0]: 9223372036854775808 is out of the range of INT64 (line 1 column 11)",
        ),
        (r#"{"data":[[null,"a"]]}"#, "input `age`[0][0]: expected INT64, found null (line 1 column 11)"),
        (r#"{"data":[[1,2]]}"#, "input `town`[0][1]: expected BYTES, found 2 (line 1 column 13)"),
        (r#"{"data":[[1,null]]}"#, "input `town`[0][1]: expected BYTES, found null (line 1 column 13)"),
        (
            r#"{"data":[[1]]}"#,
            "input `age`[0]: a row of 1 cells where 2 columns are expected (line 1 column 10)",
        ),
        (
            r#"{"data":[[1,"a"],[[2],"b"]]}"#,
            "input `age`[1][0]: a cell of shape [1] where the ones before it have [] (line 1 column 19)",
        ),
        (
            r#"{"input_data":{"columns":["town","agee"],"data":[["a",1]]}}"#,
            "input `agee` is unknown; the model takes `age` and `town`",
        ),
        (r#"{"data":5}"#, "`data` is 5, but the model takes several inputs; expected a list or an object"),
    ];
    for (body, message) in cases {
        assert_eq!(read(body, &several()).unwrap_err().to_string(), message, "{body}");
    }
    let request = read(r#"{"data":[[2.0,"a"],[-1e3,"b"],[-0,"\ud83d\ude00"]]}"#, &several()).unwrap();
    assert_eq!(shape_and_data(&request, "age").1, vec![2_i64, -1000, 0].into());
    let flags = Signature { inputs: vec![spec("x", DataType::Bool, &[-1])], outputs: Vec::new() };
    let request = read(r#"{"data":[true,false,1,0]}"#, &flags).unwrap();
    assert_eq!(shape_and_data(&request, "x").1, vec![true, false, true, false].into());
    assert!(read(r#"{"data":[2]}"#, &flags).is_err());
}

#[test]
fn nesting_without_end_is_refused_at_the_bound() {
    let mut body = br#"{"data":"#.to_vec();
    body.resize(100_000_000, b'[');
    let error = decode(&body, &one(), Limits::default(), Door::Score).unwrap_err();
    assert_eq!(error.to_string(), "the JSON nests deeper than 64 levels at line 1 column 72");
    assert_eq!(error.class(), ErrorClass::TooLarge);
    body[2..6].copy_from_slice(b"none");
    assert_eq!(decode(&body, &one(), Limits::default(), Door::Score).unwrap_err(), error);
}

#[test]
fn answers_are_written_in_each_style() {
    let mut outputs = Tensors::new();
    let label = Tensor::new(vec![2], vec!["a\"b".to_owned(), "c".to_owned()].into()).unwrap();
    outputs.push("label", label);
    let text = |outputs: &Tensors, style| String::from_utf8(encode(outputs, style)).unwrap();
    assert_eq!(text(&outputs, Style::Bare), r#"["a\"b","c"]"#);
    assert_eq!(text(&outputs, Style::Outputs), r#"{"outputs":{"label":["a\"b","c"]}}"#);
    assert_eq!(text(&outputs, Style::Predictions), r#"{"predictions":["a\"b","c"]}"#);
    let values = vec![0.25_f32, f32::NAN, f32::INFINITY, 1e20];
    let values = Tensor::new(vec![2, 2], values.into()).unwrap();
    outputs.push("odds", Value::Maps(Maps { keys: MapKeys::I64(vec![0, 1]), values }));
    let sequence = [vec![1_i64], vec![2, 3]].map(|data| Tensor::new(vec![data.len()], data.into()).unwrap());
    outputs.push("sequence", Value::Sequence(sequence.to_vec()));
    assert_eq!(
        text(&outputs, Style::Bare),
        r#"{"label":["a\"b","c"],"odds":[{"0":0.25,"1":null},{"0":null,"1":1e+20}],"sequence":[[1],[2,3]]}"#
    );
}
