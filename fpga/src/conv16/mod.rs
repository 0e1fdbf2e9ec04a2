//! The bitstream of the kernels in `kernels/`: what they are built of, what is said of them, and what a device must
//! compute before it is trusted. Its golden tests are small models that go through the plan like any other; what must
//! come out is computed here, by loops that know nothing of the kernels.

mod codes;
mod models;
mod reference;

use std::collections::BTreeMap;

use crate::{
    bitstream::{BitstreamError, Compiled, GoldenCase, Manifest, Parts, Recipe},
    plan::{Costs, Plan, PlanOptions},
    worker::Built,
};

use self::models::Model;

/// What the kernels are, and what they execute.
pub fn recipe() -> Recipe {
    serde_json::from_str(include_str!("../../bitstreams/conv16.json")).expect("a test reads it")
}

/// Everything that goes into the bitstream: kernels that were built from `source`, for one device.
pub fn parts(built: Built, source: String) -> Result<Parts, BitstreamError> {
    let mut image = Compiled::for_device(&built.device, built.binary);
    // For PoCL: the code in the binary is used as it is. Other drivers do not know it.
    image.env = BTreeMap::from([("POCL_WORK_GROUP_SPECIALIZATION".to_owned(), "0".to_owned())]);
    let mut parts = Parts {
        recipe: recipe(),
        kernels: built.kernels,
        images: vec![image],
        golden: Vec::new(),
        source: Some(source),
        expires: None,
    };
    let (manifest, _) = parts.clone().lay_out()?;
    parts.golden = models::all().iter().map(|model| golden(model, &manifest)).collect::<Result<_, _>>()?;
    Ok(parts)
}

/// A model as a program, with what goes in and what must come out.
fn golden(model: &Model, manifest: &Manifest) -> Result<GoldenCase, BitstreamError> {
    let failed = |reason: String| BitstreamError::Contradiction {
        reason: format!("the golden test `{}` cannot be made: {reason}", model.name),
    };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("golden.onnx");
    fs_err::write(&path, &model.onnx)?;
    let numerics = model.numerics;
    let options =
        PlanOptions { costs: Costs::NOTHING, min_coverage: 1.0, numerics, ..PlanOptions::default() };
    let plan = Plan::new(&path, manifest, &options).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        failed(format!("{error}: {cause}"))
    })?;
    let islands: Vec<_> = plan.device_islands().collect();
    let [lowered] = islands[..] else {
        return Err(failed(format!("it has {} islands", islands.len())));
    };
    let bytes = |name: &str| {
        let values = model.values.iter().find(|(own, _)| own == name).map(|(_, values)| values);
        let values = values.ok_or_else(|| failed(format!("`{name}` has no value")))?;
        Ok::<_, BitstreamError>(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    };
    let program = &lowered.program;
    let inputs = program.inputs.iter().map(|port| bytes(&port.name)).collect::<Result<Vec<_>, _>>()?;
    Ok(GoldenCase {
        name: model.name.to_owned(),
        program: program.clone(),
        constants: lowered.constants.clone(),
        inputs: inputs.concat(),
        outputs: program.outputs.iter().map(|port| bytes(&port.name)).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lower, plan::Numerics};

    #[test]
    fn the_recipe_is_that_of_the_kernels() {
        let Recipe { arch, numerics, ops, .. } = recipe();
        let tiled = format!("(conv_l{}_s1_p{}_o1,", arch.vec, arch.lane_tile);
        assert!(lower::source().contains(&tiled), "no kernel is called {tiled}");
        let known = [Numerics::F32Fma, Numerics::I8Rne, Numerics::Bfp9].map(Numerics::as_str);
        assert_eq!(numerics, known);
        for op in &ops {
            assert!(op.numerics.iter().all(|own| numerics.contains(own)), "{}", op.op);
        }
    }
}
