//! Images of deployments: made from a release, described, signed, carried to a registry, and checked before they run.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::SystemTime,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use moorline_core::{
    Desired, Digest, Environment, ErrorClass, FileEntry, ModelImage, Name, ReleaseModel, Secret, Source,
    TargetError,
};
use moorline_deploy::{
    Progress,
    container::{BuildRequest, Engine, EngineError},
    image::{
        Base, Compression, Image, ImageError, ImageRequest, Images, Pruned,
        attest::{self, Attachment, PublicKey, SigningKey},
        name_of,
    },
    registry::{Reference, Registries, RegistryError, Wanted},
};
use moorline_store::Store;
use tokio::io::AsyncWriteExt;

use crate::{hosts::Hosts, problem::chain, release::Releases};

mod compile;

/// What the image of a gateway is called.
const GATEWAY: &str = "moorline-gateway";
/// Files of a build context copied at one time.
const COPIES: usize = 8;

/// Makes images. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ImageMaker {
    images: Images,
    registries: Registries,
    store: Store,
    releases: Releases,
    /// Where build contexts are laid out and what was built of them is kept.
    contexts: PathBuf,
}

/// An image that is asked for.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) desired: &'a Desired,
    /// The repository that it is named by.
    pub(crate) name: String,
    pub(crate) base: Option<Base>,
    /// The bitstream that goes into it.
    pub(crate) bitstream: Option<&'a Path>,
    /// The model is an image of its own, which is made too.
    pub(crate) model_apart: bool,
    pub(crate) compression: Compression,
    /// Where it is pushed to.
    pub(crate) push: Option<Reference>,
    /// Say what it is made of and how: for an image that goes out into the world.
    pub(crate) describe: bool,
    /// The secret with the key that it is signed with.
    pub(crate) sign_with: Option<&'a str>,
}

/// Where an Engine is found for what only an Engine can build.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Builder<'a> {
    /// That of the compute which the image is for.
    Of(&'a Engine),
    /// The one that Docker's own tools would use. Nobody asks whether there is one before it is needed.
    Usual(&'a Hosts),
}

impl Builder<'_> {
    async fn engine(self) -> Result<Option<Engine>, TargetError> {
        match self {
            Self::Of(engine) => Ok(Some(engine.clone())),
            Self::Usual(hosts) => hosts.usual_engine().await,
        }
    }
}

/// An image that is there.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) image: Image,
    /// Where it is: in a registry, or in the server's own store alone.
    pub(crate) reference: String,
    /// The image of its model, where that is one of its own.
    pub(crate) model: Option<(Image, ModelImage)>,
}

impl ImageMaker {
    pub(crate) fn new(
        images: Images,
        registries: Registries,
        store: Store,
        releases: Releases,
        contexts: PathBuf,
    ) -> Self {
        Self { images, registries, store, releases, contexts }
    }

    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// Makes the image with all that is said about it, and pushes it where that is asked for. The Engine of `builder`
    /// builds what a Dockerfile describes and what has to be compiled.
    pub(crate) async fn make(
        &self,
        order: &Order<'_>,
        builder: Builder<'_>,
        progress: &Progress,
    ) -> Result<Made, TargetError> {
        let desired = order.desired;
        let files = self.releases.lend(&desired.release).await.map_err(|error| {
            TargetError::caused(ErrorClass::Internal, "could not lay the release out", error)
        })?;
        let base = match (&order.base, &desired.environment) {
            (Some(base), _) => Some(base.clone()),
            (None, Some(environment)) if environment.build.is_some() => {
                Some(Base::Path(self.built(environment, &desired.context, builder, progress).await?))
            }
            (None, _) => None,
        };
        let request = ImageRequest {
            release: &desired.release,
            files: files.path(),
            environment: desired.environment.as_ref(),
            base,
            compression: order.compression,
            name: &order.name,
            bitstream: order.bitstream,
            model_mount_path: desired.model_mount_path.as_deref(),
            model_apart: order.model_apart,
        };
        let model = match &desired.release.model {
            Some(model) if order.model_apart => {
                Some(self.model(order, request.clone(), model, progress).await?)
            }
            _ => None,
        };
        let image = match (self.images.build(request.clone(), progress).await, request.environment) {
            (Err(ImageError::Uncompiled(uncompiled)), Some(environment)) => {
                self.compile(uncompiled, environment, builder, progress).await?;
                self.images.build(request, progress).await.map_err(image_error)?
            }
            (made, _) => made.map_err(image_error)?,
        };
        progress.line(&format!("image {} of {} MB", image.digest, image.size.div_ceil(1_000_000)));
        if order.describe {
            let environment = desired.environment.as_ref().map(Environment::digest);
            let version = env!("CARGO_PKG_VERSION");
            let described =
                self.images.describe(&image, &desired.release, environment.as_ref(), version).await;
            described.map_err(image_error)?;
            progress.line("its SBOM and its provenance are beside it");
        }
        if let Some(secret) = order.sign_with {
            self.sign(&image, &desired.id.workspace, secret, order.push.as_ref()).await?;
            progress.line(&format!("signed with the secret `{secret}`"));
        }
        let reference = match &order.push {
            None => image.reference.clone(),
            Some(to) => self.push(&image, to, progress).await?,
        };
        Ok(Made { image, reference, model })
    }

    /// Makes the image of a model, and signs and pushes it as its release's image is: to the same repository.
    async fn model(
        &self,
        order: &Order<'_>,
        request: ImageRequest<'_>,
        model: &ReleaseModel,
        progress: &Progress,
    ) -> Result<(Image, ModelImage), TargetError> {
        let (image, mut apart) = self.images.model(request, model, progress).await.map_err(image_error)?;
        progress.line(&format!(
            "the model is an image of its own, {} of {} MB",
            image.digest,
            image.size.div_ceil(1_000_000)
        ));
        let push = match &order.push {
            None => None,
            Some(to) => {
                Some(to.tagged(&format!("model-{}", &image.digest.hex()[..16])).map_err(|error| {
                    let message = format!("`{to}` cannot have an image of a model");
                    TargetError::caused(ErrorClass::InvalidInput, message, error)
                })?)
            }
        };
        if let Some(secret) = order.sign_with {
            self.sign(&image, &order.desired.id.workspace, secret, push.as_ref()).await?;
        }
        if let Some(to) = &push {
            apart.reference = self.push(&image, to, progress).await?;
        }
        Ok((image, apart))
    }

    /// Makes the image of a gateway from the server's own program and pushes it; its reference there.
    pub(crate) async fn gateway(
        &self,
        program: &Path,
        workspace: &Name,
        registry: &str,
        sign_with: Option<&str>,
    ) -> Result<String, TargetError> {
        let name = repository(workspace, GATEWAY);
        let image = self.images.gateway(program, &name).await.map_err(image_error)?;
        let tag = &image.digest.hex()[..16];
        let to: Reference = format!("{registry}/{name}:{tag}").parse().map_err(|error| {
            TargetError::caused(
                ErrorClass::InvalidInput,
                format!("images cannot be pushed to `{registry}`"),
                error,
            )
        })?;
        if let Some(secret) = sign_with {
            self.sign(&image, workspace, secret, Some(&to)).await?;
        }
        self.push(&image, &to, &Progress::none()).await
    }

    /// Pushes an image and all that refers to it; its reference there.
    async fn push(&self, image: &Image, to: &Reference, progress: &Progress) -> Result<String, TargetError> {
        let layout = self.images.layout();
        // A base of the same registry has its layers there.
        let base = image.base.as_deref().and_then(|base| base.parse::<Reference>().ok());
        let base = base.filter(|base| base.registry() == to.registry());
        let mounts: Vec<String> = base.iter().map(|base| base.repository().to_owned()).collect();
        let pushed = self
            .registries
            .push(layout, &image.descriptor, to, &mounts, progress)
            .await
            .map_err(registry_error)?;
        let referrers = self.images.show(&image.digest).await.map_err(image_error)?.referrers;
        for referrer in &referrers {
            let digest = referrer.digest().to_string().parse().map_err(|error| {
                TargetError::caused(ErrorClass::Internal, "a referrer has no sha256 digest", error)
            })?;
            let place = match Attachment::of(referrer) {
                // Where cosign looks.
                Some(Attachment::Signature) => to.tagged(&attest::signature_tag(&image.digest)),
                _ => Ok(to.at(digest)),
            };
            let place = place.map_err(|error| {
                TargetError::caused(
                    ErrorClass::InvalidInput,
                    format!("`{to}` cannot have a signature"),
                    error,
                )
            })?;
            self.registries.push(layout, referrer, &place, &[], progress).await.map_err(registry_error)?;
        }
        progress.line(&format!(
            "pushed to {to}: {:.1} MB sent, {} blobs were there",
            pushed.bytes_sent as f64 / 1e6,
            pushed.skipped + pushed.mounted
        ));
        Ok(to.at(image.digest).to_string())
    }

    /// Takes away every image that is not in `keep`, whatever it is called, and what was built of Dockerfiles for it.
    pub(crate) async fn prune(&self, keep: HashSet<Digest>) -> Result<Pruned, TargetError> {
        let (layout, kept) = (self.images.layout().clone(), keep.clone());
        let forgotten = blocking(move || {
            layout.change_index(|all| {
                all.retain(|descriptor| {
                    let digest = descriptor.digest().to_string().parse().ok();
                    name_of(descriptor).is_none_or(|name| name.starts_with(Source::UNPUSHED))
                        || digest.is_some_and(|digest| kept.contains(&digest))
                });
            })
        })
        .await?;
        forgotten.map_err(|error| image_error(error.into()))?;
        self.clear_contexts(SystemTime::now()).await?;
        self.images.prune(&keep).await.map_err(image_error)
    }

    /// Removes what Engines built of Dockerfiles `before` that time: it can be built again.
    pub(crate) async fn clear_contexts(&self, before: SystemTime) -> Result<(), TargetError> {
        let folder = self.contexts.clone();
        let cleared = blocking(move || {
            if !folder.exists() {
                return Ok(());
            }
            for entry in fs_err::read_dir(folder)? {
                let entry = entry?;
                let archive = entry.path().extension().is_some_and(|end| end == "tar");
                if archive && entry.metadata()?.modified()? < before {
                    fs_err::remove_file(entry.path())?;
                }
            }
            Ok(())
        })
        .await?;
        cleared.map_err(|error| io_error("remove what was built of Dockerfiles", error))
    }

    /// Gives an image a name of its own, beside that of its repository.
    pub(crate) async fn name(&self, reference: &Reference, image: &Image) -> Result<(), TargetError> {
        let (layout, name, image) =
            (self.images.layout().clone(), reference.to_string(), image.descriptor.clone());
        let named = blocking(move || layout.name(&name, &image)).await?;
        named.map_err(|error| image_error(error.into()))
    }

    /// The image of that name.
    pub(crate) async fn named(&self, reference: &Reference) -> Result<Option<Digest>, TargetError> {
        let (layout, name) = (self.images.layout().clone(), reference.to_string());
        let named = blocking(move || layout.named(&name)).await?;
        let named = named.map_err(|error| image_error(error.into()))?;
        Ok(named.and_then(|descriptor| descriptor.digest().to_string().parse().ok()))
    }

    /// Refuses an image that none of these keys has signed. One that was made elsewhere brings its signatures from its
    /// registry.
    pub(crate) async fn check_signature(
        &self,
        image: &Image,
        keys: &[String],
        progress: &Progress,
    ) -> Result<(), TargetError> {
        if keys.is_empty() {
            return Ok(());
        }
        if let Some(base) = &image.base
            && let Ok(base) = base.parse::<Reference>()
            && base.digest() == Some(&image.digest)
        {
            self.fetch_signatures(image, &base, progress).await?;
        }
        let by = self.verify(&image.digest, keys).await.map_err(|error| TargetError {
            message: format!(
                "image {} may not run: the compute asks for a signature by one of its trusted keys",
                image.digest
            ),
            source: Some(Box::new(error)),
            class: ErrorClass::Forbidden,
            log: Vec::new(),
        })?;
        progress.line(&format!("signed by the trusted key {by}"));
        Ok(())
    }

    /// Takes what a registry has of signatures of an image, by either of the two ways in which they are kept there.
    async fn fetch_signatures(
        &self,
        image: &Image,
        at: &Reference,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        let layout = self.images.layout();
        let kind = Attachment::Signature.artifact_type();
        let mut found: Vec<Reference> = Vec::new();
        for referrer in self.registries.referrers(at, Some(kind)).await.map_err(registry_error)? {
            if let Ok(digest) = referrer.digest().to_string().parse() {
                found.push(at.at(digest));
            }
        }
        if let Ok(tagged) = at.tagged(&attest::signature_tag(&image.digest)) {
            found.push(tagged);
        }
        for signature in found {
            let pulled = self.registries.pull(&signature, &Wanted::All, layout, progress).await;
            match pulled {
                Ok(descriptor) => {
                    let (layout, subject) = (layout.clone(), image.descriptor.clone());
                    let kept =
                        blocking(move || attest::keep_signature(&layout, &subject, &descriptor)).await?;
                    kept.map_err(|error| image_error(error.into()))?;
                }
                Err(error) if error.class() == ErrorClass::NotFound => {}
                Err(error) => return Err(registry_error(error)),
            }
        }
        Ok(())
    }

    /// The fingerprint of the key, among these, that has signed an image.
    pub(crate) async fn verify(&self, image: &Digest, keys: &[String]) -> Result<String, TargetError> {
        let (layout, image) = (self.images.layout().clone(), *image);
        let parse = |pem: &String| {
            PublicKey::parse(pem).map_err(|error| {
                TargetError::caused(ErrorClass::InvalidInput, "a public key cannot be used", error)
            })
        };
        let keys = keys.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let verified = blocking(move || attest::verify(&layout, &image, &keys)).await?;
        let verified = verified.map(|verified| verified.by);
        verified.map_err(|error| TargetError::new(error.class(), chain(&error)))
    }

    async fn sign(
        &self,
        image: &Image,
        workspace: &Name,
        secret: &str,
        to: Option<&Reference>,
    ) -> Result<(), TargetError> {
        let key = self.signing_key(workspace, secret).await?;
        let name = match to {
            Some(to) => format!("{}/{}", to.registry(), to.repository()),
            None => image.reference.split('@').next().unwrap_or_default().to_owned(),
        };
        let (layout, subject) = (self.images.layout().clone(), image.descriptor.clone());
        let signed = blocking(move || attest::sign(&layout, &subject, &name, &key)).await?;
        signed.map(|_| ()).map_err(|error| {
            TargetError::caused(ErrorClass::Internal, "could not keep the signature of an image", error)
        })
    }

    async fn signing_key(&self, workspace: &Name, secret: &str) -> Result<SigningKey, TargetError> {
        let found = self.store.secret(workspace, secret).await.map_err(|error| {
            TargetError::caused(error.class(), format!("could not read the secret `{secret}`"), error)
        })?;
        let (_, pem): (u64, Secret) = found.ok_or_else(|| crate::secrets::missing(secret))?;
        SigningKey::parse(&pem).map_err(|error| {
            TargetError::caused(
                ErrorClass::InvalidInput,
                format!("the secret `{secret}` is no key that images can be signed with"),
                error,
            )
        })
    }

    /// What a Dockerfile describes, as the archive that an Engine wrote. It is built once for the same content.
    async fn built(
        &self,
        environment: &Environment,
        context: &[FileEntry],
        builder: Builder<'_>,
        progress: &Progress,
    ) -> Result<PathBuf, TargetError> {
        let dockerfile = environment.build.as_ref().map_or("Dockerfile", |build| &build.dockerfile_path);
        let key =
            Digest::of(&serde_json::to_vec(&(context, dockerfile)).expect("files have only string keys"));
        let archive = self.contexts.join(format!("{}.tar", key.hex()));
        if archive.is_file() {
            return Ok(archive);
        }
        let engine = builder.engine().await?.ok_or_else(|| {
            TargetError::new(
                ErrorClass::Unsupported,
                "the environment is built from a Dockerfile, which needs an Engine, and none was found; start Docker, or say with DOCKER_HOST where it is",
            )
        })?;
        fs_err::create_dir_all(&self.contexts)
            .map_err(|error| io_error("make room for a build context", error))?;
        let folder = tempfile::tempdir_in(&self.contexts)
            .map_err(|error| io_error("make room for a build context", error))?;
        self.lay_out(context, folder.path()).await?;
        let build = BuildRequest {
            context: folder.path(),
            dockerfile,
            tag: &format!("moorline-build:{}", &key.hex()[..32]),
            labels: HashMap::new(),
        };
        let id = engine.build(build, progress).await.map_err(engine_error)?;
        let draft = tempfile::NamedTempFile::new_in(&self.contexts)
            .map_err(|error| io_error("make room for a built image", error))?;
        let mut file = tokio::fs::File::from_std(
            draft.reopen().map_err(|error| io_error("write a built image", error))?,
        );
        let mut exported = std::pin::pin!(engine.export(&id));
        while let Some(piece) = exported.next().await {
            let piece = piece.map_err(engine_error)?;
            file.write_all(&piece).await.map_err(|error| io_error("write a built image", error))?;
        }
        file.sync_all().await.map_err(|error| io_error("write a built image", error))?;
        draft.persist(&archive).map_err(|error| io_error("keep a built image", error.error))?;
        Ok(archive)
    }

    async fn lay_out(&self, context: &[FileEntry], folder: &Path) -> Result<(), TargetError> {
        let files: Vec<(PathBuf, Digest)> =
            context.iter().map(|file| (folder.join(&file.path), file.sha256)).collect();
        for (to, _) in &files {
            let parent = to.parent().unwrap_or(folder);
            fs_err::create_dir_all(parent).map_err(|error| io_error("lay a build context out", error))?;
        }
        stream::iter(files.into_iter().map(Ok))
            .try_for_each_concurrent(COPIES, async |(to, digest)| {
                self.store.blobs().write_to(&digest, &to).await.map_err(|error| {
                    let message = "could not take a file of the build context out of the store";
                    TargetError::caused(error.class(), message, error)
                })
            })
            .await
    }
}

/// Whether it was made in this workspace.
pub(crate) fn in_workspace(image: &Image, workspace: &Name) -> bool {
    let own = part(workspace.as_str());
    image.reference.split('/').nth(1) == Some(own.as_str())
}

/// The repository that the images of an endpoint are named by: `default/iris`. What a repository cannot hold becomes
/// a dash.
pub(crate) fn repository(workspace: &Name, name: &str) -> String {
    let parts = std::iter::once(workspace.as_str()).chain(name.split('/'));
    parts.map(part).collect::<Vec<_>>().join("/")
}

fn part(text: &str) -> String {
    let mut part = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' => part.push(c),
            _ if part.ends_with(|last: char| last.is_ascii_alphanumeric()) => {
                part.push(if matches!(c, '.' | '_') { c } else { '-' });
            }
            _ => {}
        }
    }
    let part = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    if part.is_empty() { "x".to_owned() } else { part.to_owned() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, TargetError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| TargetError::caused(ErrorClass::Internal, "work on an image was broken off", error))
}

fn io_error(what: &str, error: std::io::Error) -> TargetError {
    TargetError::caused(ErrorClass::Internal, format!("could not {what}"), error)
}

pub(crate) fn image_error(error: ImageError) -> TargetError {
    let log = match &error {
        ImageError::Environment(error) => error.log().to_vec(),
        ImageError::Uncompiled(uncompiled) => uncompiled.error.log().to_vec(),
        _ => Vec::new(),
    };
    TargetError::caused(lasting(error.class()), "could not make the image", error).with_log(log)
}

fn engine_error(error: EngineError) -> TargetError {
    let log = error.log().to_vec();
    TargetError::caused(error.class(), "could not build what the Dockerfile describes", error).with_log(log)
}

fn registry_error(error: RegistryError) -> TargetError {
    TargetError::caused(lasting(error.class()), "could not push the image", error)
}

/// What was found to be other than announced will be found so again: nobody should wait for another attempt.
fn lasting(class: ErrorClass) -> ErrorClass {
    match class {
        ErrorClass::Internal => ErrorClass::InvalidInput,
        class => class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_named_as_registries_allow() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        for (workspace, endpoint, expected) in [
            ("default", "iris", "default/iris"),
            ("Team-A", "My_Model.v2", "team-a/my_model.v2"),
            ("_a__b..c-", "x", "a_b.c/x"),
            ("___", "9", "x/9"),
        ] {
            let named = repository(&name(workspace), endpoint);
            assert_eq!(named, expected);
            format!("localhost/{named}").parse::<Reference>().unwrap();
        }
    }
}
