//! Small ONNX models, written by the tests themselves so that shapes can be random.

use std::path::{Path, PathBuf};

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, tag = "2")]
    f: f32,
    #[prost(int64, tag = "3")]
    i: i64,
    #[prost(string, tag = "4")]
    s: String,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, optional, tag = "1")]
    size: Option<i64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

/// The value of an attribute.
pub(crate) enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [usize]),
    Text(&'a str),
}

/// A model in the making.
pub(crate) struct Net {
    graph: GraphProto,
    opset: i64,
}

const FLOAT: i32 = 1;
const INT64: i32 = 7;

impl Net {
    pub(crate) fn new(opset: i64) -> Self {
        Self { graph: GraphProto { name: "test".to_owned(), ..GraphProto::default() }, opset }
    }

    fn value(name: &str, elem_type: i32, shape: Option<Shape>) -> ValueInfo {
        let kind = Some(TypeProto { tensor: Some(TensorType { elem_type, shape }) });
        ValueInfo { name: name.to_owned(), kind }
    }

    pub(crate) fn input(&mut self, name: &str, shape: &[usize]) {
        self.typed_input(name, FLOAT, shape);
    }

    pub(crate) fn typed_input(&mut self, name: &str, element: i32, shape: &[usize]) {
        let dim = shape.iter().map(|&size| Dim { size: Some(size as i64), name: None }).collect();
        self.graph.input.push(Self::value(name, element, Some(Shape { dim })));
    }

    /// An input some of whose dimensions have names instead of sizes.
    pub(crate) fn open_input(&mut self, name: &str, shape: &[Result<usize, &str>]) {
        let dim = |dim: &Result<usize, &str>| Dim {
            size: dim.ok().map(|size| size as i64),
            name: dim.err().map(str::to_owned),
        };
        let dim = shape.iter().map(dim).collect();
        self.graph.input.push(Self::value(name, FLOAT, Some(Shape { dim })));
    }

    pub(crate) fn output(&mut self, name: &str) {
        self.graph.output.push(Self::value(name, FLOAT, None));
    }

    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], floats: &[f32]) {
        let raw = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        self.constant(name, FLOAT, shape, raw);
    }

    pub(crate) fn ints(&mut self, name: &str, ints: &[i64]) {
        let raw = ints.iter().flat_map(|int| int.to_le_bytes()).collect();
        self.constant(name, INT64, &[ints.len()], raw);
    }

    /// Codes of 8 bits.
    pub(crate) fn codes(&mut self, name: &str, shape: &[usize], codes: &[i32], signed: bool) {
        let raw = codes.iter().map(|code| code.to_le_bytes()[0]).collect();
        self.constant(name, if signed { 3 } else { 2 }, shape, raw);
    }

    pub(crate) fn int32s(&mut self, name: &str, ints: &[i32]) {
        let raw = ints.iter().flat_map(|int| int.to_le_bytes()).collect();
        self.constant(name, 6, &[ints.len()], raw);
    }

    /// An output of codes of 8 bits.
    pub(crate) fn code_output(&mut self, name: &str, signed: bool) {
        self.graph.output.push(Self::value(name, if signed { 3 } else { 2 }, None));
    }

    fn constant(&mut self, name: &str, data_type: i32, shape: &[usize], raw_data: Vec<u8>) {
        let dims = shape.iter().map(|&size| size as i64).collect();
        self.graph.initializer.push(TensorProto { dims, data_type, name: name.to_owned(), raw_data });
    }

    pub(crate) fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Attribute<'_>)],
    ) {
        let attribute = |(name, value): &(&str, Attribute<'_>)| {
            let mut attribute = AttributeProto { name: (*name).to_owned(), ..AttributeProto::default() };
            match value {
                Attribute::Float(f) => (attribute.f, attribute.kind) = (*f, 1),
                Attribute::Int(i) => (attribute.i, attribute.kind) = (*i, 2),
                Attribute::Text(s) => (attribute.s, attribute.kind) = ((*s).to_owned(), 3),
                Attribute::Ints(ints) => {
                    attribute.ints = ints.iter().map(|&int| int as i64).collect();
                    attribute.kind = 7;
                }
            }
            attribute
        };
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            op_type: op.to_owned(),
            attribute: attributes.iter().map(attribute).collect(),
        });
    }

    /// Writes the model to `folder`.
    pub(crate) fn save(self, folder: &Path) -> PathBuf {
        let model = ModelProto {
            ir_version: 4,
            graph: Some(self.graph),
            opset_import: vec![Opset { domain: String::new(), version: self.opset }],
        };
        let path = folder.join("model.onnx");
        fs_err::write(&path, model.encode_to_vec()).unwrap();
        path
    }
}
