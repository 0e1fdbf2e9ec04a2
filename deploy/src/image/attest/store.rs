//! The manifests of documents about an image, in the layout that the image is in.

use std::collections::HashMap;

use moorline_core::Digest;
use oci_spec::image::Descriptor;

use crate::image::{Layout, LayoutError};

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
    /// The `artifactType` by which a registry is asked for such documents.
    pub const fn artifact_type(self) -> &'static str {
        match self {
            Self::Sbom => "application/spdx+json",
            Self::Provenance => "application/vnd.in-toto+json",
            Self::Signature => "application/vnd.dev.cosign.artifact.sig.v1+json",
        }
    }
}

/// Adds a document about `subject`, whose manifest or index is in the layout, and gives the document's own manifest,
/// for [`Registries::push`](crate::registry). What is the same as one that is there already is added once. `annotations`
/// are those of the document's descriptor in the manifest. Blocks.
pub fn attach(
    layout: &Layout,
    subject: &Descriptor,
    kind: Attachment,
    content: &[u8],
    annotations: HashMap<String, String>,
) -> Result<Descriptor, LayoutError> {
    let _ = (layout, subject, kind, content, annotations);
    unimplemented!()
}

/// The manifests of all documents about an image that are in the layout, in the order in which they were added. Blocks.
pub fn referrers(layout: &Layout, subject: &Digest) -> Result<Vec<Descriptor>, LayoutError> {
    let _ = (layout, subject);
    unimplemented!()
}

/// The tag by which cosign finds the signatures of an image: `sha256-<64 hex digits>.sig`.
pub fn signature_tag(subject: &Digest) -> String {
    format!("sha256-{}.sig", subject.hex())
}
