//! What pip is asked for in place of what conda was: the same projects under the names that they have on PyPI.
//!
//! A name that is not in the table is not guessed: the PyPI project of that name may be somebody else's.

use moorline_spec::conda::{CondaFile, CondaPackage};

/// Channels whose packages are those of the projects themselves.
const CHANNELS: [&str; 9] = [
    "anaconda",
    "conda-forge",
    "defaults",
    "huggingface",
    "main",
    "microsoft",
    "nodefaults",
    "pytorch",
    "plotly",
];

/// Packages that have one name in both places.
const SAME: &[&str] = &[
    "absl-py",
    "accelerate",
    "aiohttp",
    "altair",
    "anyio",
    "applicationinsights",
    "azure-ai-ml",
    "azure-core",
    "azure-identity",
    "azure-keyvault-secrets",
    "azure-storage-blob",
    "beautifulsoup4",
    "bokeh",
    "boto3",
    "botocore",
    "catboost",
    "category_encoders",
    "certifi",
    "cffi",
    "click",
    "cloudpickle",
    "cryptography",
    "cycler",
    "cython",
    "datasets",
    "decorator",
    "dill",
    "diskcache",
    "evaluate",
    "fastapi",
    "fastparquet",
    "filelock",
    "flask",
    "fsspec",
    "gensim",
    "gitpython",
    "grpcio",
    "gunicorn",
    "h5py",
    "httpx",
    "huggingface_hub",
    "hyperopt",
    "idna",
    "imbalanced-learn",
    "inference-schema",
    "interpret",
    "ipykernel",
    "ipython",
    "jinja2",
    "joblib",
    "jsonschema",
    "keras",
    "kiwisolver",
    "lightgbm",
    "lime",
    "llvmlite",
    "lxml",
    "markupsafe",
    "marshmallow",
    "matplotlib",
    "mlflow",
    "mlflow-skinny",
    "more-itertools",
    "multidict",
    "networkx",
    "nltk",
    "notebook",
    "numba",
    "numexpr",
    "numpy",
    "onnx",
    "onnxmltools",
    "onnxruntime",
    "openpyxl",
    "opt_einsum",
    "optuna",
    "orjson",
    "packaging",
    "pandas",
    "patsy",
    "peft",
    "pillow",
    "platformdirs",
    "plotly",
    "polars",
    "prometheus_client",
    "protobuf",
    "psutil",
    "psycopg2",
    "pyarrow",
    "pycparser",
    "pydantic",
    "pyjwt",
    "pymongo",
    "pyodbc",
    "pyparsing",
    "pytest",
    "python-dateutil",
    "python-dotenv",
    "python-multipart",
    "pytorch-lightning",
    "pytz",
    "pywavelets",
    "pyyaml",
    "pyzmq",
    "redis",
    "regex",
    "requests",
    "rich",
    "ruamel.yaml",
    "s3fs",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "seaborn",
    "sentence-transformers",
    "sentencepiece",
    "setuptools",
    "shap",
    "shapely",
    "six",
    "skl2onnx",
    "skops",
    "soupsieve",
    "spacy",
    "sqlalchemy",
    "statsmodels",
    "sympy",
    "tabulate",
    "tenacity",
    "tensorboard",
    "tensorflow",
    "tensorflow-cpu",
    "threadpoolctl",
    "tiktoken",
    "timm",
    "tokenizers",
    "torchaudio",
    "torchmetrics",
    "torchvision",
    "tornado",
    "tqdm",
    "transformers",
    "typing_extensions",
    "typing-extensions",
    "tzdata",
    "ujson",
    "umap-learn",
    "urllib3",
    "uvicorn",
    "uvloop",
    "werkzeug",
    "wheel",
    "wrapt",
    "xarray",
    "xgboost",
    "xlrd",
    "yarl",
    "zstandard",
];

/// Packages that have another name on PyPI.
const RENAMED: &[(&str, &str)] = &[
    ("dask", "dask[complete]"),
    ("dask-core", "dask"),
    ("matplotlib-base", "matplotlib"),
    ("msgpack-python", "msgpack"),
    ("opencv", "opencv-python-headless"),
    ("py-opencv", "opencv-python-headless"),
    ("py-xgboost", "xgboost"),
    ("py-xgboost-cpu", "xgboost"),
    ("pytables", "tables"),
    ("python-graphviz", "graphviz"),
    ("python-flatbuffers", "flatbuffers"),
    ("pytorch", "torch"),
    ("pytorch-cpu", "torch"),
    ("seaborn-base", "seaborn"),
    ("tensorflow-base", "tensorflow"),
];

/// Packages of conda alone that ask for nothing on PyPI.
const NEEDLESS: &[&str] = &["pip", "cpuonly"];

/// What can be had from PyPI, and what cannot.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Requirements {
    /// Lines of a requirements file.
    pub(crate) lines: Vec<String>,
    /// Why each of these needs conda itself.
    pub(crate) obstacles: Vec<String>,
}

pub(crate) fn requirements(file: &CondaFile) -> Requirements {
    let mut found = Requirements::default();
    let mut any = false;
    for package in file.packages.iter().filter(|package| !NEEDLESS.contains(&package.name.as_str())) {
        any = true;
        match requirement(package) {
            Ok(line) => found.lines.push(line),
            Err(obstacle) => found.obstacles.push(obstacle),
        }
    }
    if any {
        // A package that is not of a known channel may be another one than the project's.
        let foreign = file.channels.iter().filter(|channel| !is_known(channel));
        found.obstacles.extend(
            foreign.map(|channel| {
                format!("channel `{channel}` is none of those whose packages are also on PyPI")
            }),
        );
    }
    found.lines.extend(file.pip.iter().cloned());
    found
}

fn is_known(channel: &str) -> bool {
    let name = channel.trim_end_matches('/').rsplit('/').next().unwrap_or(channel);
    let official = ["https://conda.anaconda.org/", "https://repo.anaconda.com/pkgs/"];
    let is_url = channel.contains("://");
    CHANNELS.contains(&name) && (!is_url || official.iter().any(|prefix| channel.starts_with(prefix)))
}

fn requirement(package: &CondaPackage) -> Result<String, String> {
    let CondaPackage { channel, name, constraint } = package;
    if let Some(channel) = channel.as_ref().filter(|channel| !is_known(channel)) {
        return Err(format!("`{channel}::{name}` is of a channel whose packages are not on PyPI"));
    }
    let lower = name.to_ascii_lowercase();
    let renamed = RENAMED.iter().find(|(conda, _)| *conda == lower).map(|(_, pypi)| (*pypi).to_owned());
    let same = || SAME.contains(&lower.as_str()).then(|| lower.clone());
    // Microsoft's own packages are made for PyPI first.
    let azure = || lower.starts_with("azureml-").then(|| lower.clone());
    let Some(pypi) = renamed.or_else(same).or_else(azure) else {
        return Err(format!("`{name}` is not known to be the same on PyPI"));
    };
    let constraint = specifier(constraint)
        .ok_or_else(|| format!("`{name}{constraint}` is a constraint that pip cannot express"))?;
    Ok(format!("{pypi}{constraint}"))
}

/// pip's words for conda's constraint.
fn specifier(constraint: &str) -> Option<String> {
    let constraint = constraint.trim();
    if constraint.contains('|') {
        return None;
    }
    let parts: Option<Vec<String>> = constraint
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty() && !matches!(*part, "*" | "=*" | "==*"))
        .map(|part| {
            let compared = ["==", ">=", "<=", "!=", "~=", ">", "<"].iter().any(|sign| part.starts_with(sign));
            let version = part.trim_start_matches(['=', '>', '<', '!', '~']).trim();
            let sound = |text: &str| {
                !text.is_empty()
                    && text
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '*' | '+' | '!' | '_'))
            };
            if compared {
                let (version, build) = version.split_once('=').unwrap_or((version, ""));
                let sign = &part[..part.len() - part.trim_start_matches(['=', '>', '<', '!', '~']).len()];
                return (sound(version) && build.len() < 100).then(|| format!("{sign}{version}"));
            }
            // `=1.2=py312_0` is one version, `=1.2` is any that begins so, and `1.2` without a sign is that version.
            match (part.starts_with('='), version.split_once('=')) {
                (_, Some((version, _build))) => sound(version).then(|| format!("=={version}")),
                (true, None) if !version.ends_with('*') => sound(version).then(|| format!("=={version}.*")),
                (_, None) => sound(version).then(|| format!("=={version}")),
            }
        })
        .collect();
    Some(parts?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(channels: &[&str], packages: &[(&str, &str)], pip: &[&str]) -> CondaFile {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let package = |(name, constraint): &(&str, &str)| {
            let (channel, name) =
                name.split_once("::").map_or((None, *name), |(channel, name)| (Some(channel), name));
            CondaPackage {
                channel: channel.map(str::to_owned),
                name: name.to_owned(),
                constraint: (*constraint).to_owned(),
            }
        };
        CondaFile {
            name: None,
            channels: owned(channels),
            python: None,
            packages: packages.iter().map(package).collect(),
            pip: owned(pip),
        }
    }

    #[test]
    fn the_same_projects_are_asked_for_by_their_names_on_pypi() {
        let packages =
            [("pip", "=24.0"), ("numpy", "=1.26"), ("pytorch", "==2.3.1"), ("scikit-learn", ">=1.2,<2")];
        let found =
            requirements(&file(&["conda-forge", "pytorch"], &packages, &["-f https://x/y", "mlflow==3.0"]));
        assert_eq!(
            found.lines,
            ["numpy==1.26.*", "torch==2.3.1", "scikit-learn>=1.2,<2", "-f https://x/y", "mlflow==3.0"]
        );
        assert_eq!(found.obstacles, [""; 0]);
    }

    #[test]
    fn what_needs_conda_is_named() {
        let packages = [("cudatoolkit", "=11.8"), ("nvidia::cuda", ""), ("numpy", "1.2|1.3")];
        let found = requirements(&file(&["https://x.example/private"], &packages, &[]));
        let obstacles = found.obstacles.join("\n");
        for named in ["`cudatoolkit`", "`nvidia::cuda`", "`numpy1.2|1.3`", "`https://x.example/private`"] {
            assert!(obstacles.contains(named), "{named}: {obstacles}");
        }
        let only_pip = requirements(&file(&["https://x.example/private"], &[("pip", "")], &["numpy"]));
        assert_eq!(only_pip.obstacles, [""; 0], "a channel that nothing is taken from does not matter");
    }

    #[test]
    fn constraints_keep_their_meaning() {
        for (conda, pip) in [
            ("", ""),
            ("=1.2", "==1.2.*"),
            ("==1.2.3", "==1.2.3"),
            ("1.2.3", "==1.2.3"),
            ("=1.2.*", "==1.2.*"),
            ("=1.2.3=py312_0", "==1.2.3"),
            (">=1.2, <2", ">=1.2,<2"),
            ("~=1.4", "~=1.4"),
            ("*", ""),
        ] {
            assert_eq!(specifier(conda).as_deref(), Some(pip), "{conda}");
        }
        assert_eq!(specifier("=1; rm"), None);
    }
}
