//! Manifests and indexes: asked for, verified, and read within bounds.

use http::{Method, StatusCode, header};
use moorline_core::Digest;
use oci_spec::image::{Descriptor, DescriptorBuilder, ImageIndex, ImageManifest, MediaType};
use reqwest::Response;
use serde::Deserialize;

use super::{
    RegistryError, exchange,
    remote::{Remote, Request},
};
use crate::image::LONGEST_DOCUMENT;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_DIGEST: &str = "docker-content-digest";
pub(super) const MOST_LAYERS: usize = 512;
pub(super) const MOST_MANIFESTS: usize = 512;

/// A manifest or an index, parsed.
#[derive(Debug)]
pub(super) enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

/// A document as it is, and what it says.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
    pub(super) document: Document,
}

/// What tells the kinds of documents from one another.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

impl Served {
    /// Reads a document that was sent or kept as `media_type`. `image` is whose it is, for people.
    pub(super) fn read(bytes: Vec<u8>, media_type: Option<&str>, image: &str) -> Result<Self, RegistryError> {
        let digest = Digest::of(&bytes);
        let kind =
            |kind: &str, hint| RegistryError::Kind { image: image.to_owned(), kind: kind.to_owned(), hint };
        let broken = |error: serde_json::Error| {
            kind(&format!("it is no manifest ({error})"), "see what was pushed under this name")
        };
        let outline: Outline = serde_json::from_slice(&bytes).map_err(broken)?;
        let known = |media_type: &&str| {
            matches!(*media_type, OCI_MANIFEST | OCI_INDEX | DOCKER_MANIFEST | DOCKER_LIST)
        };
        let is_old =
            |media_type: &str| media_type.starts_with("application/vnd.docker.distribution.manifest.v1+");
        if outline.schema_version == Some(1) || media_type.is_some_and(is_old) {
            return Err(kind(
                "Docker's manifest of schema 1",
                "push it again with a newer Docker, or use another tag",
            ));
        }
        let is_index = outline.manifests.is_some();
        let is_manifest = outline.config.is_some() || outline.layers.is_some();
        if is_index == is_manifest {
            return Err(kind("neither a manifest nor an index", "see what was pushed under this name"));
        }
        // A registry may serve it as plain JSON; then the document says what it is.
        let said = media_type.filter(known).or(outline.media_type.as_deref().filter(known));
        let media_type = said.unwrap_or(if is_index { OCI_INDEX } else { OCI_MANIFEST });
        if matches!(media_type, OCI_INDEX | DOCKER_LIST) != is_index {
            return Err(kind("served as what it is not", "see what was pushed under this name"));
        }
        let bound = |what, count: usize, most: usize| {
            let image = image.to_owned();
            (count > most).then(|| RegistryError::TooLarge {
                image,
                what,
                why: format!("{count}, where {most} are the most"),
            })
        };
        let media_type = media_type.to_owned();
        let (document, beyond) = if is_index {
            let index: ImageIndex = serde_json::from_slice(&bytes).map_err(broken)?;
            let beyond = bound("the number of images", index.manifests().len(), MOST_MANIFESTS);
            (Document::Index(Box::new(index)), beyond)
        } else {
            let manifest: ImageManifest = serde_json::from_slice(&bytes).map_err(broken)?;
            let beyond = bound("the number of layers", manifest.layers().len(), MOST_LAYERS);
            (Document::Manifest(Box::new(manifest)), beyond)
        };
        beyond.map_or(Ok(Self { digest, media_type, bytes, document }), Err)
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        descriptor(&self.digest, self.bytes.len() as u64, &self.media_type)
    }

    /// What this refers to, as a signature does.
    pub(super) fn subject(&self) -> Option<&Descriptor> {
        match &self.document {
            Document::Manifest(manifest) => manifest.subject().as_ref(),
            Document::Index(index) => index.subject().as_ref(),
        }
    }
}

pub(super) fn descriptor(digest: &Digest, size: u64, media_type: &str) -> Descriptor {
    let digest: oci_spec::image::Digest = digest.to_string().parse().expect("a digest is one there too");
    let descriptor = DescriptorBuilder::default()
        .media_type(MediaType::from(media_type))
        .digest(digest)
        .size(size)
        .build();
    descriptor.expect("it has all that it needs")
}

impl Remote {
    /// What a tag or digest means now.
    pub(super) async fn descriptor(&self, version: &str) -> Result<Descriptor, RegistryError> {
        match self.head(version).await? {
            Some(descriptor) => Ok(descriptor),
            None => Ok(self.manifest(version).await?.descriptor()),
        }
    }

    /// `None`: the registry has to be asked for the document itself to know.
    async fn head(&self, version: &str) -> Result<Option<Descriptor>, RegistryError> {
        let action = format!("say what `{}` is", self.named(version));
        let request = self.asking(Method::HEAD, version, &action);
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(self.missing(version)),
            StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
            _ => return Err(self.refused(&action, response).await),
        }
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let kind = media_type(&response);
        Ok(match (said_digest(&response), length, kind) {
            (Some(digest), Some(length), Some(kind)) if kind.starts_with("application/vnd.") => {
                self.check(version, digest)?;
                Some(descriptor(&digest, length, &kind))
            }
            _ => None,
        })
    }

    /// A manifest or index, by tag or by digest.
    pub(super) async fn manifest(&self, version: &str) -> Result<Served, RegistryError> {
        let name = self.named(version);
        let action = format!("give the manifest of `{name}`");
        let response = self.send(self.asking(Method::GET, version, &action)).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(self.missing(version)),
            _ => return Err(self.refused(&action, response).await),
        }
        let said = said_digest(&response);
        let kind = media_type(&response);
        let bytes = exchange::body(&self.endpoint, &action, response, LONGEST_DOCUMENT as usize).await?;
        let digest = Digest::of(&bytes);
        self.check(version, digest)?;
        if let Some(said) = said.filter(|said| *said != digest) {
            return Err(self.corrupt(said, digest));
        }
        Served::read(bytes, kind.as_deref(), &format!("{}/{name}", self.endpoint.name))
    }

    pub(super) fn missing(&self, version: &str) -> RegistryError {
        RegistryError::NotFound {
            host: self.endpoint.name.clone(),
            what: format!("image `{}`", self.named(version)),
        }
    }

    /// What was asked for by digest has this digest.
    fn check(&self, version: &str, actual: Digest) -> Result<(), RegistryError> {
        match version.parse::<Digest>() {
            Ok(expected) if expected != actual => Err(self.corrupt(expected, actual)),
            _ => Ok(()),
        }
    }

    fn corrupt(&self, expected: Digest, actual: Digest) -> RegistryError {
        RegistryError::Corrupt { host: self.endpoint.name.clone(), what: "manifest", expected, actual }
    }

    fn named(&self, version: &str) -> String {
        let separator = if version.contains(':') { '@' } else { ':' };
        format!("{}{separator}{version}", self.repository())
    }

    fn asking<'a>(&self, method: Method, version: &str, action: &'a str) -> Request<'a> {
        let request = Request::new(method, self.url(&format!("manifests/{version}")), action);
        [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST]
            .iter()
            .fold(request, |request, kind| request.header(header::ACCEPT, kind))
    }
}

/// The digest that a registry says it sends or took.
pub(super) fn said_digest(response: &Response) -> Option<Digest> {
    response.headers().get(DOCKER_DIGEST)?.to_str().ok()?.parse().ok()
}

/// Without its parameters.
fn media_type(response: &Response) -> Option<String> {
    let value = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, media_type: Option<&str>) -> Result<Served, String> {
        Served::read(text.as_bytes().to_vec(), media_type, "x.io/a:1").map_err(|error| error.to_string())
    }

    const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

    fn manifest(layers: usize) -> String {
        let layer = format!(r#"{{"mediaType":"a/b","digest":"{}","size":0}}"#, Digest::of(b""));
        let layers = vec![layer.as_str(); layers].join(",");
        format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layers}]}}"#)
    }

    #[test]
    fn the_kind_is_what_it_is_served_as_and_what_it_says() {
        assert_eq!(read(INDEX, None).unwrap().media_type, OCI_INDEX);
        assert_eq!(read(INDEX, Some("application/json")).unwrap().media_type, OCI_INDEX);
        assert_eq!(read(INDEX, Some(DOCKER_LIST)).unwrap().media_type, DOCKER_LIST);
        assert_eq!(read(&manifest(1), Some(DOCKER_MANIFEST)).unwrap().media_type, DOCKER_MANIFEST);
        let docker = manifest(1).replacen('{', &format!(r#"{{"mediaType":"{DOCKER_MANIFEST}","#), 1);
        assert_eq!(read(&docker, Some("text/plain")).unwrap().media_type, DOCKER_MANIFEST);
    }

    #[test]
    fn what_is_neither_or_both_or_too_much_is_refused() {
        let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        let error =
            read(schema1, Some("application/vnd.docker.distribution.manifest.v1+prettyjws")).unwrap_err();
        assert!(
            error.contains("`x.io/a:1` is of a kind that is not supported: Docker's manifest of schema 1")
        );
        let both = INDEX.replacen('{', r#"{"layers":[],"#, 1);
        for (text, media_type) in [("{}", None), (&*both, None), (INDEX, Some(OCI_MANIFEST))] {
            assert!(read(text, media_type).unwrap_err().contains("is of a kind that is not supported"));
        }
        assert!(read("[", None).is_err());
        assert!(read(&manifest(MOST_LAYERS), None).is_ok());
        assert!(read(&manifest(MOST_LAYERS + 1), None).unwrap_err().contains("beyond a bound"));
    }
}
