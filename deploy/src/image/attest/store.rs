//! The manifests of documents about an image, in the layout that the image is in.

use moorline_core::Digest;
use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use serde_json::{Value, json};

use crate::image::{Layout, LayoutError, digest_of};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_CONTENT: &[u8] = b"{}";

/// What a document about an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// SPDX 2.3 in JSON.
    Sbom,
    /// An in-toto statement.
    Provenance,
    /// A signature of cosign's kind.
    Signature,
}

impl Attachment {
    const ALL: [Self; 3] = [Self::Sbom, Self::Provenance, Self::Signature];

    /// The `artifactType` by which a registry is asked for such documents.
    pub const fn artifact_type(self) -> &'static str {
        match self {
            Self::Sbom => "application/spdx+json",
            Self::Provenance => "application/vnd.in-toto+json",
            Self::Signature => "application/vnd.dev.cosign.artifact.sig.v1+json",
        }
    }

    /// The media type of the document itself.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Sbom | Self::Provenance => self.artifact_type(),
            Self::Signature => "application/vnd.dev.cosign.simplesigning.v1+json",
        }
    }

    /// What the manifest of such a document is, by its descriptor.
    pub fn of(descriptor: &Descriptor) -> Option<Self> {
        let kind = descriptor.artifact_type().as_ref()?.to_string();
        Self::ALL.into_iter().find(|own| own.artifact_type() == kind)
    }
}

/// Adds a document about `subject`, whose manifest or index is in the layout, and gives the document's own manifest, to
/// be pushed after the image. What is the same as one that is there already is added once. Signatures are added by
/// [`sign`](super::sign). Blocks.
pub fn attach(
    layout: &Layout,
    subject: &Descriptor,
    kind: Attachment,
    content: &[u8],
) -> Result<Descriptor, LayoutError> {
    let document = document(layout, kind, content)?;
    let manifest = manifest(layout, subject, kind, &[document])?;
    add(layout, &manifest)?;
    Ok(manifest)
}

/// Takes up a signature of `subject` that was pulled from a registry. Cosign's own manifests need not name what they
/// sign, so that it gets a manifest that does. What holds no signature adds nothing. Blocks.
pub fn keep_signature(layout: &Layout, subject: &Descriptor, pulled: &Descriptor) -> Result<(), LayoutError> {
    let Some(digest) = digest_of(pulled) else { return Ok(()) };
    let read: ImageManifest = layout.document("manifest", &digest)?;
    let kind = Attachment::Signature;
    let signs = |layer: &&Descriptor| layer.media_type().to_string() == kind.media_type();
    let documents: Vec<Value> = read.layers().iter().filter(signs).map(|layer| json!(layer)).collect();
    if documents.is_empty() {
        return Ok(());
    }
    add(layout, &manifest(layout, subject, kind, &documents)?)
}

/// Lists a manifest in the layout's index, once.
fn add(layout: &Layout, manifest: &Descriptor) -> Result<(), LayoutError> {
    layout.change_index(|all| {
        if !all.iter().any(|one| one.digest() == manifest.digest()) {
            all.push(manifest.clone());
        }
    })
}

/// The manifests of all documents about an image that are in the layout, in the order in which they were added. Blocks.
pub fn referrers(layout: &Layout, subject: &Digest) -> Result<Vec<Descriptor>, LayoutError> {
    let mut found: Vec<Descriptor> = Vec::new();
    for descriptor in layout.index()?.manifests() {
        let Some(digest) = Attachment::of(descriptor).and_then(|_| digest_of(descriptor)) else { continue };
        let manifest: ImageManifest = layout.document("manifest", &digest)?;
        let of = manifest.subject().as_ref().and_then(digest_of);
        if of.as_ref() == Some(subject) && !found.iter().any(|one| one.digest() == descriptor.digest()) {
            found.push(descriptor.clone());
        }
    }
    Ok(found)
}

/// The tag by which cosign finds the signatures of an image: `sha256-<64 hex digits>.sig`.
pub fn signature_tag(subject: &Digest) -> String {
    format!("sha256-{}.sig", subject.hex())
}

/// Adds a document's bytes, and gives their descriptor.
pub(super) fn document(layout: &Layout, kind: Attachment, content: &[u8]) -> Result<Value, LayoutError> {
    let (digest, size) = layout.put(content)?;
    Ok(json!({ "mediaType": kind.media_type(), "digest": digest, "size": size }))
}

/// Adds a manifest of documents about an image.
pub(super) fn manifest(
    layout: &Layout,
    subject: &Descriptor,
    kind: Attachment,
    documents: &[Value],
) -> Result<Descriptor, LayoutError> {
    let (empty, size) = layout.put(EMPTY_CONTENT)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind.artifact_type(),
        "config": { "mediaType": EMPTY, "digest": empty, "size": size },
        "layers": documents,
        "subject": {
            "mediaType": subject.media_type(),
            "digest": subject.digest().to_string(),
            "size": subject.size(),
        },
    });
    let (digest, size) = layout.put(manifest.to_string().as_bytes())?;
    let digest: oci_spec::image::Digest =
        digest.to_string().parse().expect("a digest is one of the specification's");
    let mut descriptor = Descriptor::new(MediaType::ImageManifest, size, digest);
    descriptor.set_artifact_type(Some(MediaType::Other(kind.artifact_type().to_owned())));
    Ok(descriptor)
}
