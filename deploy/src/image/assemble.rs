//! From a release to an image: which layers, in which order, and the documents about them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use moorline_core::{Digest, EngineName, ErrorClass, FileEntry, ModelImage, Release, ReleaseModel, Source};
use oci_spec::image::{Descriptor, ImageConfiguration, MediaType};
use serde_json::{Value, json};

use super::{
    Base, BasePython, Compression, Filesystem, Image, ImageError, ImageRequest, Images, LayerKind, Layout,
    Uncompiled,
    base::{self, BaseImage, BaseOfPlatform},
    blocking,
    config::{self, Changes, Run},
    import,
    layers::{Blob, descriptor},
    layout::Hold,
    scorer::{self, Scorer},
    stored, substitution,
    tarball::{Content, PLAIN, Tree},
};
use crate::{
    Progress,
    registry::{Platform, Reference, Wanted},
};

const RELEASE: &str = "opt/moorline/release";
const ENVIRONMENT: &str = "opt/moorline/release/environment";
/// The repository that Engines know bases by in which something is compiled.
const BASE: &str = "base";
const MOST_KNOWN_PYTHONS: usize = 64;
const DATA_PORT: u16 = 5001;
const ADMIN_PORT: u16 = 5000;
/// Where Azure ML puts models and code in containers with servers of their own.
const APP_ROOT: &str = "/var/azureml-app";
const MODELS: &str = "/var/azureml-app/azureml-models";

impl Images {
    /// Makes the image of a release, or finds it made. Cancelling loses nothing that was finished.
    pub async fn build(&self, request: ImageRequest<'_>, progress: &Progress) -> Result<Image, ImageError> {
        let layout = self.0.layout.clone();
        let hold = Arc::new(blocking(move || Ok(layout.hold()?)).await?);
        let own_server =
            request.environment.is_some_and(|environment| environment.inference_config.is_some());
        let (base, told) = match &request.base {
            Some(base) => (base.clone(), None),
            None => substitution::choose(request.release, request.environment, &self.0.config.mirrored)?,
        };
        if let Some(told) = told {
            progress.line(&told);
        }
        let job = Job { images: self, request: &request, hold: &hold, progress };
        let release = request.release;
        let ort = release.engine.name == Some(EngineName::Ort);
        if ort && !own_server && !self.0.others.is_empty() {
            let host = &self.0.host;
            progress.line(&format!("the engine `ort` is here for {host} alone, and so is the image"));
        }
        let wanted: Vec<Platform> = if own_server || ort || request.bitstream.is_some() {
            vec![self.0.host.clone()]
        } else {
            self.0.platforms().cloned().collect()
        };
        let base = job.base(base, wanted).await?;
        let made = match &base.descriptor {
            // Nothing to add: it runs as it is.
            Some(descriptor) if own_server && release.model.is_none() && release.code.is_none() => {
                descriptor.clone()
            }
            _ => {
                let mut made = Vec::new();
                for image in &base.images {
                    let layers = if own_server {
                        job.beside_own_server(image).await?
                    } else {
                        job.with_scorer(&base, image).await?
                    };
                    made.push((image.platform.clone(), layers));
                }
                job.finish(&base, made).await?
            }
        };
        job.name(made).await
    }

    /// Makes the image that has the model of a release and none of its other files, or finds it made: for a place that
    /// brings the two together. The scorer is in it, which copies the model where a volume cannot be the image itself.
    pub async fn model(
        &self,
        request: ImageRequest<'_>,
        model: &ReleaseModel,
        progress: &Progress,
    ) -> Result<(Image, ModelImage), ImageError> {
        let layout = self.0.layout.clone();
        let hold = Arc::new(blocking(move || Ok(layout.hold()?)).await?);
        let job = Job { images: self, request: &request, hold: &hold, progress };
        let (files, compression) = (request.files.join(Release::MODEL_DIR), request.compression);
        let own = model.clone();
        let (base, made) = job
            .work(move |images| {
                let inner = &images.0;
                let model = inner.make(
                    vec![(LayerKind::Model, tree(ModelImage::FOLDER, &files, &own.files))],
                    compression,
                )?;
                let (mut grounds, mut made) = (Vec::new(), Vec::new());
                for platform in inner.platforms() {
                    let scorer = match inner.other(platform) {
                        Some(program) => scorer::of_static(program)?,
                        None => scorer::plain(&inner.config)?,
                    };
                    let ground =
                        inner.layers.of_tree(LayerKind::Base, &scorer::base(&scorer), compression)?;
                    grounds.push((platform.clone(), ground));
                    let mut layers = Vec::new();
                    for (kind, tree) in &scorer.layers {
                        layers.push((*kind, inner.layers.of_tree(*kind, tree, compression)?));
                    }
                    layers.extend(model.iter().cloned());
                    made.push((platform.clone(), (scorer, layers)));
                }
                Ok((base::of_scorer(grounds), made))
            })
            .await?;
        let addition = |(platform, (scorer, layers))| {
            let mut changes = job.scorer_changes(&base, scorer);
            // Another release with the same model has the same image.
            changes.labels = vec![
                ("org.opencontainers.image.title".to_owned(), model.name.to_string()),
                ("org.opencontainers.image.version".to_owned(), model.version.clone()),
            ];
            (platform, Addition { layers, changes })
        };
        let made = job.finish(&base, made.into_iter().map(addition).collect()).await?;
        let image = job.name(made).await?;
        let own_server =
            request.environment.is_some_and(|environment| environment.inference_config.is_some());
        let apart = model_of(model, own_server, request.model_mount_path, image.reference.clone());
        Ok((image, apart))
    }

    /// Makes the image of a gateway from the server's own program, or finds it made. It is run with what it is told.
    pub async fn gateway(&self, program: &Path, as_name: &str) -> Result<Image, ImageError> {
        let (program, as_name, images) = (program.to_owned(), as_name.to_owned(), self.clone());
        blocking(move || {
            let _hold = images.0.layout.hold()?;
            let gateway = scorer::of_gateway(&program)?;
            let (layers, compression) = (&images.0.layers, Compression::default());
            let ground = layers.of_tree(LayerKind::Base, &scorer::base(&gateway), compression)?;
            let base = base::of_scorer(vec![(images.0.host.clone(), ground)]);
            let mut own = Vec::new();
            for (kind, tree) in &gateway.layers {
                own.push((*kind, layers.of_tree(*kind, tree, compression)?));
            }
            let mut variables = Vec::new();
            if gateway.loader.is_some() {
                variables.push(("LD_LIBRARY_PATH".to_owned(), scorer::LIBRARIES.to_owned()));
            }
            let run = Run {
                entrypoint: vec![scorer::GATEWAY_PATH.to_owned()],
                user: scorer::USER,
                folder: "/tmp",
                ports: [ADMIN_PORT, DATA_PORT],
            };
            let title = ("org.opencontainers.image.title".to_owned(), "moorline-gateway".to_owned());
            let changes = Changes { variables, labels: vec![title], scorer: Some(run) };
            let addition = Addition { layers: own, changes };
            let annotations = stored::base_annotations(None, None);
            let made = put(&images.0.layout, &base.images[0], &addition, annotations)?;
            name(&images, &as_name, &made)
        })
        .await
    }
}

/// What is put on a base.
struct Addition {
    layers: Vec<(LayerKind, Blob)>,
    changes: Changes,
}

struct Job<'a> {
    images: &'a Images,
    request: &'a ImageRequest<'a>,
    hold: &'a Arc<Hold>,
    progress: &'a Progress,
}

impl Job<'_> {
    async fn base(&self, base: Base, wanted: Vec<Platform>) -> Result<BaseImage, ImageError> {
        let compression = self.request.compression;
        let (descriptor, name) = match base {
            Base::Scorer => {
                let (release, devices) = (self.request.release.clone(), self.request.bitstream.is_some());
                return self
                    .work(move |images| {
                        let mut made = Vec::new();
                        for platform in wanted {
                            let tree = scorer::base(&images.0.scorer(&platform, &release, devices)?);
                            let layer = images.0.layers.of_tree(LayerKind::Base, &tree, compression)?;
                            made.push((platform, layer));
                        }
                        Ok(base::of_scorer(made))
                    })
                    .await;
            }
            Base::Registry(reference) => (self.pull(&reference, &wanted).await?, Some(reference.to_string())),
            Base::Path(path) => {
                self.progress.line(&format!("reading the base from `{}`", path.display()));
                let descriptor = self
                    .work(move |images| {
                        import::import(&images.0.layout, &images.0.layers, &path, compression)
                    })
                    .await?;
                (descriptor, None)
            }
        };
        self.work(move |images| base::read(&images.0.layout, &images.0.layers, descriptor, name, &wanted))
            .await
    }

    async fn pull(&self, reference: &Reference, wanted: &[Platform]) -> Result<Descriptor, ImageError> {
        self.progress.line(&format!("base {reference}"));
        let wanted = match wanted {
            [one] => Wanted::One(one.clone()),
            _ => Wanted::All,
        };
        let images = &self.images.0;
        Ok(images.config.registries.pull(reference, &wanted, &images.layout, self.progress).await?)
    }

    /// The layers of an image in which a scorer serves.
    async fn with_scorer(&self, whole: &BaseImage, base: &BaseOfPlatform) -> Result<Addition, ImageError> {
        let (release, compression) = (self.request.release.clone(), self.request.compression);
        let (platform, bitstream) = (base.platform.clone(), self.request.bitstream.map(Path::to_owned));
        let (scorer, mut layers) = self
            .work(move |images| {
                let mut scorer = images.0.scorer(&platform, &release, bitstream.is_some())?;
                if let Some(bitstream) = bitstream {
                    scorer.layers.push((LayerKind::Bitstream, scorer::bitstream(&bitstream)?));
                }
                let mut layers = Vec::new();
                for (kind, tree) in &scorer.layers {
                    layers.push((*kind, images.0.layers.of_tree(*kind, tree, compression)?));
                }
                Ok((scorer, layers))
            })
            .await?;
        layers.extend(self.environment(whole, base).await?);
        let (release, apart) = (self.request.release.clone(), self.request.model_apart);
        let files = self.request.files.to_owned();
        self.progress.line(if apart { "code and release" } else { "model, code and release" });
        let own = self
            .work(move |images| {
                let mut trees = Vec::new();
                if let Some(model) = release.model.as_ref().filter(|_| !apart) {
                    let at = format!("{RELEASE}/{}", Release::MODEL_DIR);
                    trees.push((LayerKind::Model, tree(&at, &files.join(Release::MODEL_DIR), &model.files)));
                }
                if let Some(code) = &release.code {
                    let at = format!("{RELEASE}/{}", Release::CODE_DIR);
                    trees.push((LayerKind::Code, tree(&at, &files.join(Release::CODE_DIR), &code.files)));
                }
                let mut document = Tree::default();
                let text = Content::Bytes(release.to_json().into_bytes());
                document.add(&format!("{RELEASE}/{}", Release::FILE), PLAIN, text);
                trees.push((LayerKind::Release, document));
                images.0.make(trees, compression)
            })
            .await?;
        layers.extend(own);
        Ok(Addition { layers, changes: self.scorer_changes(whole, scorer) })
    }

    fn scorer_changes(&self, whole: &BaseImage, scorer: Scorer) -> Changes {
        let mut variables = vec![
            ("MOORLINE_RELEASE".to_owned(), format!("/{RELEASE}")),
            ("MOORLINE_HOST".to_owned(), "0.0.0.0".to_owned()),
        ];
        variables.extend(scorer.variables);
        // On nothing else the loader is where programs look for it, and finds the libraries by itself.
        let entrypoint = if whole.descriptor.is_none() && scorer.loader.is_some() {
            variables.push(("LD_LIBRARY_PATH".to_owned(), scorer::LIBRARIES.to_owned()));
            vec![scorer::PROGRAM_PATH.to_owned()]
        } else {
            scorer.entrypoint
        };
        let run = Run {
            entrypoint,
            user: scorer::USER,
            folder: "/opt/moorline/release",
            ports: [ADMIN_PORT, DATA_PORT],
        };
        Changes { variables, labels: self.labels(), scorer: Some(run) }
    }

    /// The environment of a scoring script, unless the base has it already: an Engine that built it put it there.
    async fn environment(
        &self,
        whole: &BaseImage,
        base: &BaseOfPlatform,
    ) -> Result<Option<(LayerKind, Blob)>, ImageError> {
        let Some(environment) = self.request.environment else { return Ok(None) };
        if environment.conda_file.is_none() || !substitution::needs_python(self.request.release) {
            return Ok(None);
        }
        // It stands on nothing that has a Python.
        let Some(descriptor) = whole.descriptor.clone() else { return Ok(None) };
        let platform = base.platform.clone();
        let (base, name) = (base.clone(), whole.name.clone().unwrap_or_else(|| "the base".to_owned()));
        let found = self.work(move |images| {
            let Some(python) = python(images, &name, &base)? else { return Ok(None) };
            let digest = super::digest_of(&descriptor)
                .ok_or_else(|| ImageError::refused("the base has a digest that is not sha256"))?;
            let reference = Reference::to_digest(Source::UNPUSHED, BASE, digest)
                .map_err(|error| ImageError::refused(format!("a base cannot be named: {error}")))?
                .to_string();
            let image = stored::read(&images.0.layout, &reference, &descriptor, &base.platform)?;
            Ok(Some((python, image)))
        });
        let Some((python, image)) = found.await? else { return Ok(None) };
        self.progress.line(&format!("environment for Python {}", python.full_version()));
        let environments = &self.images.0.config.environments;
        let made = environments.layer(environment, &python, &image.config_digest, self.progress).await;
        let made = match made {
            Err(error) if !error.without_wheels().is_empty() => {
                let hold = Arc::clone(self.hold);
                let uncompiled = Uncompiled { error, base: image, platform, python, _hold: hold };
                return Err(ImageError::Uncompiled(Box::new(uncompiled)));
            }
            made => made?,
        };
        let compression = self.request.compression;
        let blob = self
            .work(move |images| {
                let mut tree = Tree::default();
                tree.add_folder(ENVIRONMENT, &made.root)
                    .map_err(|error| ImageError::io("could not read the environment's files", error))?;
                images.0.layers.of_tree(LayerKind::Environment, &tree, compression)
            })
            .await?;
        Ok(Some((LayerKind::Environment, blob)))
    }

    /// The layers of an image that brings its own server: its model and its code, where Azure ML puts them.
    async fn beside_own_server(&self, base: &BaseOfPlatform) -> Result<Addition, ImageError> {
        let (release, compression) = (self.request.release.clone(), self.request.compression);
        let files = self.request.files.to_owned();
        let mut variables = vec![("AML_APP_ROOT".to_owned(), APP_ROOT.to_owned())];
        let mut trees = Vec::new();
        if let Some(model) = &release.model {
            let place = beside_own_server(model, self.request.model_mount_path);
            let at = place.trim_start_matches('/');
            if !self.request.model_apart {
                trees.push((LayerKind::Model, tree(at, &files.join(Release::MODEL_DIR), &model.files)));
            }
            variables.push(("AZUREML_MODEL_DIR".to_owned(), place));
        }
        if let Some(code) = &release.code {
            let at = APP_ROOT.trim_start_matches('/');
            trees.push((LayerKind::Code, tree(at, &files.join(Release::CODE_DIR), &code.files)));
        }
        let layers = self.work(move |images| images.0.make(trees, compression)).await?;
        tracing::debug!(platform = %base.platform, "the image's own server stays");
        Ok(Addition { layers, changes: Changes { variables, labels: self.labels(), scorer: None } })
    }

    fn labels(&self) -> Vec<(String, String)> {
        let release = self.request.release;
        let mut labels = vec![
            ("org.moorline.release".to_owned(), release.digest().to_string()),
            ("org.opencontainers.image.title".to_owned(), release.name.to_string()),
        ];
        if let Some(model) = &release.model {
            labels.push(("org.opencontainers.image.version".to_owned(), model.version.clone()));
        }
        labels
    }

    /// Writes the documents: a manifest for every platform, and an index where the base has one.
    async fn finish(
        &self,
        base: &BaseImage,
        made: Vec<(Platform, Addition)>,
    ) -> Result<Descriptor, ImageError> {
        let digest = base.descriptor.as_ref().map(|base| base.digest().to_string());
        let annotations = stored::base_annotations(base.name.as_deref(), digest.as_deref());
        let (bases, is_index) = (base.images.clone(), base.is_index);
        self.work(move |images| {
            let layout = &images.0.layout;
            let mut manifests = Vec::new();
            for (base, (platform, addition)) in bases.iter().zip(made) {
                manifests.push((platform, put(layout, base, &addition, annotations.clone())?));
            }
            match manifests.as_slice() {
                [(_, manifest)] if !is_index => Ok(manifest.clone()),
                several => {
                    let list: Vec<Value> =
                        several.iter().map(|(platform, manifest)| listed(platform, manifest)).collect();
                    let index = json!({
                        "schemaVersion": 2,
                        "mediaType": MediaType::ImageIndex.to_string(),
                        "manifests": list,
                    });
                    let (digest, size) = layout.put(index.to_string().as_bytes())?;
                    Ok(descriptor(MediaType::ImageIndex, &digest, size))
                }
            }
        })
        .await
    }

    async fn name(&self, made: Descriptor) -> Result<Image, ImageError> {
        let as_name = self.request.name.to_owned();
        self.work(move |images| name(images, &as_name, &made)).await
    }

    /// Work on files, on a thread of its own. It goes on where the build is cancelled, and keeps its hold until then.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Images) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let (images, hold) = (self.images.clone(), Arc::clone(self.hold));
        blocking(move || {
            let _hold = hold;
            work(&images)
        })
        .await
    }
}

/// Names an image in the layout, which makes it one that is listed and kept.
fn name(images: &Images, name: &str, made: &Descriptor) -> Result<Image, ImageError> {
    let digest = super::digest_of(made)
        .ok_or_else(|| ImageError::refused("the base has a digest that is not sha256"))?;
    let reference = Reference::to_digest(Source::UNPUSHED, name, digest)
        .map_err(|error| ImageError::refused(format!("an image cannot be named `{name}`: {error}")))?
        .to_string();
    images.0.layout.name(&reference, made)?;
    stored::read(&images.0.layout, &reference, made, &images.0.host)
}

/// Writes the documents of one platform's image.
fn put(
    layout: &Layout,
    base: &BaseOfPlatform,
    addition: &Addition,
    annotations: BTreeMap<String, String>,
) -> Result<Descriptor, ImageError> {
    let config = config::derive(&base.config, base.layers.len(), &addition.layers, &addition.changes);
    let text = serde_json::to_vec(&config).expect("JSON is written");
    let (digest, size) = layout.put(&text)?;
    let config = descriptor(MediaType::ImageConfig, &digest, size);
    let of_base = base.layers.iter().map(|blob| blob.descriptor(LayerKind::Base));
    let own = addition.layers.iter().map(|(kind, blob)| blob.descriptor(*kind));
    config::put_manifest(layout, config, of_base.chain(own).collect(), annotations)
}

/// The Python of a base; `None` where an environment stands on it already. All of a base has to be unpacked to know, so
/// it is remembered: a config names all layers by what is in them.
fn python(images: &Images, name: &str, base: &BaseOfPlatform) -> Result<Option<BasePython>, ImageError> {
    let text = (&base.config, name);
    let key = Digest::of(&serde_json::to_vec(&text).expect("JSON is written"));
    if let Some(known) = images.0.pythons.lock().ok().and_then(|known| known.get(&key).cloned()) {
        return Ok(known);
    }
    let found = look_for_python(images, name, base)?;
    if let Ok(mut known) = images.0.pythons.lock() {
        if known.len() >= MOST_KNOWN_PYTHONS {
            known.clear();
        }
        known.insert(key, found.clone());
    }
    Ok(found)
}

fn look_for_python(
    images: &Images,
    name: &str,
    base: &BaseOfPlatform,
) -> Result<Option<BasePython>, ImageError> {
    let invalid = |error| {
        ImageError::caused(ErrorClass::InvalidInput, "the base's config is no config of an image", error)
    };
    let files = Filesystem::read(base::tars(&images.0.layout, &base.layers)).map_err(|error| {
        let class = error.class();
        ImageError::caused(class, format!("could not look through the files of {name}"), error)
    })?;
    if files.follow(&format!("{ENVIRONMENT}/pyvenv.cfg")).is_some() {
        return Ok(None);
    }
    let config: ImageConfiguration = serde_json::from_value(base.config.clone()).map_err(invalid)?;
    BasePython::find(name, &files, &config).map(Some).map_err(|error| {
        let class = error.class();
        ImageError::caused(class, format!("no environment can be made for {name}"), error)
    })
}

/// A model that is the image of that reference, for a release in whose image the scorer or another server is.
pub fn model_of(
    model: &ReleaseModel,
    own_server: bool,
    mount_path: Option<&str>,
    reference: String,
) -> ModelImage {
    let place = if own_server {
        beside_own_server(model, mount_path)
    } else {
        format!("/{RELEASE}/{}", Release::MODEL_DIR)
    };
    ModelImage { reference, place, bytes: model.files.iter().map(|file| file.size).sum() }
}

/// Where the model is in an image that brings its own server.
fn beside_own_server(model: &ReleaseModel, mount_path: Option<&str>) -> String {
    let models = mount_path.unwrap_or(MODELS).trim_end_matches('/');
    format!("{models}/{}/{}", model.name, model.version)
}

fn listed(platform: &Platform, manifest: &Descriptor) -> Value {
    let mut of = json!({ "architecture": platform.architecture, "os": platform.os });
    if let Some(variant) = &platform.variant {
        of["variant"] = variant.as_str().into();
    }
    json!({
        "mediaType": manifest.media_type().to_string(),
        "digest": manifest.digest().to_string(),
        "size": manifest.size(),
        "platform": of,
    })
}

/// Files of a release, below a folder of the image.
fn tree(at: &str, from: &Path, files: &[FileEntry]) -> Tree {
    let mut tree = Tree::default();
    for FileEntry { path, size, sha256 } in files {
        let content = Content::File { path: from.join(path), size: *size, sha256: *sha256 };
        tree.add(&format!("{at}/{path}"), PLAIN, content);
    }
    tree
}

impl super::Inner {
    fn make(
        &self,
        trees: Vec<(LayerKind, Tree)>,
        compression: Compression,
    ) -> Result<Vec<(LayerKind, Blob)>, ImageError> {
        let trees = trees.into_iter().filter(|(_, tree)| !tree.is_empty());
        trees.map(|(kind, tree)| Ok((kind, self.layers.of_tree(kind, &tree, compression)?))).collect()
    }

    fn scorer(&self, platform: &Platform, release: &Release, devices: bool) -> Result<Scorer, ImageError> {
        match self.other(platform) {
            Some(program) => scorer::of_static(program),
            None => scorer::of_host(&self.config, release, devices),
        }
    }
}
