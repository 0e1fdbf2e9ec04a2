//! An Engine gets an image: from this server's own store, without the layers that it has, or from a registry.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bollard::{
    auth::DockerCredentials,
    errors::Error as Bollard,
    models::ImageInspect,
    query_parameters::{CreateImageOptions, ImportImageOptions, ListImagesOptions},
};
use futures_util::StreamExt;
use moorline_core::{Digest, ErrorClass, Source};
use tokio::time::timeout;

use super::{Engine, EngineError};
use crate::{
    Direction, Progress,
    image::{Image, Images},
    registry::{Reference, Registries},
};

/// An Engine that says nothing about a pull or a load for so long does not go on with it.
const STALLED: Duration = Duration::from_mins(10);
/// Images that are asked for their layers, the newest first.
const MOST_ASKED: usize = 200;

impl Engine {
    /// Makes sure that the Engine has the image, and gives its id there. One that was never pushed is loaded from
    /// `images`; another is pulled by the Engine itself, and loaded where it cannot be pulled and `images` has it.
    pub async fn supply(
        &self,
        reference: &str,
        images: &Images,
        registries: &Registries,
        progress: &Progress,
    ) -> Result<String, EngineError> {
        let parsed: Reference = reference.parse().map_err(|error| {
            EngineError::caused(
                ErrorClass::InvalidInput,
                format!("the image `{reference}` has no valid name"),
                error,
            )
        })?;
        let own = match parsed.digest() {
            Some(digest) => images.image(digest).await.ok(),
            None => None,
        };
        if parsed.registry() == Source::UNPUSHED {
            let image = own.ok_or_else(|| {
                let message =
                    format!("the image `{reference}` is not in the store of images any more; build it again");
                EngineError::new(ErrorClass::NotFound, message)
            })?;
            return self.load(&image, &parsed, images, progress).await;
        }
        // What a tag means may have changed, a digest never does.
        if parsed.digest().is_some()
            && let Some(id) = self.image_id(reference).await?
        {
            return Ok(id);
        }
        match (self.pull(&parsed, registries, progress).await, own) {
            (Ok(id), _) => Ok(id),
            (Err(error), None) => Err(error),
            (Err(error), Some(image)) => {
                progress.line(&format!("{error}; it is loaded from the store of images instead"));
                self.load(&image, &parsed, images, progress).await
            }
        }
    }

    async fn pull(
        &self,
        reference: &Reference,
        registries: &Registries,
        progress: &Progress,
    ) -> Result<String, EngineError> {
        let what = format!("could not pull `{reference}`");
        let credentials = registries
            .credentials(reference.registry())
            .await
            .map_err(|error| EngineError::caused(error.class(), what.clone(), error))?;
        let credentials = credentials.map(|own| {
            let server = Some(reference.registry().to_owned());
            match own.identity_token() {
                Some(token) => DockerCredentials {
                    identitytoken: Some(token.expose().to_owned()),
                    serveraddress: server,
                    ..DockerCredentials::default()
                },
                None => DockerCredentials {
                    username: Some(own.username.clone()),
                    password: Some(own.password.expose().to_owned()),
                    serveraddress: server,
                    ..DockerCredentials::default()
                },
            }
        });
        progress.line(&format!("the Engine pulls {reference}"));
        let options =
            CreateImageOptions { from_image: Some(reference.to_string()), ..CreateImageOptions::default() };
        let mut answers = std::pin::pin!(self.docker().create_image(Some(options), None, credentials));
        let mut totals = HashMap::new();
        while let Some(answer) = timeout(STALLED, answers.next()).await.map_err(|_| stalled(&what))? {
            let answer = answer.map_err(|error| EngineError::of(&what, error))?;
            let Some(layer) = answer.id else { continue };
            match answer.status.as_deref() {
                Some("Downloading") => {
                    let detail = answer.progress_detail.unwrap_or_default();
                    let bytes = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
                    if let (Some(done), Some(total)) = (bytes(detail.current), bytes(detail.total)) {
                        progress.transfer(Direction::Pull, &layer, done.min(total), total);
                        totals.insert(layer, total);
                    }
                }
                Some("Download complete") => {
                    if let Some(total) = totals.remove(&layer) {
                        progress.transfer(Direction::Pull, &layer, total, total);
                    }
                }
                _ => {}
            }
        }
        self.image_id(&reference.to_string()).await?.ok_or_else(|| {
            EngineError::new(ErrorClass::NotFound, format!("{what}: the Engine does not have it afterwards"))
        })
    }

    /// Makes sure that the Engine has an image of the store, whether it was built or is the base of others; its id
    /// there.
    pub(super) async fn give(
        &self,
        image: &Image,
        images: &Images,
        progress: &Progress,
    ) -> Result<String, EngineError> {
        let reference: Reference = image.reference.parse().map_err(|error| {
            EngineError::caused(ErrorClass::Internal, "an image of the store has no valid name", error)
        })?;
        self.load(image, &reference, images, progress).await
    }

    async fn load(
        &self,
        image: &Image,
        reference: &Reference,
        images: &Images,
        progress: &Progress,
    ) -> Result<String, EngineError> {
        // The classic store names an image by its config; others by its manifest, so the tag finds it there.
        let config = image.config_digest.to_string();
        let tag = format!("{}/{}:{}", Source::UNPUSHED, reference.repository(), image.digest.hex());
        for name in [&config, &tag] {
            if let Some(id) = self.image_id(name).await? {
                return Ok(id);
            }
        }
        let had = self.layers_had(image).await;
        let mut loaded = self.send(image, &tag, &had, images, progress).await;
        if loaded.is_err() && !had.is_empty() {
            // The layers went in the meantime, or it is an Engine that cannot do without them.
            loaded = self.send(image, &tag, &HashSet::new(), images, progress).await;
        }
        loaded?;
        for name in [&config, &tag] {
            if let Some(id) = self.image_id(name).await? {
                return Ok(id);
            }
        }
        Err(EngineError::new(
            ErrorClass::Internal,
            format!("the Engine took the image `{reference}` and does not have it"),
        ))
    }

    async fn send(
        &self,
        image: &Image,
        tag: &str,
        without: &HashSet<Digest>,
        images: &Images,
        progress: &Progress,
    ) -> Result<(), EngineError> {
        let what = format!("could not load the image {}", image.digest);
        let archive = images.docker_archive(image, tag, without).await?;
        let (total, name) = (archive.size(), image.digest.to_string());
        let mut done = 0;
        let told = progress.clone();
        let chunks = archive.into_stream().inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                done += chunk.len() as u64;
                told.transfer(Direction::Load, &name, done, total);
            }
        });
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let mut answers = std::pin::pin!(self.docker().import_image_stream(options, chunks, None));
        while let Some(answer) = timeout(STALLED, answers.next()).await.map_err(|_| stalled(&what))? {
            answer.map_err(|error| EngineError::of(&what, error))?;
        }
        Ok(())
    }

    /// The leading layers that the Engine has in this order: it knows a layer by all that are below it.
    async fn layers_had(&self, image: &Image) -> HashSet<Digest> {
        let wanted: Vec<String> = image.diff_ids.iter().map(ToString::to_string).collect();
        let mut most = 0;
        // Without an answer everything is sent.
        let listed = self.docker().list_images(None::<ListImagesOptions>).await.unwrap_or_default();
        for other in listed.iter().take(MOST_ASKED) {
            let Ok(Some(found)) = self.image(&other.id).await else { continue };
            let layers = found.root_fs.and_then(|root| root.layers).unwrap_or_default();
            most = most.max(wanted.iter().zip(&layers).take_while(|(own, other)| own == other).count());
        }
        image.diff_ids.iter().take(most).copied().collect()
    }

    /// The id of an image that the Engine has.
    async fn image_id(&self, name: &str) -> Result<Option<String>, EngineError> {
        Ok(self.image(name).await?.and_then(|found| found.id))
    }

    async fn image(&self, name: &str) -> Result<Option<ImageInspect>, EngineError> {
        match self.docker().inspect_image(name).await {
            Ok(found) => Ok(Some(found)),
            Err(Bollard::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => {
                Err(EngineError::of(&format!("the Engine does not say whether it has `{name}`"), error))
            }
        }
    }
}

fn stalled(what: &str) -> EngineError {
    let message = format!("{what}: the Engine said nothing for {} minutes", STALLED.as_secs() / 60);
    EngineError::new(ErrorClass::Timeout, message)
}
