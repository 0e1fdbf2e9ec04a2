//! What a replica is started with: described once, purely, from a placement. `render` prints the description and
//! `apply` spawns it, so that they cannot differ.

use std::{collections::BTreeMap, ffi::OsString, io, path::PathBuf, process::Stdio};

use fs_err::OpenOptions;
use moorline_core::{
    Desired, ErrorClass, ModelType, Placement, Release, Source, TargetError, TargetKind, Variable,
};
use serde_json::{Value, json};

use crate::checks;

use super::{
    LocalConfig,
    layout::ReplicaFolder,
    process::{IDENTITY, Identity, Process},
};

/// Of this process's variables, those that a program needs to find its way on the machine.
const INHERITED: [&str; 9] =
    ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "ORT_DYLIB_PATH", "SSL_CERT_FILE"];

/// A program, its arguments and its whole environment.
#[derive(Debug)]
pub(crate) struct ReplicaCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<String, Variable>,
    folder: ReplicaFolder,
}

impl ReplicaCommand {
    pub(crate) fn of(
        config: &LocalConfig,
        placement: &Placement,
        identity: &Identity,
        folder: ReplicaFolder,
    ) -> Result<Self, TargetError> {
        let Source::Folder { path, python } = &placement.source else {
            return Err(TargetError::new(
                ErrorClass::Unsupported,
                "a compute of type local runs a release from a folder, and not from an image",
            ));
        };
        let mut arguments: Vec<OsString> = vec!["--release".into(), path.into()];
        let mut argument = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        argument("--host", "127.0.0.1".into());
        argument("--port", "0".into());
        argument("--admin-port", "0".into());
        argument("--endpoint", placement.id.endpoint.as_str().into());
        argument("--deployment", placement.id.deployment.as_str().into());
        argument("--address-file", folder.address().into());
        argument("--log-file", folder.log().into());
        argument("--log-file-bytes", config.log_file_bytes.to_string().into());
        argument("--log-format", "json".into());
        // Beside the replicas' folders, so that the next replica takes over what one that was killed had collected.
        argument("--collect-dir", folder.collected().into());
        if let Some(python) = python {
            argument("--python", python.into());
        }
        let mut environment: BTreeMap<String, Variable> = INHERITED
            .iter()
            .filter_map(|name| {
                Some(((*name).to_owned(), Variable::Plain(config.environment.get(*name)?.clone())))
            })
            .collect();
        environment.extend(placement.variables.iter().map(|(name, value)| (name.clone(), value.clone())));
        environment.insert(IDENTITY.to_owned(), Variable::Plain(identity.to_string()));
        Ok(Self { program: config.scorer.clone(), arguments, environment, folder })
    }

    fn manifest(&self) -> Value {
        let environment: serde_json::Map<String, Value> = self
            .environment
            .iter()
            .map(|(name, variable)| {
                let shown = match variable {
                    Variable::Plain(value) => value.clone(),
                    Variable::Secret { reference, .. } => format!("secret:{reference}"),
                };
                (name.clone(), shown.into())
            })
            .collect();
        let arguments: Vec<_> = self.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        json!({
            "program": self.program.to_string_lossy(),
            "arguments": arguments,
            "environment": environment,
            "folder": self.folder.path().to_string_lossy(),
        })
    }

    /// Starts the process, in a group of its own: what a terminal sends to the server does not reach it.
    pub(crate) fn spawn(&self) -> io::Result<Process> {
        let stderr = OpenOptions::new().create(true).append(true).open(self.folder.stderr())?;
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.arguments).current_dir(self.folder.path()).env_clear();
        for (name, variable) in &self.environment {
            match variable {
                Variable::Plain(value) => command.env(name, value),
                Variable::Secret { value, .. } => command.env(name, value.expose()),
            };
        }
        command
            .stdin(Stdio::null())
            .stdout(stderr.file().try_clone()?)
            .stderr(stderr.into_parts().0)
            .process_group(0)
            // A replica outlives the server that started it, and is adopted by the next.
            .kill_on_drop(false);
        Process::of_child(command.spawn()?)
    }
}

/// The manifest of a placement. What is chosen when a replica starts is in capitals.
pub(crate) fn render(
    config: &LocalConfig,
    placement: &Placement,
    replica: impl FnOnce(&str) -> ReplicaFolder,
) -> Result<Value, TargetError> {
    check_placement(placement)?;
    let identity = Identity {
        home: "HOME".to_owned(),
        deployment: placement.id.clone(),
        revision: placement.revision(),
        replica: "REPLICA".to_owned(),
    };
    let command = ReplicaCommand::of(config, placement, &identity, replica("REPLICA"))?;
    let mut manifest = json!({
        "kind": "process",
        "deployment": placement.id.to_string(),
        "revision": placement.revision(),
        "release": placement.release.digest(),
        "replicas": placement.replicas,
    });
    if let (Value::Object(manifest), Value::Object(command)) = (&mut manifest, command.manifest()) {
        manifest.extend(command);
        manifest.insert("limits".to_owned(), json!(placement.resources));
        let probes = json!({ "liveness": placement.liveness, "readiness": placement.readiness });
        manifest.insert("probes".to_owned(), probes);
    }
    Ok(manifest)
}

pub(crate) fn check_placement(placement: &Placement) -> Result<(), TargetError> {
    if placement.own_server.is_some() {
        return checks::refuse(
            "it brings its own server in an image, which needs a compute of type container".to_owned(),
        );
    }
    if let Source::Image { reference, .. } = &placement.source {
        return Err(TargetError::new(
            ErrorClass::Unsupported,
            format!("a compute of type local runs a release from a folder, and not the image `{reference}`"),
        ));
    }
    placement.variables.keys().try_for_each(|name| check_name(name))?;
    checks::placement(placement)
}

pub(crate) fn check_desired(desired: &Desired) -> Result<(), TargetError> {
    if desired.target != TargetKind::Local {
        return Err(TargetError::new(
            ErrorClass::Unsupported,
            format!("compute `{}` is of type {}, and not local", desired.compute, desired.target.as_str()),
        ));
    }
    if let Some(environment) = &desired.environment {
        let needs_image = if environment.build.is_some() {
            Some("is built from a Dockerfile")
        } else if environment.inference_config.is_some() {
            Some("brings a server of its own (inference_config)")
        } else {
            None
        };
        if let Some(why) = needs_image {
            return Err(TargetError::new(
                ErrorClass::Unsupported,
                format!(
                    "the environment {why}, which needs a container; a compute of type local runs processes: give the environment a conda_file instead"
                ),
            ));
        }
    }
    desired.release.environment_variables.keys().try_for_each(|name| check_name(name))?;
    checks::desired(desired)?;
    check_release(&desired.release)
}

fn check_release(release: &Release) -> Result<(), TargetError> {
    let Some(model) = release.model.as_ref().filter(|_| release.code.is_none()) else { return Ok(()) };
    let servable = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name == "MLmodel" || name.rsplit_once('.').is_some_and(|(_, extension)| extension == "onnx")
    };
    if model.files.iter().any(|file| servable(&file.path)) {
        return Ok(());
    }
    let kind = match model.model_type {
        ModelType::CustomModel => "custom_model",
        ModelType::MlflowModel => "mlflow_model",
        ModelType::TritonModel => "triton_model",
        ModelType::Onnx => "onnx",
    };
    checks::refuse(format!(
        "model `{}` of type {kind} has neither an .onnx file nor an MLmodel file; a deployment without a scoring script needs one of them",
        model.name
    ))
}

/// The variable by which replicas are known.
fn check_name(name: &str) -> Result<(), TargetError> {
    if name == IDENTITY {
        return checks::refuse(format!(
            "the environment variable {IDENTITY} is set by the local target and by nobody else"
        ));
    }
    Ok(())
}
