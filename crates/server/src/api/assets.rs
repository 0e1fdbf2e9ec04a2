//! What models, environments and code have in common: versions that are registered once, described anew, archived and
//! restored.

use http::StatusCode;
use moorline_core::{Digest, FileEntry, Name};
use moorline_spec::from_json;
use moorline_store::{Asset, AssetKind, AssetUpdate, NewAsset, Page};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{
    AtName, AtVersion,
    extract::{Object, merge, name_document},
    is_latest,
    list::{List, Part},
    to_json,
};
use crate::{control::Control, problem::ApiError};

/// Which versions a list has.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Archived {
    /// Archived ones too.
    #[serde(default)]
    include_archived: bool,
}

/// How a version is registered.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Registration {
    /// It is part of one deployment, named by its content, and in no list.
    #[serde(default)]
    anonymous: bool,
}

/// What is kept of a document, and what makes it the same as another one.
struct Content {
    body: Value,
    digest: Digest,
    files: Vec<FileEntry>,
}

pub(crate) async fn list(
    control: &Control,
    kind: AssetKind,
    workspace: &Name,
    part: Part,
    archived: &Archived,
) -> Result<List<Value>, ApiError> {
    let page = page(&part, archived)?;
    let found = control.store.assets(workspace, kind, &page).await?;
    Ok(listed(found, page.limit - 1, |asset| asset.name.to_string()))
}

pub(crate) async fn versions(
    control: &Control,
    kind: AssetKind,
    at: &AtName,
    part: Part,
    archived: &Archived,
) -> Result<List<Value>, ApiError> {
    let page = page(&part, archived)?;
    let found = control.store.asset_versions(&at.workspace, kind, &at.name, &page).await?;
    Ok(listed(found, page.limit - 1, |asset| asset.version.clone()))
}

/// One entry more than asked for, which tells whether there is a next page.
fn page(part: &Part, archived: &Archived) -> Result<Page, ApiError> {
    Ok(Page {
        limit: part.limit()? + 1,
        after: part.after.clone(),
        include_archived: archived.include_archived,
    })
}

fn listed(mut found: Vec<Asset>, limit: usize, key: impl Fn(&Asset) -> String) -> List<Value> {
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(key);
    // Thousands of files would make a list slow, and nobody reads them there.
    List { value: found.iter().map(|asset| Value::Object(described(asset))).collect(), next }
}

pub(crate) async fn get(control: &Control, kind: AssetKind, at: &AtVersion) -> Result<Value, ApiError> {
    let asset = if is_latest(&at.version) {
        control.store.latest_asset(&at.workspace, kind, &at.name).await?
    } else {
        control.store.asset(&at.workspace, kind, &at.name, at.version.as_str()).await?
    };
    Ok(show(&asset))
}

pub(crate) async fn register(
    control: &Control,
    kind: AssetKind,
    at: AtName,
    version: Option<Name>,
    mut document: Object,
    registration: &Registration,
) -> Result<(StatusCode, Value), ApiError> {
    name_document(&mut document, "name", at.name.as_str())?;
    match &version {
        Some(version) => name_document(&mut document, "version", version.as_str())?,
        None if document.get("version").is_some_and(|version| !version.is_null()) => {
            return Err(ApiError::invalid("the document has a version, and the next one was asked for")
                .hint("PUT it to its version instead"));
        }
        None => {}
    }
    let Content { body, digest, files } = content(kind, document)?;
    let new = NewAsset {
        workspace: at.workspace,
        kind,
        name: at.name,
        version: version.map(String::from),
        body,
        digest,
        files,
        // Code has no document of its own: it comes with a deployment.
        anonymous: registration.anonymous || kind == AssetKind::Code,
    };
    let registered = control.store.register(new).await?;
    let status = if registered.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, show(&registered.asset)))
}

/// Changes what describes a version: a merge patch of these keys alone.
pub(crate) async fn describe(
    control: &Control,
    kind: AssetKind,
    at: &AtVersion,
    patch: Object,
) -> Result<Value, ApiError> {
    const KEYS: [&str; 4] = ["description", "tags", "properties", "stage"];
    for key in patch.keys() {
        if !KEYS.contains(&key.as_str()) {
            return Err(ApiError::invalid(format!(
                "`{}` of a version never changes",
                key.chars().take(100).collect::<String>()
            ))
            .hint(format!("what can be changed is {}", KEYS.join(", "))));
        }
    }
    let asset = control.store.asset(&at.workspace, kind, &at.name, at.version.as_str()).await?;
    let stage = patch.get("stage").map(|stage| stage.as_str().map(ToOwned::to_owned));
    let mut document = Value::Object(whole(&asset));
    merge(&mut document, Value::Object(patch));
    let Value::Object(document) = document else { return Err(ApiError::invalid("a version is an object")) };
    let update = AssetUpdate { body: Some(content(kind, document)?.body), stage };
    let asset =
        control.store.update_asset_body(&at.workspace, kind, &at.name, at.version.as_str(), update).await?;
    Ok(show(&asset))
}

pub(crate) async fn archive(
    control: &Control,
    kind: AssetKind,
    at: &AtVersion,
    archived: bool,
) -> Result<Value, ApiError> {
    let asset =
        control.store.archive_asset(&at.workspace, kind, &at.name, at.version.as_str(), archived).await?;
    Ok(show(&asset))
}

/// Reads a document and separates what describes a version from what it is.
fn content(kind: AssetKind, mut document: Object) -> Result<Content, ApiError> {
    let (body, digest, files) = match kind {
        AssetKind::Model => {
            let mut model = from_json::<moorline_spec::Model>(&Value::Object(document))?.document;
            if model.files.is_empty() {
                return Err(ApiError::invalid("a model has at least one file")
                    .hint("upload its files as blobs, and list them in `files`"));
            }
            let files = sorted(std::mem::take(&mut model.files));
            let digest = digest_of(&(&model.model_type, &files));
            (to_json(&model)?, digest, files)
        }
        AssetKind::Environment => {
            let files = take_files(&mut document)?;
            let environment = from_json::<moorline_spec::Environment>(&Value::Object(document))?.document;
            let described = environment.described().ok_or_else(|| {
                ApiError::invalid("`build.path` is a folder of yours")
                    .hint("upload it, and give the digest of its list of files as `build.context`")
            })?;
            (to_json(&environment)?, described.digest(), files)
        }
        AssetKind::Bitstream => {
            let mut bitstream = from_json::<moorline_spec::Bitstream>(&Value::Object(document))?.document;
            let files = std::mem::take(&mut bitstream.files);
            if files.len() != 1 {
                return Err(ApiError::invalid("a bitstream is one file")
                    .hint("upload it as a blob, and list it in `files`"));
            }
            let digest = digest_of(&files);
            (to_json(&bitstream)?, digest, files)
        }
        AssetKind::Code => {
            let files = take_files(&mut document)?;
            if files.is_empty() {
                return Err(ApiError::invalid("code has at least one file")
                    .hint("upload its files as blobs, and list them in `files`"));
            }
            let known = ["name", "version", "description", "tags", "properties"];
            if let Some(unknown) = document.keys().find(|key| !known.contains(&key.as_str())) {
                let unknown: String = unknown.chars().take(100).collect();
                return Err(ApiError::invalid(format!("unknown key `{unknown}` in code")));
            }
            (Value::Object(document), digest_of(&files), files)
        }
    };
    let mut body = body;
    if let Some(body) = body.as_object_mut() {
        body.shift_remove("name");
        body.shift_remove("version");
    }
    Ok(Content { body, digest, files })
}

fn take_files(document: &mut Object) -> Result<Vec<FileEntry>, ApiError> {
    let Some(files) = document.shift_remove("files") else { return Ok(Vec::new()) };
    let files =
        serde_json::from_value(files).map_err(|error| ApiError::invalid(format!("files: {error}")))?;
    Ok(sorted(files))
}

/// The same files are the same list, in whatever order they come.
fn sorted(mut files: Vec<FileEntry>) -> Vec<FileEntry> {
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn digest_of(content: &impl serde::Serialize) -> Digest {
    Digest::of(&serde_json::to_vec(content).expect("content has only string keys"))
}

/// A version as it was registered.
fn whole(asset: &Asset) -> Object {
    let mut document = Object::new();
    document.insert("name".to_owned(), asset.name.as_str().into());
    document.insert("version".to_owned(), asset.version.as_str().into());
    document.extend(asset.body.as_object().cloned().unwrap_or_default());
    document.insert("files".to_owned(), json!(asset.files));
    document
}

/// A version with everything that is known of it but its files.
fn described(asset: &Asset) -> Object {
    let mut shown = Object::new();
    shown.insert("id".to_owned(), format!("azureml:{}:{}", asset.name, asset.version).into());
    shown.extend(whole(asset));
    shown.shift_remove("files");
    if let Some(stage) = &asset.stage {
        shown.insert("stage".to_owned(), stage.as_str().into());
    }
    shown.insert("digest".to_owned(), json!(asset.digest));
    shown.insert("is_anonymous".to_owned(), asset.anonymous.into());
    shown.insert("archived".to_owned(), asset.archived.into());
    shown.insert(
        "creation_context".to_owned(),
        json!({ "created_at": asset.created_at, "last_modified_at": asset.modified_at }),
    );
    shown
}

fn show(asset: &Asset) -> Value {
    let mut shown = described(asset);
    shown.insert("files".to_owned(), json!(asset.files));
    Value::Object(shown)
}
