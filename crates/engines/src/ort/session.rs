//! One thread's ONNX Runtime session.

use std::{borrow::Cow, sync::Arc};

use moorline_core::{EngineError, Session, Signature, Tensors};
use ort::{
    ErrorCode,
    session::{Session as RawSession, SessionInputValue},
};

use super::{NAME, values};
use crate::guard::guarded;

pub(super) struct OrtSession {
    session: RawSession,
    signature: Arc<Signature>,
}

impl OrtSession {
    pub(super) const fn new(session: RawSession, signature: Arc<Signature>) -> Self {
        Self { session, signature }
    }
}

impl Session for OrtSession {
    /// Inputs are lent to ONNX Runtime, outputs are copied once, out of its arena.
    fn run(&mut self, inputs: Tensors) -> Result<Tensors, EngineError> {
        self.signature.check_inputs(&inputs).map_err(EngineError::Input)?;
        let Self { session, signature } = self;
        guarded(|| run(session, signature, &inputs))
            .unwrap_or_else(|reason| Err(EngineError::Run { engine: NAME, reason }))
    }
}

fn run(session: &mut RawSession, signature: &Signature, inputs: &Tensors) -> Result<Tensors, EngineError> {
    let mut lent: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
    for (name, value) in inputs.iter() {
        lent.push((Cow::Borrowed(&**name), values::lend(name, value)?));
    }
    let outputs = session.run(lent).map_err(run_error)?;
    signature
        .outputs
        .iter()
        .zip(outputs.values())
        .map(|(spec, value)| {
            let value = values::take(spec, &value).map_err(|reason| EngineError::Run {
                engine: NAME,
                reason: format!("output `{}` {reason}", spec.name),
            })?;
            Ok((Arc::clone(&spec.name), value))
        })
        .collect()
}

/// ONNX Runtime calls it an invalid argument when the values of the inputs, rather than the model, are at fault: an
/// index beyond a table, two dynamic dimensions that do not go together.
fn run_error(error: ort::Error) -> EngineError {
    let reason = error.message().to_owned();
    match error.code() {
        ErrorCode::InvalidArgument => EngineError::Input(format!("the model refuses these inputs: {reason}")),
        _ => EngineError::Run { engine: NAME, reason },
    }
}
