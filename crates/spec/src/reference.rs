//! What a document points at: registered assets (`azureml:name:version`) and files on this machine.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use moorline_core::{Name, NameError};
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::yaml::shown;

/// An asset by reference, or written where it is needed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AssetRef<T> {
    Reference(Reference),
    /// Registered without a name of its own, by the digest of its content.
    Inline(Box<T>),
}

/// A registered asset: `azureml:name:version`, `azureml:name@label`, `azureml:name`, a registry's, or an ARM id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub scope: Scope,
    pub name: Name,
    pub version: VersionRef,
}

/// Where a reference looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The workspace that the document is for.
    Workspace,
    /// `azureml://registries/REGISTRY/ASSETS/…`; whether it can be reached is for the server to say.
    Registry { registry: String, assets: String },
    /// A full ARM id; its workspace may be another one.
    Arm { subscription: String, resource_group: String, workspace: Name, assets: String },
}

/// Which version is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionRef {
    Version(String),
    /// `latest`, and whatever labels a workspace has.
    Label(String),
    /// None was written; the latest.
    Default,
}

/// A text that is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` is not a reference: {why}")]
pub struct ReferenceError {
    text: String,
    why: String,
}

/// A path as it was written, and the folder that it starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPath {
    pub text: String,
    /// Of the document; empty for the current folder.
    pub base: PathBuf,
}

/// Where code lies: a folder, or what became of it once it was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum CodeSource {
    Reference(Reference),
    Local(LocalPath),
}

impl Reference {
    /// A version of an asset of the document's own workspace.
    pub fn to_version(name: Name, version: impl Into<String>) -> Self {
        Self { scope: Scope::Workspace, name, version: VersionRef::Version(version.into()) }
    }
}

/// What every reference to an asset of a workspace begins with.
pub(crate) const PREFIX: &str = "azureml:";
const REGISTRIES: &str = "azureml://registries/";

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |why: String| ReferenceError { text: shown(text), why };
        if let Some(path) = text.strip_prefix(REGISTRIES) {
            return registry(path).map_err(refuse);
        }
        let Some(body) = text.strip_prefix(PREFIX) else {
            return Err(refuse(format!("it does not begin with `{PREFIX}`")));
        };
        if body.starts_with("//") {
            return Err(refuse(format!("of `azureml://` paths only `{REGISTRIES}…` are assets")));
        }
        if body.starts_with('/') {
            return arm(body).map_err(refuse);
        }
        let (name, version) = if let Some((name, label)) = body.rsplit_once('@') {
            (name, VersionRef::Label(part(label, "label").map_err(refuse)?))
        } else if let Some((name, version)) = body.split_once(':') {
            (name, VersionRef::Version(part(version, "version").map_err(refuse)?))
        } else {
            (body, VersionRef::Default)
        };
        let name = name.parse().map_err(|error: NameError| refuse(error.to_string()))?;
        Ok(Self { scope: Scope::Workspace, name, version })
    }
}

/// `REGISTRY/ASSETS/NAME/versions/VERSION`
fn registry(path: &str) -> Result<Reference, String> {
    let parts: Vec<&str> = path.split('/').collect();
    let (registry, assets, name, version) = match parts[..] {
        [registry, assets, name] => (registry, assets, name, VersionRef::Default),
        [registry, assets, name, kind, version] => (registry, assets, name, version_ref(kind, version)?),
        _ => return Err(format!("the form is `{REGISTRIES}REGISTRY/models/NAME/versions/VERSION`")),
    };
    let scope =
        Scope::Registry { registry: part(registry, "registry")?, assets: part(assets, "kind of asset")? };
    Ok(Reference { scope, name: part(name, "name")?.parse().map_err(|e: NameError| e.to_string())?, version })
}

/// `/subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/workspaces/W/ASSETS/NAME/versions/V`
fn arm(path: &str) -> Result<Reference, String> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let [
        "subscriptions",
        subscription,
        groups,
        group,
        "providers",
        provider,
        "workspaces",
        workspace,
        assets,
        name,
        rest @ ..,
    ] = &parts[..]
    else {
        return Err(
            "an ARM id is `/subscriptions/…/workspaces/WORKSPACE/models/NAME/versions/VERSION`".to_owned()
        );
    };
    if !groups.eq_ignore_ascii_case("resourceGroups") || !provider.eq_ignore_ascii_case(PROVIDER) {
        return Err(format!("its provider is not `{PROVIDER}`"));
    }
    let version = match rest {
        [] => VersionRef::Default,
        [kind, version] => version_ref(kind, version)?,
        _ => return Err("there is more behind its version".to_owned()),
    };
    let name_of = |text: &str| text.parse().map_err(|error: NameError| error.to_string());
    let scope = Scope::Arm {
        subscription: part(subscription, "subscription")?,
        resource_group: resource_group(group)?,
        workspace: name_of(workspace)?,
        assets: part(assets, "kind of asset")?,
    };
    Ok(Reference { scope, name: name_of(name)?, version })
}

const PROVIDER: &str = "Microsoft.MachineLearningServices";

fn version_ref(kind: &str, version: &str) -> Result<VersionRef, String> {
    match kind {
        "versions" => Ok(VersionRef::Version(part(version, "version")?)),
        "labels" => Ok(VersionRef::Label(part(version, "label")?)),
        _ => Err(format!("`{}` stands where `versions` or `labels` is expected", shown(kind))),
    }
}

/// A part that goes into paths and addresses: the alphabet of names.
fn part(text: &str, what: &str) -> Result<String, String> {
    match text.parse::<Name>() {
        Ok(name) => Ok(name.into()),
        Err(_) if text.is_empty() => Err(format!("it has an empty {what}")),
        Err(_) => Err(format!("`{}` is not a {what}: letters, digits, `-`, `_` and `.`", shown(text))),
    }
}

/// Azure also allows parentheses in these.
fn resource_group(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')');
    if !text.is_empty() && text.chars().count() <= 90 && text.chars().all(inner) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{}` is not a resource group", shown(text)))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, name, version } = self;
        match scope {
            Scope::Workspace => {
                return match version {
                    VersionRef::Version(version) => write!(f, "{PREFIX}{name}:{version}"),
                    VersionRef::Label(label) => write!(f, "{PREFIX}{name}@{label}"),
                    VersionRef::Default => write!(f, "{PREFIX}{name}"),
                };
            }
            Scope::Registry { registry, assets } => write!(f, "{REGISTRIES}{registry}/{assets}/{name}")?,
            Scope::Arm { subscription, resource_group, workspace, assets } => write!(
                f,
                "{PREFIX}/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/{PROVIDER}/workspaces/\
                 {workspace}/{assets}/{name}"
            )?,
        }
        match version {
            VersionRef::Version(version) => write!(f, "/versions/{version}"),
            VersionRef::Label(label) => write!(f, "/labels/{label}"),
            VersionRef::Default => Ok(()),
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl LocalPath {
    /// The path that the operating system is asked for: `text`, from `base` where it is relative.
    pub fn resolve(&self) -> PathBuf {
        self.base.join(Path::new(&self.text))
    }
}

impl Serialize for LocalPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_round_trip() {
        let arm = "azureml:/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/\
                   Microsoft.MachineLearningServices/workspaces/ws/models/m/versions/1";
        for text in [
            "azureml:m:1",
            "azureml:m@latest",
            "azureml:m",
            "azureml:my-model_2.b:1.0.0-rc1",
            "azureml://registries/azureml/models/m/versions/4",
            "azureml://registries/azureml/environments/e/labels/latest",
            arm,
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let reference: Reference = arm.parse().unwrap();
        assert_eq!(reference.name.as_str(), "m");
        assert!(matches!(reference.scope, Scope::Arm { workspace, .. } if workspace.as_str() == "ws"));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let refusal = |text: &str| text.parse::<Reference>().unwrap_err().to_string();
        insta::assert_snapshot!(refusal("m:1"), @"`m:1` is not a reference: it does not begin with `azureml:`");
        insta::assert_snapshot!(refusal("azureml:m:"), @"`azureml:m:` is not a reference: it has an empty version");
        insta::assert_snapshot!(refusal("azureml:m@"), @"`azureml:m@` is not a reference: it has an empty label");
        insta::assert_snapshot!(refusal("azureml:../m:1"), @"`azureml:../m:1` is not a reference: `../m` is not a name; names are 1 to 255 letters, digits, `-`, `_` and `.`, and begin with a letter, a digit or `_`");
        insta::assert_snapshot!(refusal("azureml:m:../1"), @"`azureml:m:../1` is not a reference: `../1` is not a version: letters, digits, `-`, `_` and `.`");
        insta::assert_snapshot!(refusal("azureml://datastores/d/paths/p"), @"`azureml://datastores/d/paths/p` is not a reference: of `azureml://` paths only `azureml://registries/…` are assets");
        insta::assert_snapshot!(refusal("azureml:/subscriptions/s/resourceGroups/g"), @"`azureml:/subscriptions/s/resourceGroups/g` is not a reference: an ARM id is `/subscriptions/…/workspaces/WORKSPACE/models/NAME/versions/VERSION`");
        insta::assert_snapshot!(refusal("azureml://registries/r/models"), @"`azureml://registries/r/models` is not a reference: the form is `azureml://registries/REGISTRY/models/NAME/versions/VERSION`");
        insta::assert_snapshot!(refusal("azureml://registries/r/models/m/version/1"), @"`azureml://registries/r/models/m/version/1` is not a reference: `version` stands where `versions` or `labels` is expected");
    }
}
