//! Layers: written once, and known afterwards by what they are made of.
//!
//! Beside the layout's blobs lies `layers/`, with a small file for every recipe: which blob it gave. It is only a memory:
//! whatever is missing there is made again, and comes out as the same blob.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use flate2::{GzBuilder, write::GzEncoder};
use moorline_core::{Digest, ErrorClass};
use oci_spec::image::{Descriptor, DescriptorBuilder, MediaType};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Compression, ImageError, LayerKind, Layout,
    layout::{BlobWriter, replace},
    tarball::Tree,
};

/// Part of every recipe, so that layers that an earlier build made differently are made again.
const FORMAT: &str = "1";
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// Of gzip's header: an unknown system, whatever this one is.
const NO_SYSTEM: u8 = 255;

/// A layer that is in the layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
    pub(crate) media_type: String,
}

impl Blob {
    pub(crate) fn descriptor(&self, kind: LayerKind) -> Descriptor {
        let mut descriptor = descriptor(MediaType::from(self.media_type.as_str()), &self.digest, self.size);
        descriptor
            .set_annotations(Some([(LayerKind::ANNOTATION.to_owned(), kind.as_str().to_owned())].into()));
        descriptor
    }
}

pub(crate) fn descriptor(media_type: MediaType, digest: &Digest, size: u64) -> Descriptor {
    let digest: oci_spec::image::Digest = digest.to_string().parse().expect("a sha256 is a digest of OCI's");
    DescriptorBuilder::default()
        .media_type(media_type)
        .digest(digest)
        .size(size)
        .build()
        .expect("a descriptor has all that it needs")
}

/// The layers of a layout.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    layout: Layout,
    dir: PathBuf,
}

impl Layers {
    pub(crate) fn open(layout: &Layout) -> Result<Self, ImageError> {
        let dir = layout.dir().join("layers");
        fs_err::create_dir_all(&dir)
            .map_err(|error| ImageError::io("could not make the folder of known layers", error))?;
        Ok(Self { layout: layout.clone(), dir })
    }

    /// The layer of these files: found, or made.
    pub(crate) fn of_tree(
        &self,
        kind: LayerKind,
        tree: &Tree,
        compression: Compression,
    ) -> Result<Blob, ImageError> {
        let compression = if kind == LayerKind::Model { Compression::None } else { compression };
        self.once(&(tree.recipe(), compression), || {
            let mut writer = LayerWriter::new(&self.layout, compression)?;
            let written = tree.write(&mut writer);
            written.map_err(|error| {
                let message = format!("could not write the {} layer", kind.as_str());
                match error.kind() {
                    io::ErrorKind::InvalidData => ImageError::caused(ErrorClass::Conflict, message, error),
                    _ => ImageError::io(message, error),
                }
            })?;
            writer.finish()
        })
    }

    /// Makes what a recipe stands for, unless that was done before and the blob is still there.
    pub(crate) fn once(
        &self,
        recipe: &impl Serialize,
        make: impl FnOnce() -> Result<Blob, ImageError>,
    ) -> Result<Blob, ImageError> {
        let text = serde_json::to_vec(&(FORMAT, recipe)).expect("a recipe is a list of texts");
        let place = self.dir.join(Digest::of(&text).hex());
        if let Some(known) = self.known(&place) {
            return Ok(known);
        }
        let blob = make()?;
        let text = serde_json::to_vec(&blob).expect("a blob has only string keys");
        // Without the note the layer is made again, which costs time and nothing else.
        if let Err(error) = replace(&self.dir, &place, &text) {
            tracing::debug!(%error, "a layer is not noted");
        }
        Ok(blob)
    }

    fn known(&self, place: &PathBuf) -> Option<Blob> {
        let blob: Blob = serde_json::from_slice(&fs_err::read(place).ok()?).ok()?;
        let found = fs_err::metadata(self.layout.blob_path(&blob.digest)).ok()?;
        (found.len() == blob.size).then_some(blob)
    }

    /// Forgets layers whose blobs are gone, and clears away what was not written to the end.
    pub(crate) fn tidy(&self) -> io::Result<()> {
        for entry in fs_err::read_dir(&self.dir)?.flatten() {
            if self.known(&entry.path()).is_none() {
                fs_err::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// A tar on its way into a layout: hashed as it is, compressed, and hashed again.
pub(crate) struct LayerWriter {
    /// `None` where the blob is the tar itself.
    diff: Option<Sha256>,
    sink: Sink,
}

enum Sink {
    Plain(BufWriter<BlobWriter>),
    Gzip(GzEncoder<BufWriter<BlobWriter>>),
    Zstd(zstd::Encoder<'static, BufWriter<BlobWriter>>),
}

impl LayerWriter {
    pub(crate) fn new(layout: &Layout, compression: Compression) -> Result<Self, ImageError> {
        let blob = BufWriter::with_capacity(256 * 1024, layout.writer()?);
        let sink = match compression {
            Compression::None => Sink::Plain(blob),
            Compression::Gzip => Sink::Gzip(
                GzBuilder::new()
                    .operating_system(NO_SYSTEM)
                    .write(blob, flate2::Compression::new(GZIP_LEVEL)),
            ),
            Compression::Zstd => Sink::Zstd(
                zstd::Encoder::new(blob, ZSTD_LEVEL)
                    .map_err(|error| ImageError::io("could not begin to compress a layer", error))?,
            ),
        };
        let diff = (!matches!(sink, Sink::Plain(_))).then(Sha256::new);
        Ok(Self { diff, sink })
    }

    pub(crate) fn finish(self) -> Result<Blob, ImageError> {
        let failed = |error| ImageError::io("could not write a layer", error);
        let (blob, media_type) = match self.sink {
            Sink::Plain(blob) => (blob, MediaType::ImageLayer),
            Sink::Gzip(gzip) => (gzip.finish().map_err(failed)?, MediaType::ImageLayerGzip),
            Sink::Zstd(zstd) => (zstd.finish().map_err(failed)?, MediaType::ImageLayerZstd),
        };
        let blob = blob.into_inner().map_err(|error| failed(error.into_error()))?;
        let (digest, size) = blob.finish()?;
        let diff_id = self.diff.map_or(digest, |diff| Digest::new(diff.finalize().into()));
        Ok(Blob { digest, size, diff_id, media_type: media_type.to_string() })
    }
}

impl Write for LayerWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.sink {
            Sink::Plain(blob) => blob.write(bytes)?,
            Sink::Gzip(gzip) => gzip.write(bytes)?,
            Sink::Zstd(zstd) => zstd.write(bytes)?,
        };
        if let Some(diff) = &mut self.diff {
            diff.update(&bytes[..written]);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
