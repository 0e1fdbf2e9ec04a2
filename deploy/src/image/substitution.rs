//! Which base a release stands on where none was named, and which one takes the place of an image of Azure ML's.

use moorline_core::{Environment, ErrorClass, ModelType, Release};

use super::{Base, ImageError};
use crate::{environment::Constraint, registry::Reference};

const AZURE: &str = "mcr.microsoft.com";
const AZURE_REPOSITORIES: &str = "azureml/";
/// Minor versions of Python 3 that there are images of, the newest first.
const MINORS: [u32; 6] = [13, 12, 11, 10, 9, 8];
/// Where any will do.
const USUAL: u32 = 11;
/// The Pythons of Azure ML's curated images, by what their names begin with. In all others Python comes from the conda
/// file, or is the usual one.
const CURATED: [(&str, u32); 12] = [
    ("azureml/minimal-ubuntu18.04-py37-cpu-inference", 8),
    ("azureml/minimal-ubuntu20.04-py38-cpu-inference", 8),
    ("azureml/minimal-ubuntu20.04-py38-cuda11.6.2-gpu-inference", 8),
    ("azureml/minimal-ubuntu22.04-py39-cpu-inference", 9),
    ("azureml/minimal-ubuntu22.04-py39-cuda11.8-gpu-inference", 9),
    ("azureml/minimal-py311-inference", 11),
    ("azureml/minimal-py312-inference", 12),
    ("azureml/minimal-py312-cuda12.4-inference", 12),
    ("azureml/mlflow-ubuntu20.04-py38-cpu-inference", 8),
    ("azureml/mlflow-py312-inference", 12),
    ("azureml/sklearn-1.0-ubuntu20.04-py38-cpu-inference", 8),
    ("azureml/curated/", 10),
];

/// The base by the environment, and what is to be told about it.
pub(crate) fn choose(
    release: &Release,
    environment: Option<&Environment>,
    mirrored: &[String],
) -> Result<(Base, Option<String>), ImageError> {
    let asked = release.environment.as_ref().and_then(|environment| environment.python.as_deref());
    if environment.is_some_and(|environment| environment.build.is_some()) {
        return Err(ImageError::new(
            ErrorClass::Unavailable,
            "the environment has a `build:`, whose image an Engine has to build first; none was given",
        ));
    }
    if let Some(image) = environment.and_then(|environment| environment.image.as_deref()) {
        let reference: Reference = image
            .parse()
            .map_err(|error| ImageError::refused(format!("the environment's image: {error}")))?;
        let own_server = environment.is_some_and(|environment| environment.inference_config.is_some());
        let of_azure =
            reference.registry() == AZURE && reference.repository().starts_with(AZURE_REPOSITORIES);
        if own_server || !of_azure || mirrored.iter().any(|host| host == AZURE) {
            return Ok((Base::Registry(reference), None));
        }
        let curated = CURATED.iter().find(|(name, _)| reference.repository().starts_with(name));
        let minor = python_minor(asked.unwrap_or_default(), curated.map_or(USUAL, |(_, minor)| *minor))?;
        let base = python(minor);
        let mut told = format!(
            "`{image}` is replaced by `{base}`; configure a mirror for {AZURE} to have the image itself"
        );
        if image.contains("cuda") || image.contains("gpu") {
            told.push_str("; CUDA is not in it");
        }
        return Ok((Base::Registry(base), Some(told)));
    }
    if environment.is_some_and(|environment| environment.inference_config.is_some()) {
        return Err(ImageError::refused(
            "the environment has an `inference_config:` and no `image:` whose server it describes",
        ));
    }
    if !needs_python(release) {
        return Ok((Base::Scorer, None));
    }
    let minor = python_minor(asked.unwrap_or_default(), USUAL)?;
    Ok((Base::Registry(python(minor)), None))
}

/// Whether a Python runs beside the scorer.
pub(crate) fn needs_python(release: &Release) -> bool {
    let mlflow = |model: &moorline_core::ReleaseModel| model.model_type == ModelType::MlflowModel;
    release.code.is_some() || release.model.as_ref().is_some_and(mlflow)
}

fn python(minor: u32) -> Reference {
    format!("docker.io/library/python:3.{minor}-slim-bookworm")
        .parse()
        .expect("the name of an image is sound")
}

/// The newest minor version that suits what a conda file asks for, as in `3.10`, `>=3.9,<3.12`; `usual` where it asks for
/// nothing.
fn python_minor(asked: &str, usual: u32) -> Result<u32, ImageError> {
    let constraint = Constraint::parse(asked).ok_or_else(|| {
        ImageError::refused(format!(
            "`python {asked}` is no version that can be chosen; write `python=3.12` or `python>=3.10,<3.13`"
        ))
    })?;
    if constraint.is_any() {
        return Ok(usual);
    }
    MINORS.into_iter().find(|minor| constraint.meets_some([3, *minor])).ok_or_else(|| {
        ImageError::refused(format!(
            "the environment asks for Python `{asked}`, for which no base image is known; name one as the environment's `image:`"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(image: &str, python: &str, mirrored: &[String]) -> (String, bool) {
        let mut release = Release::parse(
            r#"{"format": 1, "name": "a", "code": {"scoring_script": "score.py", "files": [{"path": "score.py",
                "size": 0, "sha256": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}}"#,
        )
        .unwrap();
        let image = (!image.is_empty()).then(|| image.to_owned());
        let environment = Environment { image, ..Environment::default() };
        release.environment = Some(moorline_core::ReleaseEnvironment {
            digest: environment.digest(),
            python: (!python.is_empty()).then(|| python.to_owned()),
            own_server: false,
        });
        match choose(&release, Some(&environment), mirrored).unwrap() {
            (Base::Registry(reference), told) => (reference.to_string(), told.is_some()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn images_of_azure_ml_are_replaced_unless_they_can_be_had() {
        let python = |minor: u32| format!("docker.io/library/python:3.{minor}-slim-bookworm");
        let minimal = "mcr.microsoft.com/azureml/minimal-ubuntu20.04-py38-cpu-inference:latest";
        let openmpi = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04";
        assert_eq!(chosen(minimal, "", &[]), (python(8), true));
        assert_eq!(chosen(minimal, "3.10", &[]), (python(10), true));
        assert_eq!(chosen(openmpi, "", &[]), (python(11), true));
        assert_eq!(chosen(openmpi, ">=3.8,<3.10", &[]), (python(9), true));
        assert_eq!(chosen("", "=3.12.1=h123_0", &[]), (python(12), false));
        assert_eq!(chosen("", "", &[]), (python(11), false));
        assert_eq!(chosen("", "<3.12", &[]), (python(11), false));
        assert_eq!(chosen("", ">=3.9", &[]), (python(13), false));
        assert_eq!(chosen("", "!=3.13.*,>3.8", &[]), (python(12), false));
        assert_eq!(chosen("", "<=3.10", &[]), (python(10), false));
        assert_eq!(chosen(minimal, ">=3.8", &[]), (python(13), true));
        assert_eq!(chosen("python:3.9", "3.10", &[]), ("docker.io/library/python:3.9".to_owned(), false));
        assert_eq!(chosen(minimal, "", &[AZURE.to_owned()]), (minimal.to_owned(), false));
    }

    #[test]
    fn a_python_that_nobody_has_is_refused() {
        assert!(python_minor("3.4", 11).is_err());
        assert!(python_minor("<3.8", 11).is_err());
        assert!(python_minor("3.12|3.13", 11).is_err());
        assert_eq!(python_minor("3", 11).unwrap(), 13);
    }
}
