//! What no target could host, whatever it is: refused early, and by one rule.

use moorline_core::{Desired, ErrorClass, Placement, Probe, Resources, TargetError, Variable};

/// Beyond it a number of replicas is a slip of the keyboard.
const MAX_REPLICAS: u32 = 256;
/// No scorer starts in less.
const LEAST_MEMORY: u64 = 16 << 20;
/// The kernel's least share of a core.
const LEAST_CPU_MILLIS: u32 = 10;

pub(crate) fn refuse(message: String) -> Result<(), TargetError> {
    Err(TargetError::new(ErrorClass::InvalidInput, message))
}

pub(crate) fn placement(placement: &Placement) -> Result<(), TargetError> {
    replicas(placement.replicas)?;
    resources(&placement.resources)?;
    probe("liveness_probe", &placement.liveness)?;
    probe("readiness_probe", &placement.readiness)?;
    placement.variables.iter().try_for_each(|(name, value)| {
        let value = match value {
            Variable::Plain(value) => value,
            Variable::Secret { value, .. } => value.expose(),
        };
        variable(name, !value.contains('\0'))
    })
}

pub(crate) fn desired(desired: &Desired) -> Result<(), TargetError> {
    replicas(desired.scale.bounds().1)?;
    resources(&desired.resources)?;
    probe("liveness_probe", &desired.liveness)?;
    probe("readiness_probe", &desired.readiness)?;
    let variables = &desired.release.environment_variables;
    variables.iter().try_for_each(|(name, value)| variable(name, !value.contains('\0')))
}

fn replicas(replicas: u32) -> Result<(), TargetError> {
    if replicas > MAX_REPLICAS {
        return refuse(format!(
            "{replicas} instances are more than the {MAX_REPLICAS} that one machine is asked to run"
        ));
    }
    Ok(())
}

fn resources(resources: &Resources) -> Result<(), TargetError> {
    match *resources {
        Resources { cpu_millis: Some(millis), .. } if millis < LEAST_CPU_MILLIS => refuse(format!(
            "a limit of {millis}m cpu is below {LEAST_CPU_MILLIS}m, the least that can be set"
        )),
        Resources { memory_bytes: Some(bytes), .. } if bytes < LEAST_MEMORY => refuse(format!(
            "a limit of {bytes} bytes of memory is below {} MiB, without which no scorer starts",
            LEAST_MEMORY >> 20
        )),
        _ => Ok(()),
    }
}

fn probe(name: &str, probe: &Probe) -> Result<(), TargetError> {
    let settings = [
        ("period", probe.period),
        ("timeout", probe.timeout),
        ("success_threshold", probe.success_threshold),
        ("failure_threshold", probe.failure_threshold),
    ];
    match settings.iter().find(|(_, value)| *value == 0) {
        Some((setting, _)) => refuse(format!("{name}: {setting} must be 1 at least")),
        None => Ok(()),
    }
}

/// A variable's name, and whether its value can be one.
fn variable(name: &str, sound_value: bool) -> Result<(), TargetError> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return refuse(format!("`{}` cannot be the name of an environment variable", name.escape_debug()));
    }
    if !sound_value {
        return refuse(format!("the value of the environment variable {name} has a zero byte in it"));
    }
    Ok(())
}
