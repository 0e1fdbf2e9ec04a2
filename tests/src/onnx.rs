//! A writer of small ONNX models, so that tests need no Python to have one: just enough of `onnx.proto`, field
//! numbers as published in the format's specification.

/// Element types by their number in `TensorProto.DataType`.
pub mod element {
    pub const FLOAT: u64 = 1;
    pub const UINT8: u64 = 2;
    pub const INT8: u64 = 3;
    pub const UINT16: u64 = 4;
    pub const INT16: u64 = 5;
    pub const INT32: u64 = 6;
    pub const INT64: u64 = 7;
    pub const STRING: u64 = 8;
    pub const BOOL: u64 = 9;
    pub const FLOAT16: u64 = 10;
    pub const DOUBLE: u64 = 11;
    pub const UINT32: u64 = 12;
    pub const UINT64: u64 = 13;
    pub const BFLOAT16: u64 = 16;
}

/// A protobuf message being written.
#[derive(Clone, Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            self.0.push(if value == 0 { low } else { low | 0x80 });
            if value == 0 {
                return;
            }
        }
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    fn floats(self, field: u64, values: &[f32]) -> Self {
        let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, &packed)
    }
}

/// The type of a graph's input or output.
#[derive(Clone, Debug)]
pub enum OnnxType {
    /// A dimension without a size is dynamic and called `batch`.
    Tensor(u64, Vec<Option<u64>>),
    /// A sequence of tensors whose shape is not told.
    Sequence(u64),
    /// A sequence of maps from an element type to floats.
    Maps(u64),
}

impl OnnxType {
    /// A tensor whose first dimension is dynamic.
    pub fn rows(element: u64, columns: &[u64]) -> Self {
        Self::Tensor(element, std::iter::once(None).chain(columns.iter().copied().map(Some)).collect())
    }

    fn message(&self) -> Message {
        match self {
            Self::Tensor(element, shape) => {
                let mut dims = Message::default();
                for size in shape {
                    let dim = match size {
                        Some(size) => Message::default().number(1, *size),
                        None => Message::default().text(2, "batch"),
                    };
                    dims = dims.message(1, &dim);
                }
                Message::default().message(1, &Message::default().number(1, *element).message(2, &dims))
            }
            Self::Sequence(element) => {
                let tensor = Message::default().message(1, &Message::default().number(1, *element));
                Message::default().message(4, &Message::default().message(1, &tensor))
            }
            Self::Maps(key) => {
                let float = Message::default().message(1, &Message::default().number(1, element::FLOAT));
                let map = Message::default().number(1, *key).message(2, &float);
                let map = Message::default().message(5, &map);
                Message::default().message(4, &Message::default().message(1, &map))
            }
        }
    }
}

/// The value of a node's attribute.
#[derive(Clone, Debug)]
pub enum Attribute {
    Int(i64),
    Text(&'static str),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
}

impl Attribute {
    fn message(&self, name: &str) -> Message {
        let message = Message::default().text(1, name);
        match self {
            Self::Int(value) => message.number(3, value.cast_unsigned()).number(20, 2),
            Self::Text(value) => message.text(4, value).number(20, 3),
            Self::Floats(values) => message.floats(7, values).number(20, 6),
            Self::Ints(values) => values
                .iter()
                .fold(message, |message, value| message.number(8, value.cast_unsigned()))
                .number(20, 7),
        }
    }
}

/// A model being written: one graph, opset 17 and version 1 of `ai.onnx.ml`.
#[derive(Clone, Debug, Default)]
pub struct ModelWriter {
    graph: Message,
}

impl ModelWriter {
    pub fn input(self, name: &str, value_type: &OnnxType) -> Self {
        self.value(11, name, value_type)
    }

    pub fn output(self, name: &str, value_type: &OnnxType) -> Self {
        self.value(12, name, value_type)
    }

    fn value(mut self, field: u64, name: &str, value_type: &OnnxType) -> Self {
        let info = Message::default().text(1, name).message(2, &value_type.message());
        self.graph = self.graph.message(field, &info);
        self
    }

    pub fn node(self, operator: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        self.node_of("", operator, inputs, outputs, &[])
    }

    /// A node of another domain, or with attributes.
    pub fn node_of(
        mut self,
        domain: &str,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> Self {
        let mut node = Message::default();
        for input in inputs {
            node = node.text(1, input);
        }
        for output in outputs {
            node = node.text(2, output);
        }
        node = node.text(4, operator);
        for (name, attribute) in attributes {
            node = node.message(5, &attribute.message(name));
        }
        self.graph = self.graph.message(1, &node.text(7, domain));
        self
    }

    /// A constant.
    pub fn floats(mut self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        let tensor = shape.iter().fold(Message::default(), |tensor, size| tensor.number(1, *size));
        let tensor = tensor.number(2, element::FLOAT).floats(4, values).text(8, name);
        self.graph = self.graph.message(5, &tensor);
        self
    }

    pub fn write(self) -> Vec<u8> {
        let default = Message::default().text(1, "").number(2, 17);
        let learning = Message::default().text(1, "ai.onnx.ml").number(2, 1);
        let graph = self.graph.text(2, "graph");
        let model = Message::default().number(1, 8).text(2, "moorline-tests").message(7, &graph);
        model.message(8, &default).message(8, &learning).0
    }
}

/// `y = x · w + b` with `x: [batch, 4]` and `y: [batch, 3]`; every column of `w` is its index, and `b` is
/// `[0.5, 1.5, 2.5]`: so `y[j] = j · sum(x) + j + 0.5`.
pub fn linear_model() -> Vec<u8> {
    let weights: Vec<f32> = (0..4).flat_map(|_| [0.0, 1.0, 2.0]).collect();
    ModelWriter::default()
        .input("x", &OnnxType::rows(element::FLOAT, &[4]))
        .output("y", &OnnxType::rows(element::FLOAT, &[3]))
        .floats("w", &[4, 3], &weights)
        .floats("b", &[3], &[0.5, 1.5, 2.5])
        .node("MatMul", &["x", "w"], &["product"])
        .node("Add", &["product", "b"], &["y"])
        .write()
}

/// `y = x`, of any element type, `[batch, 3]`.
pub fn identity_model(element: u64) -> Vec<u8> {
    let rows = OnnxType::rows(element, &[3]);
    ModelWriter::default().input("x", &rows).output("y", &rows).node("Identity", &["x"], &["y"]).write()
}

/// A scikit-learn-like classifier: `label: [batch]` and, as a sequence of maps, `probabilities`, over the classes 10
/// and 20. The scores of `x: [batch, 2]` are the softmax of its two numbers.
pub fn probability_model() -> Vec<u8> {
    let classifier = [
        ("coefficients", Attribute::Floats(vec![1.0, 0.0, 0.0, 1.0])),
        ("intercepts", Attribute::Floats(vec![0.0, 0.0])),
        ("classlabels_ints", Attribute::Ints(vec![10, 20])),
        ("post_transform", Attribute::Text("SOFTMAX")),
        ("multi_class", Attribute::Int(1)),
    ];
    let names = [("classlabels_int64s", Attribute::Ints(vec![10, 20]))];
    ModelWriter::default()
        .input("x", &OnnxType::rows(element::FLOAT, &[2]))
        .output("label", &OnnxType::rows(element::INT64, &[]))
        .output("probabilities", &OnnxType::Maps(element::INT64))
        .node_of("ai.onnx.ml", "LinearClassifier", &["x"], &["label", "scores"], &classifier)
        .node_of("ai.onnx.ml", "ZipMap", &["scores"], &["probabilities"], &names)
        .write()
}
