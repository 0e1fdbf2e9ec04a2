//! The model as a graph of tensors with fixed shapes: every size is known before anything is planned.

use std::collections::{HashMap, HashSet};

use super::{
    constant::Constant,
    error::OnnxError,
    infer_shape::{Facts, infer},
    proto::{Dimension, DimensionValue, GraphProto, NodeProto, TensorShape, TypeKind, ValueInfo},
    read::Model,
};

/// More than any memory holds; below it, sizes can be multiplied without a second thought.
const MOST_ELEMENTS: usize = 1 << 40;

/// A tensor of the graph, by its place in [`Graph::tensors`].
pub(crate) type TensorId = usize;

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) facts: Facts,
    /// The node that gives it; nothing for inputs and initializers.
    pub(crate) producer: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) proto: NodeProto,
    /// `None` is an optional input that is left out.
    pub(crate) inputs: Vec<Option<TensorId>>,
    pub(crate) outputs: Vec<Option<TensorId>>,
    /// What graphs inside of the node use from outside of them.
    pub(crate) captured: Vec<TensorId>,
    /// Whether the shape of its result follows from its inputs by a rule of ours, and is not only what the model says.
    pub(crate) fits: bool,
}

impl Node {
    /// Everything that must be there before it runs.
    pub(crate) fn needs(&self) -> impl Iterator<Item = TensorId> {
        self.inputs.iter().flatten().chain(&self.captured).copied()
    }

    pub(crate) fn gives(&self) -> impl Iterator<Item = TensorId> {
        self.outputs.iter().flatten().copied()
    }
}

/// The first dimension, as the model states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    Fixed,
    /// Any, under the name that the model has for it.
    Open {
        name: Option<String>,
    },
}

/// A model for one size of batch.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub(crate) tensors: Vec<Tensor>,
    /// Each after those whose outputs it takes.
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<TensorId>,
    pub(crate) outputs: Vec<TensorId>,
    pub(crate) batch: Batch,
}

impl Graph {
    /// The model with its open first dimension fixed at `batch`. Where one is open, everything must follow it row by
    /// row: then any number of rows is that many runs.
    pub(crate) fn new(model: &Model, batch: usize) -> Result<Self, OnnxError> {
        let (proto, batch) = (model.graph()?, batch.max(1));
        let mut constants = HashMap::new();
        for initializer in &proto.initializer {
            let (value, shape) = Constant::read(initializer)?;
            let facts = Facts { element: initializer.data_type, shape: Some(shape), constant: Some(value) };
            if constants.insert(initializer.name.clone(), facts).is_some() {
                return Err(OnnxError::Duplicate { tensor: initializer.name.clone() });
            }
        }
        let graph = Build::graph(proto, model.opset, &constants, batch)?;
        if graph.batch != Batch::Fixed {
            let other = Build::graph(proto, model.opset, &constants, 2 * batch)?;
            graph.check_rows(&other, batch)?;
        }
        Ok(graph)
    }

    pub(crate) fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id]
    }

    pub(crate) fn shape(&self, id: TensorId) -> Option<&[usize]> {
        self.tensors[id].facts.shape.as_deref()
    }

    pub(crate) fn is_constant(&self, id: TensorId) -> bool {
        self.tensors[id].facts.constant.is_some()
    }

    /// Holds every tensor against the same graph for twice the rows.
    fn check_rows(&self, other: &Self, batch: usize) -> Result<(), OnnxError> {
        for (tensor, twin) in self.tensors.iter().zip(&other.tensors) {
            if tensor.facts.constant.is_some() {
                continue;
            }
            let follows = match (tensor.facts.shape.as_deref(), twin.facts.shape.as_deref()) {
                (Some([rows, rest @ ..]), Some([twice, others @ ..])) => {
                    rows % batch == 0 && *twice == 2 * rows && rest == others
                }
                _ => false,
            };
            if !follows {
                return Err(OnnxError::Batch { tensor: tensor.name.clone() });
            }
        }
        let across_rows = |node: &&Node| {
            let axis = node.proto.attribute("axis").map(|attribute| attribute.i.unwrap_or_default());
            let rank =
                node.inputs.first().copied().flatten().and_then(|id| self.shape(id)).map_or(0, <[_]>::len);
            axis == Some(0) || axis.is_some_and(|axis| axis + rank as i64 == 0)
        };
        let dynamic = |node: &&Node| node.gives().any(|id| !self.is_constant(id));
        match self.nodes.iter().filter(dynamic).find(across_rows) {
            Some(node) => Err(OnnxError::Batch { tensor: node.proto.label().to_owned() }),
            None => Ok(()),
        }
    }
}

struct Build {
    tensors: Vec<Tensor>,
    by_name: HashMap<String, TensorId>,
}

impl Build {
    fn graph(
        proto: &GraphProto,
        opset: i64,
        constants: &HashMap<String, Facts>,
        batch: usize,
    ) -> Result<Graph, OnnxError> {
        let mut build = Self { tensors: Vec::new(), by_name: HashMap::new() };
        for initializer in &proto.initializer {
            let facts = constants.get(&initializer.name).cloned().unwrap_or_default();
            build.add(&initializer.name, facts, None)?;
        }
        let mut open = Batch::Fixed;
        let mut inputs = Vec::new();
        // Before version 4 of the format, initializers were inputs with a default as well.
        for input in proto.input.iter().filter(|input| !constants.contains_key(&input.name)) {
            inputs.push(build.input(input, batch, &mut open)?);
        }
        let name = match &open {
            Batch::Open { name } => name.clone(),
            Batch::Fixed => None,
        };
        let declared: HashMap<&str, Facts> = proto
            .value_info
            .iter()
            .chain(&proto.output)
            .filter_map(|info| Some((info.name.as_str(), declared(info, name.as_deref(), batch)?)))
            .collect();
        let mut nodes = Vec::with_capacity(proto.node.len());
        for node in &proto.node {
            nodes.push(build.node(node, nodes.len(), opset, &declared)?);
        }
        let find = |info: &ValueInfo| {
            build.by_name.get(&info.name).copied().ok_or_else(|| OnnxError::Dangling {
                node: "the output of the model".to_owned(),
                tensor: info.name.clone(),
            })
        };
        let outputs = proto.output.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Graph { tensors: build.tensors, nodes, inputs, outputs, batch: open })
    }

    fn add(&mut self, name: &str, facts: Facts, producer: Option<usize>) -> Result<TensorId, OnnxError> {
        let id = self.tensors.len();
        let most =
            |shape: &[usize]| shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        if facts.shape.as_deref().is_some_and(|shape| most(shape).is_none_or(|count| count > MOST_ELEMENTS)) {
            return Err(OnnxError::Shape { tensor: name.to_owned(), shape: facts.shape.unwrap_or_default() });
        }
        if self.by_name.insert(name.to_owned(), id).is_some() {
            return Err(OnnxError::Duplicate { tensor: name.to_owned() });
        }
        self.tensors.push(Tensor { name: name.to_owned(), facts, producer });
        Ok(id)
    }

    fn input(&mut self, input: &ValueInfo, batch: usize, open: &mut Batch) -> Result<TensorId, OnnxError> {
        let not_a_tensor = || OnnxError::NotATensor { input: input.name.clone() };
        let Some(TypeKind::Tensor(tensor)) =
            input.r#type.as_ref().and_then(|declared| declared.value.as_ref())
        else {
            return Err(not_a_tensor());
        };
        let shape = tensor.shape.as_ref().ok_or_else(|| OnnxError::DynamicDimension {
            input: input.name.clone(),
            dimension: "rank".to_owned(),
        })?;
        let mut fixed = Vec::with_capacity(shape.dim.len());
        for (axis, dim) in shape.dim.iter().enumerate() {
            match (size(dim), axis) {
                (Some(size), _) => fixed.push(size),
                (None, 0) => {
                    *open = Batch::Open { name: name(dim) };
                    fixed.push(batch);
                }
                (None, _) => {
                    return Err(OnnxError::DynamicDimension {
                        input: input.name.clone(),
                        dimension: name(dim).unwrap_or_else(|| axis.to_string()),
                    });
                }
            }
        }
        self.add(&input.name, Facts { element: tensor.elem_type, shape: Some(fixed), constant: None }, None)
    }

    fn node(
        &mut self,
        node: &NodeProto,
        index: usize,
        opset: i64,
        declared: &HashMap<&str, Facts>,
    ) -> Result<Node, OnnxError> {
        let find = |name: &String| match self.by_name.get(name) {
            Some(&id) => Ok(Some(id)),
            None if name.is_empty() => Ok(None),
            None => Err(OnnxError::Dangling { node: node.label().to_owned(), tensor: name.clone() }),
        };
        let inputs: Vec<Option<TensorId>> = node.input.iter().map(find).collect::<Result<_, _>>()?;
        let mut captured = Vec::new();
        for graph in node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
            // A name that is not known here is one of the inner graph's outer graphs that does not exist, which the
            // engine on the CPU says best.
            captured.extend(outer_names(graph).iter().filter_map(|name| self.by_name.get(*name).copied()));
        }
        let given: Vec<Option<&Facts>> =
            inputs.iter().map(|id| id.map(|id| &self.tensors[id].facts)).collect();
        let mut inferred = infer(node, &given, opset);
        let fits = inferred.first().is_some_and(|facts| facts.shape.is_some());
        inferred.resize_with(node.output.len(), Facts::default);
        let mut outputs = Vec::with_capacity(node.output.len());
        for (name, mut facts) in node.output.iter().zip(inferred) {
            if name.is_empty() {
                outputs.push(None);
                continue;
            }
            if let Some(stated) = declared.get(name.as_str()) {
                facts.element = facts.element.or(stated.element);
                facts.shape = facts.shape.or_else(|| stated.shape.clone());
            }
            outputs.push(Some(self.add(name, facts, Some(index))?));
        }
        Ok(Node { proto: node.clone(), inputs, outputs, captured, fits })
    }
}

/// What a graph inside of a node takes from around it.
fn outer_names(graph: &GraphProto) -> HashSet<&str> {
    let mut own: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    own.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
    own.extend(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
    let mut used: HashSet<&str> =
        graph.node.iter().flat_map(|node| &node.input).map(String::as_str).collect();
    used.extend(graph.output.iter().map(|output| output.name.as_str()));
    let inner = graph.node.iter().flat_map(|node| &node.attribute);
    used.extend(
        inner.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)).flat_map(outer_names),
    );
    used.retain(|name| !name.is_empty() && !own.contains(name));
    used
}

fn size(dim: &Dimension) -> Option<usize> {
    match dim.value {
        Some(DimensionValue::Fixed(size)) => usize::try_from(size).ok(),
        _ => None,
    }
}

fn name(dim: &Dimension) -> Option<String> {
    match &dim.value {
        Some(DimensionValue::Named(name)) if !name.is_empty() => Some(name.clone()),
        _ => None,
    }
}

/// What the model states of a tensor: its shape only where every size is known.
fn declared(info: &ValueInfo, batch_name: Option<&str>, batch: usize) -> Option<Facts> {
    let Some(TypeKind::Tensor(tensor)) = info.r#type.as_ref()?.value.as_ref() else { return None };
    let fixed = |shape: &TensorShape| {
        let sizes = shape.dim.iter().map(|dim| match (&dim.value, batch_name) {
            (Some(DimensionValue::Named(name)), Some(batch_name)) if name == batch_name => Some(batch),
            _ => size(dim),
        });
        sizes.collect::<Option<Vec<usize>>>()
    };
    Some(Facts { element: tensor.elem_type, shape: tensor.shape.as_ref().and_then(fixed), constant: None })
}
