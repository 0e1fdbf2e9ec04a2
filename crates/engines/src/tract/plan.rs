//! A graph as a plan that runs: for any sizes, by symbols in place of dynamic dimensions, or for exact ones.

use std::sync::Arc;

use moorline_core::{DataType, Dim, TensorSpec};
use tract_onnx::{
    Onnx,
    pb::ModelProto,
    prelude::{
        Datum, DatumType, InferenceFact, InferenceModel, InferenceModelExt, TDim, TVec, TractResult,
        TypedSimplePlan,
    },
    tract_core::{internal::anyhow, ops::cast::wire_cast},
    tract_hir::infer::{Factoid, ShapeFactoid},
};

use super::values::datum_type;

/// The sizes that a plan is made for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sizes<'a> {
    /// Any: every dynamic dimension is a symbol.
    Any,
    /// The shapes of the inputs, in the order of the graph.
    Exact(&'a [Vec<usize>]),
}

/// What a plan is made of.
pub(super) struct Blueprint<'a> {
    pub(super) onnx: &'a Onnx,
    pub(super) proto: &'a ModelProto,
    /// The folder of external data.
    pub(super) folder: Option<&'a str>,
    /// The inputs that callers of the plan give, in the order of the graph.
    pub(super) inputs: &'a [&'a TensorSpec],
    /// The data types of the outputs.
    pub(super) outputs: &'a [DataType],
}

impl Blueprint<'_> {
    /// Makes the plan. The shapes that a file states for intermediate values help to know sizes and are sometimes
    /// stale (a batch of one, exported and then made dynamic), so a plan for any sizes is tried with and then
    /// without them, and one for exact sizes, which needs no help, is made without.
    pub(super) fn plan(&self, sizes: Sizes<'_>) -> TractResult<Arc<TypedSimplePlan>> {
        match sizes {
            Sizes::Any => self.attempt(sizes, false).or_else(|_| self.attempt(sizes, true)),
            Sizes::Exact(_) => self.attempt(sizes, true),
        }
    }

    /// Whether the graph can be read with all its weights. What fails here fails for any sizes.
    pub(super) fn check(&self) -> TractResult<()> {
        self.parse(true).map(|_| ())
    }

    fn parse(&self, ignore_value_info: bool) -> TractResult<InferenceModel> {
        let parsed =
            self.onnx.clone().with_ignore_value_info(ignore_value_info).parse(self.proto, self.folder)?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            return Err(anyhow!("`{name}` is used, but neither an input nor computed"));
        }
        Ok(parsed.model)
    }

    fn attempt(&self, sizes: Sizes<'_>, ignore_value_info: bool) -> TractResult<Arc<TypedSimplePlan>> {
        let mut model = self.parse(ignore_value_info)?;
        for (index, spec) in self.inputs.iter().enumerate() {
            let datum_type = datum_type(spec.data_type)
                .ok_or_else(|| anyhow!("it has no data type {}", spec.data_type))?;
            let shape: TVec<TDim> = match sizes {
                Sizes::Exact(shapes) => shapes[index].iter().map(|size| TDim::from(*size)).collect(),
                Sizes::Any => {
                    let dims = spec.shape.as_ref().ok_or_else(|| anyhow!("`{}` has no rank", spec.name))?;
                    let known = model.input_fact(index)?.shape.clone();
                    dims.iter()
                        .enumerate()
                        .map(|(axis, dim)| match (dim, known.dim(axis).and_then(|dim| dim.concretize())) {
                            (Dim::Fixed(size), _) => TDim::from(*size),
                            (Dim::Dynamic(Some(_)), Some(named)) => named,
                            (Dim::Dynamic(_), _) => model.symbols.new_with_prefix("size").into(),
                        })
                        .collect()
                }
            };
            model.set_input_fact(index, InferenceFact::dt_shape(datum_type, ShapeFactoid::from(shape)))?;
        }
        let mut model = model.into_typed()?;
        // tract computes with sizes as symbolic numbers, which are no data type of ONNX; as long as the symbols can be
        // looked up they become numbers.
        let mut outputs = model.output_outlets()?.to_vec();
        for (index, (outlet, data_type)) in outputs.iter_mut().zip(self.outputs).enumerate() {
            if model.outlet_fact(*outlet)?.datum_type == TDim::datum_type() {
                let wanted = datum_type(*data_type).unwrap_or(DatumType::I64);
                *outlet = wire_cast(format!("moorline.output.{index}"), &mut model, &[*outlet], wanted)?[0];
            }
        }
        model.select_output_outlets(&outputs)?;
        TypedSimplePlan::new(model.into_optimized()?)
    }
}
