//! The string labels of classifiers: tract's classifiers know only numbers, so a node that names its classes numbers
//! them instead, and the names are put back here.

use std::collections::HashSet;

use moorline_core::{Tensor, TensorData};
use tract_onnx::pb::{AttributeProto, GraphProto, attribute_proto::AttributeType};

/// The classifiers of tract, each with its attribute for numbers.
const CLASSIFIERS: [(&str, &str); 2] =
    [("LinearClassifier", "classlabels_ints"), ("TreeEnsembleClassifier", "classlabels_int64s")];

/// The names of the classes whose numbers the graph gives.
#[derive(Clone, Debug)]
pub(super) struct Labels(Vec<String>);

/// Numbers the classes of every classifier whose label goes nowhere but out. Of each output in order: the names of
/// its classes, if it is such a label.
pub(super) fn number(graph: &mut GraphProto) -> Vec<Option<Labels>> {
    let mut labels = vec![None; graph.output.len()];
    for index in 0..graph.node.len() {
        let node = &graph.node[index];
        let Some((_, numbers)) = CLASSIFIERS.iter().find(|(op_type, _)| node.op_type == *op_type) else {
            continue;
        };
        let named = node
            .attribute
            .iter()
            .position(|attribute| attribute.name == "classlabels_strings" && !attribute.strings.is_empty());
        let (Some(named), Some(label)) = (named, node.output.first()) else { continue };
        let Some(ways_out) = ways_out(graph, label) else { continue };
        for (output, slot) in graph.output.iter().zip(&mut labels) {
            if ways_out.contains(&output.name) {
                let strings = node.attribute[named].strings.iter();
                let names = strings.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
                *slot = Some(Labels(names));
            }
        }
        let count = node.attribute[named].strings.len() as i64;
        graph.node[index].attribute[named] = AttributeProto {
            name: (*numbers).to_owned(),
            r#type: AttributeType::Ints.into(),
            ints: (0..count).collect(),
            ..AttributeProto::default()
        };
    }
    labels
}

/// The names under which `value` leaves the graph or passes through `Identity`; `None` if anything computes with it.
fn ways_out(graph: &GraphProto, value: &str) -> Option<HashSet<String>> {
    let mut names = HashSet::from([value.to_owned()]);
    let mut pending = vec![value.to_owned()];
    while let Some(name) = pending.pop() {
        for node in graph.node.iter().filter(|node| node.input.contains(&name)) {
            let passed_on = node.output.first().filter(|_| node.op_type == "Identity")?;
            if names.insert(passed_on.clone()) {
                pending.push(passed_on.clone());
            }
        }
    }
    Some(names)
}

impl Labels {
    /// The names of the classes in `tensor`. The reason of a failure continues "output `y` …".
    pub(super) fn apply(&self, tensor: Tensor) -> Result<Tensor, String> {
        let (shape, data) = tensor.into_parts();
        let TensorData::I64(numbers) = data else {
            return Err(format!("has data type {}, but classes are numbered with INT64", data.data_type()));
        };
        let name =
            |number: &i64| usize::try_from(*number).ok().and_then(|number| self.0.get(number)).cloned();
        let names: Option<Vec<String>> = numbers.iter().map(name).collect();
        let names = names.ok_or("names a class that the model does not have")?;
        Tensor::new(shape, names.into()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{NodeProto, ValueInfoProto};

    use super::*;

    fn node(op_type: &str, input: &str, output: &str) -> NodeProto {
        NodeProto {
            op_type: op_type.to_owned(),
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    fn graph(user: &str) -> GraphProto {
        let mut classifier = node("LinearClassifier", "x", "label");
        classifier.attribute.push(AttributeProto {
            name: "classlabels_strings".to_owned(),
            strings: vec![b"cat".to_vec(), b"dog".to_vec()],
            ..AttributeProto::default()
        });
        GraphProto {
            node: vec![classifier, node(user, "label", "output_label")],
            output: vec![ValueInfoProto { name: "output_label".to_owned(), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        }
    }

    #[test]
    fn a_label_that_only_passes_through_is_numbered_and_named_again() {
        let mut graph = graph("Identity");
        let labels = number(&mut graph);
        assert_eq!(graph.node[0].attribute[0].ints, [0, 1]);
        let named = labels[0].as_ref().unwrap();
        let numbers = |numbers: Vec<i64>| Tensor::new(vec![numbers.len()], numbers.into()).unwrap();
        let names = named.apply(numbers(vec![1, 0])).unwrap();
        assert_eq!(names.data(), &TensorData::String(vec!["dog".to_owned(), "cat".to_owned()]));
        assert!(named.apply(numbers(vec![2])).is_err());
    }

    #[test]
    fn a_label_that_is_computed_with_stays_as_it_is() {
        let mut graph = graph("Cast");
        assert!(number(&mut graph)[0].is_none());
        assert_eq!(graph.node[0].attribute[0].name, "classlabels_strings");
    }
}
