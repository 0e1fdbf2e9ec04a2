//! An OCI image layout on disk: blobs under their digests, and `index.json` with the names.
//!
//! A blob is written beside and moved into place once it is whole and verified, so that one that exists is right as far
//! as this process can tell. Any number of processes may add to one layout at a time.
//!
//! Source: the OCI image specification, "Image Layout".

use std::{
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use moorline_core::Digest;
use oci_spec::image::{Descriptor, ImageIndex, ImageIndexBuilder};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use thiserror::Error;

/// The annotation of a name in `index.json`.
pub(crate) const NAME: &str = "org.opencontainers.image.ref.name";
pub(crate) const VERSION: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
/// Manifests, indexes and configs are read into memory and are never longer than this.
pub(crate) const LONGEST_DOCUMENT: u64 = 8 << 20;

/// What went wrong with a layout.
#[derive(Debug, Error)]
pub enum LayoutError {
    #[error("the store of images at `{}` cannot be used", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is no blob {0}")]
    Missing(Digest),
    #[error("`{0}` is no digest that can be looked for; those of the store are `sha256:` and 64 hex digits")]
    Foreign(String),
    #[error(
        "blob {expected} is corrupt: its content has the digest {actual}; remove it, and it is made or pulled again"
    )]
    Corrupt { expected: Digest, actual: Digest },
    #[error("blob {digest} has {actual} bytes where {expected} were announced")]
    Size { digest: Digest, expected: u64, actual: u64 },
    #[error("{what} {digest} is no document of the OCI image specification")]
    Document {
        what: &'static str,
        digest: Digest,
        #[source]
        source: serde_json::Error,
    },
}

/// An OCI image layout. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Layout(Arc<PathBuf>);

impl Layout {
    /// Opens the layout, and makes it where there is none.
    pub fn open(dir: &Path) -> Result<Self, LayoutError> {
        let make = || {
            fs_err::create_dir_all(dir.join("blobs/sha256"))?;
            let marker = dir.join("oci-layout");
            if !marker.exists() {
                replace(dir, &marker, VERSION.as_bytes())?;
            }
            Ok(())
        };
        make().map_err(|source| LayoutError::Io { path: dir.to_owned(), source })?;
        Ok(Self(Arc::new(dir.to_owned())))
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Where the blob lies, or would.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// A new blob, whose digest is known when all of it is written.
    pub fn writer(&self) -> Result<BlobWriter, LayoutError> {
        let blobs = self.0.join("blobs/sha256");
        let file = NamedTempFile::with_prefix_in(".new-", blobs).map_err(|source| self.io(source))?;
        Ok(BlobWriter { layout: self.clone(), file, hash: Sha256::new(), size: 0 })
    }

    /// Adds a blob that is in memory.
    pub fn put(&self, content: &[u8]) -> Result<(Digest, u64), LayoutError> {
        let digest = Digest::of(content);
        if self.has(&digest) {
            return Ok((digest, content.len() as u64));
        }
        let mut writer = self.writer()?;
        writer.write_all(content).map_err(|source| self.io(source))?;
        writer.finish()
    }

    /// A document's bytes: verified, and bounded in size.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, LayoutError> {
        let file = match fs_err::File::open(self.blob_path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LayoutError::Missing(*digest));
            }
            Err(error) => return Err(self.io(error)),
        };
        let mut content = Vec::new();
        file.take(LONGEST_DOCUMENT).read_to_end(&mut content).map_err(|source| self.io(source))?;
        let actual = Digest::of(&content);
        if actual != *digest {
            return Err(LayoutError::Corrupt { expected: *digest, actual });
        }
        Ok(content)
    }

    /// A document, parsed: a manifest, an index, a config.
    pub fn document<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        digest: &Digest,
    ) -> Result<T, LayoutError> {
        serde_json::from_slice(&self.read(digest)?).map_err(|source| LayoutError::Document {
            what,
            digest: *digest,
            source,
        })
    }

    /// What `index.json` lists, names and referrers alike.
    pub fn index(&self) -> Result<ImageIndex, LayoutError> {
        match fs_err::read(self.0.join("index.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| LayoutError::Document {
                what: "index.json of",
                digest: Digest::of(&bytes),
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ImageIndexBuilder::default()
                .schema_version(2_u32)
                .media_type("application/vnd.oci.image.index.v1+json")
                .manifests(Vec::new())
                .build()
                .expect("an empty index has all that it needs")),
            Err(error) => Err(self.io(error)),
        }
    }

    /// Changes `index.json`, alone among all processes, whole or not at all.
    pub fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), LayoutError> {
        let locked = self.lock_file(".lock")?;
        rustix::fs::flock(locked.file(), FlockOperation::LockExclusive)
            .map_err(|error| self.io(error.into()))?;
        let mut index = self.index()?;
        let mut manifests = index.manifests().clone();
        change(&mut manifests);
        index.set_manifests(manifests);
        let text = serde_json::to_vec(&index).expect("an index has only string keys");
        replace(&self.0, &self.0.join("index.json"), &text).map_err(|source| self.io(source))
    }

    /// Gives an image a name, and takes it from the one that had it.
    pub fn name(&self, name: &str, image: &Descriptor) -> Result<(), LayoutError> {
        let mut named = image.clone();
        named.set_annotations(Some([(NAME.to_owned(), name.to_owned())].into()));
        self.change_index(|manifests| {
            manifests.retain(|descriptor| name_of(descriptor) != Some(name));
            manifests.push(named);
        })
    }

    /// The image of this name.
    pub fn named(&self, name: &str) -> Result<Option<Descriptor>, LayoutError> {
        let index = self.index()?;
        Ok(index.manifests().iter().find(|descriptor| name_of(descriptor) == Some(name)).cloned())
    }

    /// Keeps every blob where it is for as long as the hold is there: blobs that nothing names yet are not taken away.
    pub fn hold(&self) -> Result<Hold, LayoutError> {
        let file = self.lock_file(".hold")?;
        rustix::fs::flock(file.file(), FlockOperation::LockShared).map_err(|error| self.io(error.into()))?;
        Ok(Hold { _file: file })
    }

    /// The layout for oneself, where nobody holds it.
    pub(crate) fn hold_alone(&self) -> Result<Option<Hold>, LayoutError> {
        let file = self.lock_file(".hold")?;
        match rustix::fs::flock(file.file(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Hold { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(self.io(error.into())),
        }
    }

    fn lock_file(&self, name: &str) -> Result<fs_err::File, LayoutError> {
        let mut options = fs_err::OpenOptions::new();
        options.create(true).truncate(false).write(true);
        options.open(self.0.join(name)).map_err(|source| self.io(source))
    }

    pub(crate) fn io(&self, source: io::Error) -> LayoutError {
        LayoutError::Io { path: self.0.to_path_buf(), source }
    }
}

/// A layout from which nothing is taken away. The kernel lets go of it where a process dies.
#[derive(Debug)]
pub struct Hold {
    _file: fs_err::File,
}

/// The name that `index.json` gives a manifest.
pub fn name_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(NAME).map(String::as_str)
}

/// The digest of a descriptor, where it is one that this store can hold.
pub(crate) fn digest_of(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.digest().to_string().parse().ok()
}

/// A blob on its way into a layout. One that is dropped leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    layout: Layout,
    file: NamedTempFile,
    hash: Sha256,
    size: u64,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    /// Moves the blob into its place, and gives its digest and size.
    pub fn finish(self) -> Result<(Digest, u64), LayoutError> {
        let digest = Digest::new(self.hash.finalize().into());
        let place = self.layout.blob_path(&digest);
        let keep = || {
            // Acknowledged bytes are on the disk.
            self.file.as_file().sync_data()?;
            rustix::fs::fchmod(self.file.as_file(), rustix::fs::Mode::from_raw_mode(0o644))?;
            self.file.persist(&place).map_err(|error| error.error)?;
            Ok(())
        };
        keep().map_err(|source| self.layout.io(source))?;
        Ok((digest, self.size))
    }

    /// Like [`BlobWriter::finish`], and nothing is kept unless it is the blob that was announced.
    pub fn finish_as(self, expected: &Digest, size: Option<u64>) -> Result<(), LayoutError> {
        if let Some(expected_size) = size
            && expected_size != self.size
        {
            return Err(LayoutError::Size { digest: *expected, expected: expected_size, actual: self.size });
        }
        let actual = Digest::new(self.hash.clone().finalize().into());
        if actual != *expected {
            return Err(LayoutError::Corrupt { expected: *expected, actual });
        }
        self.finish().map(|_| ())
    }

    /// Begins again, with what a transfer that was cut off had brought already: its length is given back.
    pub fn resume(&mut self, mut partial: impl Read) -> io::Result<u64> {
        self.file.as_file_mut().set_len(0)?;
        self.file.rewind()?;
        self.hash = Sha256::new();
        self.size = 0;
        io::copy(&mut partial, self)
    }
}

/// Writes a file whole or not at all.
pub(crate) fn replace(dir: &Path, place: &Path, content: &[u8]) -> io::Result<()> {
    let mut draft = NamedTempFile::with_prefix_in(".new-", dir)?;
    draft.write_all(content)?;
    draft.as_file().sync_data()?;
    rustix::fs::fchmod(draft.as_file(), rustix::fs::Mode::from_raw_mode(0o644))?;
    draft.persist(place).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{DescriptorBuilder, MediaType};

    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("images")).unwrap();
        (dir, layout)
    }

    #[test]
    fn a_blob_is_kept_once_it_is_what_was_announced() {
        let (_dir, layout) = layout();
        let digest = Digest::of(b"content");
        let write = |content: &[u8], size| {
            let mut writer = layout.writer().unwrap();
            writer.write_all(content).unwrap();
            writer.finish_as(&digest, size)
        };
        assert!(matches!(write(b"contents", None), Err(LayoutError::Corrupt { .. })));
        assert!(matches!(write(b"content", Some(8)), Err(LayoutError::Size { expected: 8, actual: 7, .. })));
        assert!(!layout.has(&digest));
        write(b"content", Some(7)).unwrap();
        assert_eq!(layout.read(&digest).unwrap(), b"content");
        let blobs = fs_err::read_dir(layout.dir().join("blobs/sha256")).unwrap().count();
        assert_eq!(blobs, 1, "what was refused leaves nothing");
    }

    #[test]
    fn a_blob_that_rotted_is_not_read() {
        let (_dir, layout) = layout();
        let (digest, _) = layout.put(b"content").unwrap();
        fs_err::write(layout.blob_path(&digest), b"c0ntent").unwrap();
        assert!(matches!(layout.read(&digest), Err(LayoutError::Corrupt { .. })));
        assert!(matches!(layout.read(&Digest::of(b"")), Err(LayoutError::Missing(_))));
    }

    #[test]
    fn names_move_and_several_writers_lose_none() {
        let (_dir, layout) = layout();
        let (digest, size) = layout.put(b"{}").unwrap();
        let digest: oci_spec::image::Digest = digest.to_string().parse().unwrap();
        let image = DescriptorBuilder::default()
            .media_type(MediaType::ImageManifest)
            .digest(digest)
            .size(size)
            .build()
            .unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (layout, image) = (&layout, &image);
                scope.spawn(move || {
                    for round in 0..10 {
                        layout.name(&format!("of-{thread}"), image).unwrap();
                        layout.name(&format!("of-{thread}-{round}"), image).unwrap();
                    }
                });
            }
        });
        assert_eq!(layout.index().unwrap().manifests().len(), 8 + 80);
        assert_eq!(digest_of(&layout.named("of-3").unwrap().unwrap()), Some(Digest::of(b"{}")));
        assert!(layout.named("of-9").unwrap().is_none());
    }
}
