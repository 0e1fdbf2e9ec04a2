//! Images as one file: what `docker load` takes, and the tar of an OCI layout. Neither is ever written beside the layout:
//! it is read from the blobs, which are verified on the way.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    io::{self, Read, Write},
    path::Path,
};

use bytes::Bytes;
use futures_util::Stream;
use moorline_core::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::EntryType;
use tempfile::NamedTempFile;

use super::{
    Image, ImageError, Layout, LayoutError,
    layout::{Hold, NAME, VERSION},
    stored,
    tarball::{self, PLAIN, PROGRAM, padding},
};

/// A chunk of a stream.
const CHUNK: usize = 128 * 1024;
const CHUNKS_AHEAD: usize = 4;
/// Two empty blocks end a tar.
const END: usize = 1024;

enum Part {
    Bytes(io::Cursor<Vec<u8>>),
    Blob { digest: Digest, left: u64, open: Option<(fs_err::File, Sha256)> },
}

/// An image on its way out, read to the end. What it is read from stays in the layout until then.
pub struct DockerArchive {
    layout: Layout,
    parts: VecDeque<Part>,
    size: u64,
    _hold: Hold,
}

impl fmt::Debug for DockerArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerArchive").field("size", &self.size).finish_non_exhaustive()
    }
}

impl DockerArchive {
    fn new(layout: &Layout) -> Result<Self, ImageError> {
        let hold = layout.hold()?;
        Ok(Self { layout: layout.clone(), parts: VecDeque::new(), size: 0, _hold: hold })
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn add(&mut self, bytes: Vec<u8>) {
        self.size += bytes.len() as u64;
        self.parts.push_back(Part::Bytes(io::Cursor::new(bytes)));
    }

    fn header(&mut self, kind: EntryType, name: &str, size: u64) {
        let mode = if kind.is_dir() { PROGRAM } else { PLAIN };
        let mut header = Vec::new();
        tarball::header(&mut header, kind, name, mode, size, None).expect("memory takes every byte");
        self.add(header);
    }

    fn file(&mut self, name: &str, content: Vec<u8>) {
        let size = content.len() as u64;
        self.header(EntryType::Regular, name, size);
        self.add(content);
        self.add(vec![0; padding(size) as usize]);
    }

    fn blob(&mut self, name: &str, digest: Digest) -> Result<(), ImageError> {
        let metadata = fs_err::metadata(self.layout.blob_path(&digest));
        let size = metadata.map_err(|_| LayoutError::Missing(digest))?.len();
        self.header(EntryType::Regular, name, size);
        self.size += size;
        self.parts.push_back(Part::Blob { digest, left: size, open: None });
        self.add(vec![0; padding(size) as usize]);
        Ok(())
    }

    /// The archive as a stream of chunks, read on a thread of its own.
    pub fn into_stream(mut self) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        // It ends with the archive, or when nobody reads any more.
        drop(tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                let sent = match self.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(read) => {
                        chunk.truncate(read);
                        sender.blocking_send(Ok(Bytes::from(chunk)))
                    }
                    Err(error) => {
                        let _ = sender.blocking_send(Err(error));
                        break;
                    }
                };
                if sent.is_err() {
                    break;
                }
            }
        }));
        futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
    }
}

impl Read for DockerArchive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(part) = self.parts.front_mut() {
            let read = match part {
                Part::Bytes(bytes) => bytes.read(buffer)?,
                Part::Blob { digest, left, open } => read_blob(&self.layout, digest, left, open, buffer)?,
            };
            if read > 0 {
                return Ok(read);
            }
            self.parts.pop_front();
        }
        Ok(0)
    }
}

fn read_blob(
    layout: &Layout,
    digest: &Digest,
    left: &mut u64,
    open: &mut Option<(fs_err::File, Sha256)>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let (file, hash) = match open {
        Some(open) => open,
        None => open.insert((fs_err::File::open(layout.blob_path(digest))?, Sha256::new())),
    };
    let most = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    let read = file.read(&mut buffer[..most])?;
    hash.update(&buffer[..read]);
    *left -= read as u64;
    let actual = (read == 0).then(|| Digest::new(hash.clone().finalize().into()));
    match actual {
        Some(actual) if actual != *digest || *left > 0 => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            LayoutError::Corrupt { expected: *digest, actual },
        )),
        _ => Ok(read),
    }
}

/// What `docker load` takes. The classic store of an Engine looks for a layer by the chain of what is below it before it
/// opens its file, so the leading layers that it has can be left out.
pub(crate) fn for_docker(
    layout: &Layout,
    image: &Image,
    tag: &str,
    without: &HashSet<Digest>,
) -> Result<DockerArchive, ImageError> {
    let mut archive = DockerArchive::new(layout)?;
    let config = format!("{}.json", image.config_digest.hex());
    let names: Vec<String> = image.layers.iter().map(|layer| format!("{}.tar", layer.digest.hex())).collect();
    let manifest = json!([{ "Config": config, "RepoTags": [tag], "Layers": names }]);
    archive.file("manifest.json", manifest.to_string().into_bytes());
    archive.blob(&config, image.config_digest)?;
    let mut written = HashSet::new();
    let layers = image.layers.iter().zip(&names);
    for (layer, name) in layers.skip_while(|(layer, _)| without.contains(&layer.diff_id)) {
        if written.insert(layer.digest) {
            archive.blob(name, layer.digest)?;
        }
    }
    archive.add(vec![0; END]);
    Ok(archive)
}

/// Writes the tar of a layout with this image alone, whole or not at all.
pub(crate) fn write_oci(layout: &Layout, image: &Image, tag: &str, to: &Path) -> Result<(), ImageError> {
    let failed = |error| ImageError::io(format!("could not write the image to `{}`", to.display()), error);
    let mut archive = DockerArchive::new(layout)?;
    archive.header(EntryType::Directory, "blobs/", 0);
    archive.header(EntryType::Directory, "blobs/sha256/", 0);
    for digest in stored::reachable(layout, &image.descriptor)? {
        archive.blob(&format!("blobs/sha256/{}", digest.hex()), digest)?;
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": image.descriptor.media_type().to_string(),
            "digest": image.digest,
            "size": image.descriptor.size(),
            "annotations": { NAME: tag },
        }],
    });
    archive.file("index.json", index.to_string().into_bytes());
    archive.file("oci-layout", VERSION.as_bytes().to_vec());
    archive.add(vec![0; END]);
    let folder = match to.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut draft = NamedTempFile::with_prefix_in(".moorline-", folder).map_err(failed)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match archive.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => draft.write_all(&buffer[..read]).map_err(failed)?,
        }
    }
    rustix::fs::fchmod(draft.as_file(), rustix::fs::Mode::from_raw_mode(0o644))
        .map_err(|error| failed(error.into()))?;
    draft.persist(to).map_err(|error| failed(error.error))?;
    Ok(())
}
