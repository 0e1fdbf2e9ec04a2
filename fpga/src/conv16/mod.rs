//! The bitstream of the kernels in `kernels/`: what they are built of, what is said of them, and what a device must
//! compute before it is trusted. Its golden tests are small models that go through the plan like any other; what must
//! come out is computed here, by loops that know nothing of the kernels.

mod codes;
mod models;
mod reference;

use std::collections::BTreeMap;

use crate::{
    bitstream::{BitstreamError, Compiled, GoldenCase, Manifest, Parts, Recipe},
    lower,
    plan::{Costs, Plan, PlanOptions},
    worker::Built,
};

use self::models::Model;

const ID: &str = "org.moorline.conv16";
/// Grows with the kernels.
const VERSION: &str = "1.1.0";

/// Everything that goes into the bitstream: kernels that were built from `source`, for one device.
pub fn parts(built: Built, source: String) -> Result<Parts, BitstreamError> {
    let mut image = Compiled::for_device(&built.device, built.binary);
    // For PoCL: the code in the binary is used as it is. Other drivers do not know it.
    image.env = BTreeMap::from([("POCL_WORK_GROUP_SPECIALIZATION".to_owned(), "0".to_owned())]);
    let mut parts = Parts {
        recipe: Recipe {
            id: ID.to_owned(),
            version: VERSION.to_owned(),
            arch: lower::architecture(),
            numerics: lower::numerics(),
            ops: lower::ops(),
        },
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
