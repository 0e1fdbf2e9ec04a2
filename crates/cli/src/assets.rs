//! Inline assets of documents: their files are uploaded, the asset is registered by its content, and the document goes
//! on with a reference.

use anyhow::bail;
use moorline_core::{Digest, FileEntry};
use moorline_spec::{
    AssetRef, Bitstream, BuildContext, BuildSource, CodeSource, Environment, Model, OnlineDeployment,
    Reference,
};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, Precondition},
    files,
    screen::Screen,
    upload,
};

/// Digits of a digest that make the name or the version of something that nobody named.
const SHORT: usize = 32;

/// Uploads what a deployment has inline, and puts references in its place.
pub(crate) async fn register_inline(
    client: &Client,
    screen: &Screen,
    deployment: &mut OnlineDeployment,
) -> anyhow::Result<()> {
    if let Some(AssetRef::Inline(model)) = &deployment.model {
        let reference = inline_model(client, screen, model).await?;
        deployment.model = Some(AssetRef::Reference(reference));
    }
    if let Some(code) = &mut deployment.code_configuration
        && let CodeSource::Local(path) = &code.code
    {
        let folder = path.resolve();
        let sources = files::of_folder(&folder, "")?;
        if !sources.iter().any(|source| source.path == code.scoring_script) {
            bail!("the scoring script `{}` is not in `{}`", code.scoring_script, folder.display());
        }
        let files = upload::store(client, screen, "code", sources).await?;
        code.code = CodeSource::Reference(register_code(client, &files).await?);
    }
    if let Some(AssetRef::Inline(environment)) = &deployment.environment {
        let reference = inline_environment(client, screen, environment).await?;
        deployment.environment = Some(AssetRef::Reference(reference));
    }
    Ok(())
}

/// Uploads the files of a model; what is left is what the server registers.
pub(crate) async fn upload_model(client: &Client, screen: &Screen, model: &Model) -> anyhow::Result<Model> {
    let mut model = model.clone();
    if let Some(path) = model.path.take() {
        if path.text.contains("://") || path.text.starts_with("runs:/") {
            bail!("`{}` is not a path on this machine; download it first", path.text);
        }
        let sources = files::of_model(&path.resolve())?;
        model.files = upload::store(client, screen, "model", sources).await?;
    }
    Ok(model)
}

/// Uploads the file of a bitstream; what is left is what the server registers.
pub(crate) async fn upload_bitstream(
    client: &Client,
    screen: &Screen,
    bitstream: &Bitstream,
) -> anyhow::Result<Bitstream> {
    let mut bitstream = bitstream.clone();
    if let Some(path) = bitstream.path.take() {
        let sources = files::of_model(&path.resolve())?;
        let [_] = &sources[..] else { bail!("`{}` is a folder, and a bitstream is one file", path.text) };
        bitstream.files = upload::store(client, screen, "bitstream", sources).await?;
    }
    Ok(bitstream)
}

/// Uploads the build context of an environment, if it has one; also gives what the server registers.
pub(crate) async fn upload_environment(
    client: &Client,
    screen: &Screen,
    environment: &Environment,
) -> anyhow::Result<(Environment, Value)> {
    let mut environment = environment.clone();
    let mut files = Vec::new();
    if let Some(BuildContext { source, dockerfile_path }) = &mut environment.build
        && let BuildSource::Local(path) = source
    {
        let folder = path.resolve();
        let sources = files::of_folder(&folder, "")?;
        if !sources.iter().any(|source| source.path == *dockerfile_path) {
            bail!("there is no `{dockerfile_path}` in the build context `{}`", folder.display());
        }
        files = upload::store(client, screen, "build context", sources).await?;
        *source = BuildSource::Context(digest_of(&files)?);
    }
    let mut body = serde_json::to_value(&environment)?;
    if !files.is_empty() {
        body["files"] = serde_json::to_value(files)?;
    }
    Ok((environment, body))
}

async fn inline_model(client: &Client, screen: &Screen, model: &Model) -> anyhow::Result<Reference> {
    let model = upload_model(client, screen, model).await?;
    let body = serde_json::to_value(&model)?;
    let digest = digest_of(&(&model.model_type, &model.files))?;
    let name = match &model.name {
        Some(name) => name.clone(),
        None => format!("model-{}", short(digest)).parse()?,
    };
    let version = match &model.version {
        Some(version) => version.clone(),
        // The same content is the same version, however often it is deployed.
        None if model.name.is_some() => short(digest),
        None => "1".to_owned(),
    };
    let anonymous = model.name.is_none() || model.version.is_none();
    register(client, &["models", name.as_str(), "versions", &version], body, anonymous).await?;
    Ok(Reference::to_version(name, version))
}

async fn inline_environment(
    client: &Client,
    screen: &Screen,
    environment: &Environment,
) -> anyhow::Result<Reference> {
    let (environment, body) = upload_environment(client, screen, environment).await?;
    let digest = digest_of(&environment.described())?;
    let name = match &environment.name {
        Some(name) => name.clone(),
        None => format!("environment-{}", short(digest)).parse()?,
    };
    let version = match &environment.version {
        Some(version) => version.clone(),
        None if environment.name.is_some() => short(digest),
        None => "1".to_owned(),
    };
    let anonymous = environment.name.is_none() || environment.version.is_none();
    register(client, &["environments", name.as_str(), "versions", &version], body, anonymous).await?;
    Ok(Reference::to_version(name, version))
}

async fn register_code(client: &Client, files: &[FileEntry]) -> anyhow::Result<Reference> {
    let name = format!("code-{}", short(digest_of(&files)?));
    register(client, &["codes", &name, "versions", "1"], json!({ "files": files }), true).await?;
    Ok(Reference::to_version(name.parse()?, "1"))
}

async fn register(client: &Client, at: &[&str], body: Value, anonymous: bool) -> anyhow::Result<()> {
    let mut url = client.at(at);
    if anonymous {
        url.query_pairs_mut().append_pair("anonymous", "true");
    }
    client.call(Method::PUT, url, Some(&body), Precondition::Any).await?;
    Ok(())
}

/// The digest of what something consists of, and of nothing else: neither when nor where.
fn digest_of(content: &impl Serialize) -> anyhow::Result<Digest> {
    Ok(Digest::of(&serde_json::to_vec(content)?))
}

fn short(digest: Digest) -> String {
    digest.hex().chars().take(SHORT).collect()
}
