//! `moorline-scorer inspect`: a model's signature as JSON.

use std::io::Write;

use moorline_core::{Dim, ModelFiles, TensorSpec, ValueKind};
use serde_json::{Value, json};

use crate::{
    engines,
    failure::Failure,
    settings::{Environment, Inspect, python},
};

pub(crate) fn run(inspect: &Inspect, environment: &Environment) -> Result<(), Failure> {
    let python = python(None, environment, std::path::Path::new("."));
    let engine = engines::choose(inspect.engine, environment, Some(python))?;
    let model = engine.load(&ModelFiles { path: inspect.model.clone(), threads: 1 })?;
    let signature = model.signature();
    let specs = |specs: &[TensorSpec]| specs.iter().map(spec).collect::<Vec<Value>>();
    let document = json!({
        "engine": engine.name(),
        "inputs": specs(&signature.inputs),
        "outputs": specs(&signature.outputs),
        "batchable": signature.batch_obstacle().is_none(),
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{document:#}")?;
    Ok(())
}

/// One input or output: a dimension is a size, a name, or null where it is neither.
fn spec(spec: &TensorSpec) -> Value {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => json!(size),
        Dim::Dynamic(name) => json!(name.as_deref()),
    };
    let mut document = json!({
        "name": &*spec.name,
        "datatype": spec.data_type.oip_name(),
        "shape": spec.shape.as_ref().map(|shape| shape.iter().map(dim).collect::<Vec<Value>>()),
    });
    match &spec.kind {
        ValueKind::Tensor => {}
        ValueKind::Sequence => document["kind"] = json!("sequence"),
        ValueKind::Maps { key } => {
            document["kind"] = json!("maps");
            document["key_datatype"] = json!(key.oip_name());
        }
    }
    if spec.optional {
        document["optional"] = json!(true);
    }
    document
}
