//! How an image was made, as an in-toto statement with SLSA's predicate.

use moorline_core::Digest;

/// Something that went into an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    /// A reference or a name: `docker.io/library/python:3.11`.
    pub name: String,
    pub digest: Digest,
}

/// How an image was made.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// What people call the image: `registry/repository`.
    pub name: &'a str,
    /// Of its manifest or index.
    pub digest: &'a Digest,
    pub release: &'a Digest,
    pub base: Option<&'a Material>,
    pub environment: Option<&'a Digest>,
    /// What else went in: the scorer, engine libraries, the model's and the code's layer.
    pub materials: &'a [Material],
    /// The version of Moorline that made it.
    pub version: &'a str,
    /// RFC 3339; left out, the document is the same whenever it is made.
    pub finished: Option<&'a str>,
}

/// The statement's bytes: the same for the same facts.
pub fn provenance(made: &Made<'_>) -> Vec<u8> {
    let _ = made;
    unimplemented!()
}
