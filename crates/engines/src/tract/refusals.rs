//! What tract must not be given: operators that it lacks, and those that it takes but computes wrongly without a
//! word, because it passes over an attribute or an input. A refusal is better than a wrong answer.
//!
//! The list is of tract 0.23.9, found with the tests of ONNX's operators; look at it again with every new version.

use tract_onnx::{
    Onnx,
    pb::{AttributeProto, GraphProto, NodeProto, tensor_proto::DataType as RawType, type_proto},
};

/// The first node that is not to be run, in words; subgraphs included.
pub(super) fn find(onnx: &Onnx, graph: &GraphProto) -> Option<String> {
    graph.node.iter().find_map(|node| {
        let problem = if onnx.op_register.0.contains_key(&node.op_type) {
            wrong(node, graph).map(|what| format!("is computed wrongly by it with {what}"))
        } else {
            Some("is not supported by it".to_owned())
        };
        if let Some(problem) = problem {
            return Some(format!("operator {} {problem}; engine `ort` may run it", named(node)));
        }
        node.attribute
            .iter()
            .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
            .find_map(|inner| find(onnx, inner))
    })
}

/// The operator with its domain and its node; a node without a name is known by its output.
fn named(node: &NodeProto) -> String {
    let domain = if node.domain.is_empty() { "" } else { "." };
    let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
    format!("`{}{domain}{}` (node `{}`)", node.domain, node.op_type, name.map_or("", String::as_str))
}

/// What of `node` tract passes over, so that its answer is another than it should be.
fn wrong(node: &NodeProto, graph: &GraphProto) -> Option<String> {
    let int = |name, default| attribute(node, name).map_or(default, |attribute| attribute.i);
    let text =
        |name| attribute(node, name).map(|attribute| String::from_utf8_lossy(&attribute.s).into_owned());
    match node.op_type.as_str() {
        "RNN" | "GRU" | "LSTM" => {
            // The direction is taken from the number of weights, so that `reverse` runs forward.
            if text("direction").is_some_and(|direction| direction.eq_ignore_ascii_case("reverse")) {
                return Some("attribute `direction` = reverse".to_owned());
            }
            if int("input_forget", 0) != 0 {
                return Some("attribute `input_forget`".to_owned());
            }
            if attribute(node, "clip").is_some_and(|clip| clip.f > 0.0) {
                return Some("attribute `clip`".to_owned());
            }
            other_activations(node).then(|| "attribute `activations`".to_owned())
        }
        // The window is passed over, and so is the offset that a cache gives the causal mask.
        "Attention" => {
            if let Some(window) =
                ["left_window_size", "right_window_size"].into_iter().find(|name| int(name, -1) >= 0)
            {
                return Some(format!("attribute `{window}`"));
            }
            let has_past = node.input.get(4).is_some_and(|past| !past.is_empty());
            (int("is_causal", 0) != 0 && has_past)
                .then(|| "attribute `is_causal` and input `past_key` together".to_owned())
        }
        // It shifts the other way by a negative number, and wraps a large one; only signed integers allow these.
        "BitShift" => {
            use RawType::{Int8, Int16, Int32, Int64};
            let signed = node
                .input
                .iter()
                .filter_map(|name| declared_type(graph, name))
                .any(|raw| [Int8, Int16, Int32, Int64].contains(&raw));
            signed.then(|| "inputs of signed integers".to_owned())
        }
        // The factor is left out: before the exponential of the one, before the logistic function of the other.
        "Celu" | "Swish" => attribute(node, "alpha")
            .is_some_and(|alpha| alpha.f != 1.0)
            .then(|| "attribute `alpha` other than 1".to_owned()),
        "SpaceToDepth" => {
            text("mode").filter(|mode| mode == "CRD").map(|_| "attribute `mode` = CRD".to_owned())
        }
        _ => None,
    }
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

/// Whether the gates are to use other functions than the usual ones, which tract always uses.
fn other_activations(node: &NodeProto) -> bool {
    let usual: &[&str] = match node.op_type.as_str() {
        "RNN" => &["tanh"],
        "GRU" => &["sigmoid", "tanh"],
        _ => &["sigmoid", "tanh", "tanh"],
    };
    let stated = attribute(node, "activations").map_or(&[][..], |attribute| &attribute.strings);
    // Two directions state theirs one after the other.
    stated
        .iter()
        .zip(usual.iter().cycle())
        .any(|(stated, usual)| !stated.eq_ignore_ascii_case(usual.as_bytes()))
}

/// The element type that the file states for a value.
fn declared_type(graph: &GraphProto, name: &str) -> Option<RawType> {
    let initializer = graph.initializer.iter().find(|initializer| initializer.name == name);
    let declared = || {
        let mut infos = graph.input.iter().chain(&graph.value_info).chain(&graph.output);
        let type_proto::Value::TensorType(tensor) =
            infos.find(|info| info.name == name)?.r#type.as_ref()?.value.as_ref()?;
        Some(tensor.elem_type)
    };
    let raw = initializer.map(|initializer| initializer.data_type).or_else(declared)?;
    RawType::try_from(raw).ok()
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{TensorProto, TypeProto, ValueInfoProto};

    use super::*;

    fn node(op_type: &str, attributes: impl IntoIterator<Item = AttributeProto>) -> NodeProto {
        NodeProto {
            name: "n".to_owned(),
            op_type: op_type.to_owned(),
            input: vec!["x".to_owned()],
            attribute: attributes.into_iter().collect(),
            ..NodeProto::default()
        }
    }

    fn int(name: &str, i: i64) -> AttributeProto {
        AttributeProto { name: name.to_owned(), i, ..AttributeProto::default() }
    }

    fn float(name: &str, f: f32) -> AttributeProto {
        AttributeProto { name: name.to_owned(), f, ..AttributeProto::default() }
    }

    fn text(name: &str, s: &str) -> AttributeProto {
        AttributeProto { name: name.to_owned(), s: s.into(), ..AttributeProto::default() }
    }

    fn texts(name: &str, strings: &[&str]) -> AttributeProto {
        let strings = strings.iter().map(|text| text.as_bytes().to_vec()).collect();
        AttributeProto { name: name.to_owned(), strings, ..AttributeProto::default() }
    }

    fn reason(node: NodeProto) -> Option<String> {
        find(&tract_onnx::onnx(), &GraphProto { node: vec![node], ..GraphProto::default() })
    }

    #[test]
    fn what_tract_passes_over_is_refused_by_name() {
        let mut cached = node("Attention", [int("is_causal", 1)]);
        cached.input = ["q", "k", "v", "", "past_key"].map(str::to_owned).to_vec();
        let cases = [
            (node("GRU", [text("direction", "reverse")]), "`direction` = reverse"),
            (node("LSTM", [int("input_forget", 1)]), "`input_forget`"),
            (node("RNN", [float("clip", 3.0)]), "`clip`"),
            (node("RNN", [texts("activations", &["Relu"])]), "`activations`"),
            (node("GRU", [texts("activations", &["Sigmoid", "Tanh", "Sigmoid", "Relu"])]), "`activations`"),
            (node("Attention", [int("left_window_size", 2)]), "`left_window_size`"),
            (cached, "`is_causal` and input `past_key`"),
            (node("Celu", [float("alpha", 2.0)]), "`alpha`"),
            (node("Swish", [float("alpha", 0.5)]), "`alpha`"),
            (node("SpaceToDepth", [text("mode", "CRD")]), "`mode` = CRD"),
        ];
        for (node, expected) in cases {
            let operator = format!("operator `{}` (node `n`) is computed wrongly", node.op_type);
            let reason = reason(node).unwrap();
            assert!(reason.starts_with(&operator) && reason.contains(expected), "{reason}");
            assert!(reason.ends_with("engine `ort` may run it"), "{reason}");
        }
    }

    #[test]
    fn what_tract_computes_rightly_is_not_refused() {
        let fine = [
            node("GRU", [text("direction", "bidirectional"), texts("activations", &["Sigmoid", "Tanh"])]),
            node("LSTM", [texts("activations", &["Sigmoid", "Tanh", "Tanh"])]),
            node("Attention", [int("is_causal", 1), int("left_window_size", -1)]),
            node("BitShift", []),
            node("Celu", [float("alpha", 1.0)]),
            node("SpaceToDepth", [text("mode", "DCR")]),
        ];
        for node in fine {
            assert_eq!(reason(node), None);
        }
    }

    #[test]
    fn signed_shifts_are_known_by_the_declared_type() {
        let graph = |raw: RawType| {
            let tensor = type_proto::Tensor { elem_type: raw.into(), ..type_proto::Tensor::default() };
            let declared =
                TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
            GraphProto {
                node: vec![node("BitShift", [])],
                input: vec![ValueInfoProto {
                    name: "x".to_owned(),
                    r#type: Some(declared),
                    ..ValueInfoProto::default()
                }],
                ..GraphProto::default()
            }
        };
        let onnx = tract_onnx::onnx();
        assert!(find(&onnx, &graph(RawType::Int32)).is_some());
        assert_eq!(find(&onnx, &graph(RawType::Uint32)), None);
        let mut constant = graph(RawType::Uint8);
        constant.input.clear();
        constant.initializer.push(TensorProto {
            name: "x".to_owned(),
            data_type: RawType::Int8.into(),
            ..TensorProto::default()
        });
        assert!(find(&onnx, &constant).is_some());
    }

    #[test]
    fn subgraphs_are_searched_too() {
        let inner = GraphProto { node: vec![node("NoSuchOperator", [])], ..GraphProto::default() };
        let branch =
            AttributeProto { name: "then_branch".to_owned(), g: Some(inner), ..AttributeProto::default() };
        let reason = reason(node("If", [branch])).unwrap();
        assert_eq!(
            reason,
            "operator `NoSuchOperator` (node `n`) is not supported by it; engine `ort` may run it"
        );
    }
}
