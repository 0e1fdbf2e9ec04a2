//! Images of this server's store: made for other programs to run, listed, checked, given out, and taken away.

use std::collections::HashSet;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use http::{HeaderValue, StatusCode, header};
use moorline_core::{Digest, ErrorClass, Name, TargetError};
use moorline_deploy::image::{Base, Compression, Image, LayerKind, attest::Attachment};
use moorline_deploy::registry::Reference;
use moorline_spec::{OnlineDeployment, from_json};
use moorline_store::RecordKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::io::ReaderStream;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    InWorkspace, Refusals,
    bodies::DeploymentBody as DeploymentDocument,
    endpoints::operation_location,
    extract::{Asked, At, Given},
    list::{List, Part},
};
use crate::{
    control::Control,
    images::{Builder, Order, image_error, in_workspace, repository},
    operations::OperationKind,
    problem::{ApiError, chain},
    resolve::{self, Place},
    status::DeploymentState,
};

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list, build))
        .routes(routes!(prune))
        .routes(routes!(show))
        .routes(routes!(archive))
        .routes(routes!(verify))
        .routes(routes!(packages))
}

/// An image.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct AtImage {
    /// The workspace's name.
    #[param(value_type = String)]
    workspace: Name,
    /// The image's digest, or the name that it was built under (with `%2F` for `/`).
    image: String,
}

/// What an image is made of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BuildBody {
    /// The document of a deployment, as for `PUT …/deployments/{deployment}`. Neither its endpoint nor its compute need
    /// be there.
    #[schema(value_type = DeploymentDocument)]
    deployment: Value,
    /// What the image is called: `registry.example.org/team/iris:7`.
    reference: String,
    /// Push it to the registry that its reference names.
    #[serde(default)]
    push: bool,
    /// The image that it stands on, in the place of the environment's.
    #[serde(default)]
    base: Option<String>,
    /// `gzip` where it is left out.
    #[serde(default)]
    compression: CompressionBody,
    /// The secret with the private key to sign it with.
    #[serde(default)]
    sign_with: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CompressionBody {
    #[default]
    Gzip,
    Zstd,
    None,
}

impl From<CompressionBody> for Compression {
    fn from(body: CompressionBody) -> Self {
        match body {
            CompressionBody::Gzip => Self::Gzip,
            CompressionBody::Zstd => Self::Zstd,
            CompressionBody::None => Self::None,
        }
    }
}

/// A build that was begun.
#[derive(Debug, Serialize, ToSchema)]
struct Begun {
    /// The operation's id.
    operation: String,
    /// The name under which it is found once the operation has succeeded.
    reference: String,
}

/// An image of the store.
#[derive(Debug, Serialize, ToSchema)]
struct ImageShown {
    /// Of its manifest or index.
    digest: String,
    /// The repository that it is named by.
    name: String,
    /// Bytes of all its blobs.
    size: u64,
    /// What it stands on.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// `linux/amd64` and so on.
    platforms: Vec<String>,
    entrypoint: Vec<String>,
    #[schema(value_type = Object)]
    labels: std::collections::BTreeMap<String, String>,
    /// Bottom first.
    layers: Vec<LayerShown>,
    /// What is said about it: not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    referrers: Option<Vec<ReferrerShown>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LayerShown {
    /// `base`, `engine`, `scorer`, `environment`, `model`, `code` or `release`.
    kind: &'static str,
    digest: String,
    size: u64,
}

/// A document about an image.
#[derive(Debug, Serialize, ToSchema)]
struct ReferrerShown {
    /// `sbom`, `provenance`, `signature` or `other`.
    kind: &'static str,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
}

/// What was taken away.
#[derive(Debug, Serialize, ToSchema)]
struct PrunedShown {
    images: usize,
    blobs: usize,
    /// Freed on the disk.
    bytes: u64,
}

/// Keys to look for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeysBody {
    /// Public keys in PEM.
    #[schema(min_items = 1, max_items = 32)]
    keys: Vec<String>,
}

/// Who signed an image.
#[derive(Debug, Serialize, ToSchema)]
struct VerifiedShown {
    digest: String,
    /// The fingerprint of the key.
    by: String,
}

/// Something that an image has in it.
#[derive(Debug, Serialize, ToSchema)]
struct Package {
    name: String,
    version: String,
    /// As far as it is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<String>,
}

impl Package {
    /// Where it stands in the list.
    fn place(&self) -> String {
        format!("{} {}", self.name.to_ascii_lowercase(), self.version.to_ascii_lowercase())
    }
}

/// What is asked of an archive.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Named {
    /// The name that the image has in it.
    name: Option<String>,
}

/// The repository that an image is named by.
fn repository_of(image: &Image) -> &str {
    let named = image.reference.split('@').next().unwrap_or_default();
    named.split_once('/').map_or(named, |(_, name)| name)
}

fn shown(image: Image) -> ImageShown {
    ImageShown {
        digest: image.digest.to_string(),
        name: repository_of(&image).to_owned(),
        size: image.size,
        base: image.base,
        platforms: image.platforms.iter().map(ToString::to_string).collect(),
        entrypoint: image.entrypoint,
        labels: image.labels,
        layers: image
            .layers
            .iter()
            .map(|layer| LayerShown {
                kind: LayerKind::as_str(layer.kind),
                digest: layer.digest.to_string(),
                size: layer.size,
            })
            .collect(),
        referrers: None,
    }
}

/// The images of a workspace, by repository.
#[utoipa::path(get, path = "/workspaces/{workspace}/images", params(InWorkspace, Part),
    responses((status = 200, body = List<ImageShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<ImageShown>>, ApiError> {
    control.store.workspace(&at.workspace).await?;
    let all = control.targets.images().images().list().await.map_err(refusal)?;
    let own = all.into_iter().filter(|image| in_workspace(image, &at.workspace)).collect();
    part.of(own, |image: &Image| &image.reference, |image| Ok(shown(image))).map(Json)
}

/// Makes an image of what a deployment's document describes, and pushes it where that is asked for.
#[utoipa::path(post, path = "/workspaces/{workspace}/images", params(InWorkspace), request_body = BuildBody,
    responses((status = 202, description = "Begun.", body = Begun,
        headers(("operation-location" = String, description = "Where to see how it goes."))), Refusals))]
async fn build(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Given(body): Given<BuildBody>,
) -> Result<Response, ApiError> {
    let document = from_json::<OnlineDeployment>(&body.deployment)?.document;
    let reference = parse(&body.reference)?;
    if reference.digest().is_some() {
        return Err(ApiError::invalid(format!("`{reference}` has a digest, which follows from the image"))
            .hint("give it a tag: `registry.example.org/team/iris:7`"));
    }
    let base = body.base.as_deref().map(parse).transpose()?.map(Base::Registry);
    let resolved = resolve::deployment(
        &control.store,
        &control.targets,
        &at.workspace,
        &document.endpoint_name,
        &document,
        Place::Image,
    )
    .await?;
    let operation =
        control.operations.begin(&at.workspace, OperationKind::BuildImage, &reference.to_string()).await?;
    let location = operation_location(&at.workspace, &operation);
    let begun = Begun { operation: operation.clone(), reference: reference.to_string() };
    let work = control.clone();
    control.changes.spawn(Box::pin(async move {
        let order = Order {
            bitstream: None,
            model_apart: false,
            desired: &resolved.desired,
            name: repository(&at.workspace, reference.repository()),
            base,
            compression: body.compression.into(),
            push: body.push.then(|| reference.clone()),
            describe: true,
            sign_with: body.sign_with.as_deref(),
        };
        for note in &resolved.notes {
            work.operations.log(&operation, note).await;
        }
        work.operations.phase(&operation, "image").await;
        let made = tokio::select! {
            made = make(&work, &operation, &order, &reference) => made,
            () = work.stopping.cancelled() => Err(TargetError::new(
                ErrorClass::Cancelled,
                "the server ended before the image was made; build it again",
            )),
        };
        match made {
            Ok(()) => work.operations.succeed(&operation).await,
            Err(error) => work.operations.fail(&operation, error.class, &chain(&error), &error.log).await,
        }
    }));
    Ok((StatusCode::ACCEPTED, [("operation-location", location)], Json(begun)).into_response())
}

async fn make(
    control: &Control,
    operation: &str,
    order: &Order<'_>,
    reference: &Reference,
) -> Result<(), TargetError> {
    let maker = control.targets.images();
    let builder = Builder::Usual(control.targets.hosts());
    let made = control
        .operations
        .tell(operation, |progress| async move { maker.make(order, builder, &progress).await })
        .await?;
    maker.name(reference, &made.image).await
}

fn parse(text: &str) -> Result<Reference, ApiError> {
    text.parse()
        .map_err(|error: moorline_deploy::registry::ReferenceError| ApiError::invalid(error.to_string()))
}

/// An image with its layers and what is said about it.
#[utoipa::path(get, path = "/workspaces/{workspace}/images/{image}", params(AtImage),
    responses((status = 200, body = ImageShown), Refusals))]
async fn show(State(control): State<Control>, At(at): At<AtImage>) -> Result<Json<ImageShown>, ApiError> {
    let image = find(&control, &at).await?;
    let details = control.targets.images().images().show(&image.digest).await.map_err(refusal)?;
    let referrers = details.referrers.iter().map(|referrer| ReferrerShown {
        kind: match Attachment::of(referrer) {
            Some(Attachment::Sbom) => "sbom",
            Some(Attachment::Provenance) => "provenance",
            Some(Attachment::Signature) => "signature",
            None => "other",
        },
        digest: referrer.digest().to_string(),
        artifact_type: referrer.artifact_type().as_ref().map(ToString::to_string),
    });
    let referrers = Some(referrers.collect());
    Ok(Json(ImageShown { referrers, ..shown(details.image) }))
}

/// An image as the tar of an OCI layout: the same bytes for the same image and name.
#[utoipa::path(get, path = "/workspaces/{workspace}/images/{image}/archive", params(AtImage, Named),
    responses((status = 200, description = "The tar.", body = Vec<u8>, content_type = "application/x-tar",
        headers(("content-length" = u64))), Refusals))]
async fn archive(
    State(control): State<Control>,
    At(at): At<AtImage>,
    Asked(named): Asked<Named>,
) -> Result<Response, ApiError> {
    let image = find(&control, &at).await?;
    let name = match named.name {
        Some(name) => parse(&name)?.to_string(),
        None => image.reference.clone(),
    };
    let images = control.targets.images().images();
    let file = tempfile::NamedTempFile::new_in(images.layout().dir())
        .map_err(|error| ApiError::internal("could not make room for an archive", error))?;
    images.oci_archive(&image.digest, &name, file.path()).await.map_err(refusal)?;
    // Written by its name, read by its name, and gone with it.
    let opened = tokio::fs::File::open(file.path())
        .await
        .map_err(|error| ApiError::internal("could not read an archive", error))?;
    let size = opened
        .metadata()
        .await
        .map_err(|error| ApiError::internal("could not read an archive", error))?
        .len();
    let content = ReaderStream::with_capacity(opened, 256 * 1024).map_err(move |error| {
        let _kept = &file;
        error
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar")),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
    ];
    Ok((headers, Body::from_stream(content)).into_response())
}

/// Looks for a signature by one of these keys.
#[utoipa::path(post, path = "/workspaces/{workspace}/images/{image}/verify", params(AtImage),
    request_body = KeysBody, responses((status = 200, body = VerifiedShown),
        (status = 403, description = "None of the keys has signed it."), Refusals))]
async fn verify(
    State(control): State<Control>,
    At(at): At<AtImage>,
    Given(body): Given<KeysBody>,
) -> Result<Json<VerifiedShown>, ApiError> {
    if body.keys.is_empty() || body.keys.len() > 32 {
        return Err(ApiError::invalid("`keys` has to have 1 to 32 public keys"));
    }
    let image = find(&control, &at).await?;
    let by = control.targets.images().verify(&image.digest, &body.keys).await?;
    Ok(Json(VerifiedShown { digest: image.digest.to_string(), by }))
}

/// What the SBOM of an image lists.
#[utoipa::path(get, path = "/workspaces/{workspace}/images/{image}/packages", params(AtImage, Part),
    responses((status = 200, body = List<Package>), Refusals))]
async fn packages(
    State(control): State<Control>,
    At(at): At<AtImage>,
    Asked(part): Asked<Part>,
) -> Result<Json<List<Package>>, ApiError> {
    let image = find(&control, &at).await?;
    let sbom = control.targets.images().images().sbom(&image.digest).await.map_err(refusal)?;
    let sbom = sbom.ok_or_else(|| ApiError::not_found(format!("image `{}` has no SBOM", at.image)))?;
    let text = |value: &Value| value.as_str().filter(|text| *text != "NOASSERTION").map(ToOwned::to_owned);
    let packages = sbom["packages"].as_array().into_iter().flatten().filter_map(|package| {
        Some(Package {
            name: text(&package["name"])?,
            version: text(&package["versionInfo"]).unwrap_or_default(),
            license: text(&package["licenseDeclared"]).or_else(|| text(&package["licenseConcluded"])),
        })
    });
    let mut packages: Vec<Package> = packages.collect();
    packages.sort_by_cached_key(Package::place);
    packages.dedup_by_key(|package| package.place());
    let keyed: Vec<(String, Package)> =
        packages.into_iter().map(|package| (package.place(), package)).collect();
    part.of(keyed, |(place, _)| place, |(_, package)| Ok(package)).map(Json)
}

/// Takes away the images of this workspace that no deployment uses, and every blob that nothing needs.
#[utoipa::path(post, path = "/workspaces/{workspace}/images/prune", params(InWorkspace),
    responses((status = 200, body = PrunedShown), Refusals))]
async fn prune(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
) -> Result<Json<PrunedShown>, ApiError> {
    control.store.workspace(&at.workspace).await?;
    let images = control.targets.images().images();
    let mut keep: HashSet<Digest> = control.targets.needed_by_devices().into_iter().collect();
    let mut on_their_way = HashSet::new();
    for record in control.store.records(RecordKind::Deployment, None).await? {
        let state = DeploymentState::read(&record).map_err(|error| {
            ApiError::internal(format!("the record of `{}` cannot be read", record.name), error)
        })?;
        if !state.settled() {
            let endpoint = state.body.desired.id.endpoint.as_str();
            on_their_way.insert(repository(&record.workspace, endpoint));
        }
        let model = state.status.model_image.as_ref().map(|model| model.reference.as_str());
        let images = state.status.image.as_deref().into_iter().chain(model);
        let digests = images.filter_map(|image| image.rsplit_once('@')?.1.parse::<Digest>().ok());
        keep.extend(digests);
    }
    let all = images.list().await.map_err(refusal)?;
    let kept =
        |image: &&Image| !in_workspace(image, &at.workspace) || on_their_way.contains(repository_of(image));
    keep.extend(all.iter().filter(kept).map(|image| image.digest));
    let pruned = control.targets.images().prune(keep).await?;
    Ok(Json(PrunedShown { images: pruned.images, blobs: pruned.blobs, bytes: pruned.bytes }))
}

/// By digest or by the name that it was built under.
async fn find(control: &Control, at: &AtImage) -> Result<Image, ApiError> {
    control.store.workspace(&at.workspace).await?;
    let maker = control.targets.images();
    let digest = match at.image.parse::<Digest>() {
        Ok(digest) => Some(digest),
        Err(_) => maker.named(&parse(&at.image)?).await?,
    };
    let absent = || {
        ApiError::not_found(format!("there is no image `{}`", at.image))
            .hint("`moorline image list` shows those that there are")
    };
    let digest = digest.ok_or_else(absent)?;
    // Another workspace may have made the same image under its own name.
    let all = maker.images().list().await.map_err(refusal)?;
    let own = |image: &Image| image.digest == digest && in_workspace(image, &at.workspace);
    all.into_iter().find(own).ok_or_else(absent)
}

fn refusal(error: moorline_deploy::image::ImageError) -> ApiError {
    image_error(error).into()
}
