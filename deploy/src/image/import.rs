//! Bases that are files: OCI layouts and what `docker save` writes, brought into the layout. Nothing of a layer is ever
//! unpacked to the disk.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use moorline_core::{Digest, ErrorClass};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Compression, ImageError, LONGEST_DOCUMENT, LayerKind, Layout,
    base::{self, LARGEST_LAYER, is_index, lie, unpacked},
    config, digest_of,
    layers::{LayerWriter, Layers, descriptor},
};

const MOST_ENTRIES: usize = 100_000;
/// An index may be in an index, and no deeper.
const DEEPEST: usize = 3;
const BLOBS: &str = "blobs/sha256/";

/// Brings the one image of a file or folder into the layout.
pub(crate) fn import(
    layout: &Layout,
    layers: &Layers,
    path: &Path,
    compression: Compression,
) -> Result<Descriptor, ImageError> {
    let source = Source::open(path)?;
    let index = match source.document("index.json")? {
        Some(index) if source.document("oci-layout")?.is_some() => index,
        _ => {
            let Some(manifest) = source.document("manifest.json")? else {
                return Err(ImageError::refused(format!(
                    "`{}` is neither an OCI layout nor what `docker save` writes",
                    path.display()
                )));
            };
            return of_docker(layout, layers, &source, &manifest, compression);
        }
    };
    let index: ImageIndex = parsed("index.json", &index)?;
    let [image] = index.manifests().as_slice() else {
        return Err(ImageError::refused(format!(
            "`{}` holds {} images where one is expected",
            path.display(),
            index.manifests().len()
        )));
    };
    // Documents first: they name what is to be copied.
    let mut wanted = BTreeMap::new();
    documents(layout, &source, image, DEEPEST, &mut wanted)?;
    wanted.retain(|digest, _| !layout.has(digest));
    let missing: HashMap<String, (Digest, u64)> =
        wanted.iter().map(|(digest, size)| (format!("{BLOBS}{}", digest.hex()), (*digest, *size))).collect();
    source.each(&missing.keys().map(String::as_str).collect::<Vec<_>>(), |name, content| {
        let (digest, size) = missing[name];
        let mut writer = layout.writer()?;
        io::copy(&mut content.take(size.saturating_add(1)), &mut writer)
            .map_err(|error| ImageError::io(format!("could not copy `{name}` of the base"), error))?;
        Ok(writer.finish_as(&digest, Some(size))?)
    })?;
    if let Some(digest) = wanted.keys().find(|digest| !layout.has(digest)) {
        return Err(ImageError::refused(format!(
            "the base names {digest}, which is not in `{}`",
            path.display()
        )));
    }
    Ok(image.clone())
}

/// Puts the manifests below a descriptor into the layout, and notes the blobs that they name.
fn documents(
    layout: &Layout,
    source: &Source,
    image: &Descriptor,
    depth: usize,
    wanted: &mut BTreeMap<Digest, u64>,
) -> Result<(), ImageError> {
    let digest = digest_of(image)
        .ok_or_else(|| ImageError::refused(format!("the base uses the digest `{}`", image.digest())))?;
    let name = format!("{BLOBS}{}", digest.hex());
    let bytes = match source.document(&name)? {
        Some(bytes) => bytes,
        // An index may list platforms that were left out.
        None if depth < DEEPEST => return Ok(()),
        None => return Err(ImageError::refused(format!("the base names {digest}, which is not there"))),
    };
    let mut writer = layout.writer()?;
    writer.write_all(&bytes).map_err(|error| layout.io(error))?;
    writer.finish_as(&digest, Some(image.size()))?;
    if is_index(image) {
        let index: ImageIndex = parsed(&name, &bytes)?;
        if depth == 0 {
            return Err(ImageError::refused("the base has indexes in indexes without an end"));
        }
        for child in index.manifests() {
            documents(layout, source, child, depth - 1, wanted)?;
        }
        return Ok(());
    }
    let manifest: ImageManifest = parsed(&name, &bytes)?;
    for part in manifest.layers().iter().chain([manifest.config()]) {
        let digest = digest_of(part)
            .ok_or_else(|| ImageError::refused(format!("the base uses the digest `{}`", part.digest())))?;
        wanted.insert(digest, part.size());
    }
    Ok(())
}

/// One image in `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

fn of_docker(
    layout: &Layout,
    layers: &Layers,
    source: &Source,
    manifest: &[u8],
    compression: Compression,
) -> Result<Descriptor, ImageError> {
    let saved: Vec<Saved> = parsed("manifest.json", manifest)?;
    let [saved] = saved.as_slice() else {
        return Err(ImageError::refused(format!(
            "the base holds {} images where one is expected",
            saved.len()
        )));
    };
    let config = source.document(&saved.config)?.ok_or_else(|| {
        ImageError::refused(format!("the base names its config `{}`, which is not there", saved.config))
    })?;
    let diff_ids = base::diff_ids(&parsed::<Value>(&saved.config, &config)?)?;
    if diff_ids.len() != saved.layers.len() {
        return Err(ImageError::refused("the base lists another number of layers than its config"));
    }
    let mut blobs = Vec::new();
    for (name, diff_id) in saved.layers.iter().zip(&diff_ids) {
        // Content that is known by what it unpacks to needs no second look.
        blobs.push(layers.once(&("imported", diff_id, compression), || {
            let mut made = None;
            source.each(&[name], |_, content| {
                let mut writer = LayerWriter::new(layout, compression)?;
                unpacked(content)
                    .and_then(|tar| io::copy(&mut tar.take(LARGEST_LAYER), &mut writer))
                    .map_err(|error| ImageError::io(format!("could not copy `{name}` of the base"), error))?;
                made = Some(writer.finish()?);
                Ok(())
            })?;
            match made {
                Some(blob) if blob.diff_id == *diff_id => Ok(blob),
                Some(blob) => Err(lie(diff_id, &blob.diff_id)),
                None => {
                    Err(ImageError::refused(format!("the base names its layer `{name}`, which is not there")))
                }
            }
        })?);
    }
    let (digest, size) = layout.put(&config)?;
    let config = descriptor(MediaType::ImageConfig, &digest, size);
    let list = blobs.iter().map(|blob| blob.descriptor(LayerKind::Base)).collect();
    config::put_manifest(layout, config, list, BTreeMap::new())
}

fn parsed<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| {
        ImageError::caused(ErrorClass::InvalidInput, format!("`{name}` of the base cannot be read"), error)
    })
}

/// A folder, or a tar whose entries were looked at once.
struct Source {
    path: PathBuf,
    /// `None` for a folder.
    entries: Option<HashMap<String, Entry>>,
}

enum Entry {
    File,
    Link(String),
}

impl Source {
    fn open(path: &Path) -> Result<Self, ImageError> {
        let mut source = Self { path: path.to_owned(), entries: None };
        if path.is_dir() {
            return Ok(source);
        }
        let mut entries = HashMap::new();
        let failed = |error| ImageError::io(format!("could not read `{}`", path.display()), error);
        let mut archive = tar::Archive::new(source.reader().map_err(failed)?);
        for (count, entry) in archive.entries().map_err(failed)?.enumerate() {
            let entry = entry.map_err(|error| {
                ImageError::caused(
                    ErrorClass::InvalidInput,
                    format!("`{}` is no sound tar", path.display()),
                    error,
                )
            })?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let plain = plain(&name).filter(|_| count < MOST_ENTRIES).ok_or_else(|| {
                let shown: String = name.chars().take(200).collect();
                ImageError::refused(format!(
                    "`{}` is refused: its entry `{shown}` leaves the archive, or is one too many",
                    path.display()
                ))
            })?;
            let kind = entry.header().entry_type();
            if kind.is_file() {
                entries.insert(plain, Entry::File);
            } else if let Some(target) =
                entry.link_name_bytes().filter(|_| kind.is_symlink() || kind.is_hard_link())
            {
                let target = String::from_utf8_lossy(&target).into_owned();
                // `docker save` links a layer that it has written already, from one folder of the archive to another.
                let from = if kind.is_symlink() {
                    plain.rsplit_once('/').map_or("", |(folder, _)| folder)
                } else {
                    ""
                };
                if let Some(target) = within(from, &target) {
                    entries.insert(plain, Entry::Link(target));
                }
            }
        }
        source.entries = Some(entries);
        Ok(source)
    }

    fn reader(&self) -> io::Result<Box<dyn Read>> {
        let mut file = fs_err::File::open(&self.path)?;
        let mut magic = [0; 2];
        let gzip = file.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
        let file = io::BufReader::with_capacity(128 * 1024, fs_err::File::open(&self.path)?);
        Ok(if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
    }

    /// The file that a name means.
    fn resolve(&self, name: &str) -> Option<String> {
        let mut name = plain(name)?;
        let Some(entries) = &self.entries else { return Some(name) };
        for _ in 0..DEEPEST {
            match entries.get(&name)? {
                Entry::File => return Some(name),
                Entry::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// A small file, or `None` where there is none.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let mut found = None;
        self.each(&[name], |name, content| {
            let mut bytes = Vec::new();
            content
                .take(LONGEST_DOCUMENT + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| ImageError::io(format!("could not read `{name}` of the base"), error))?;
            if bytes.len() as u64 > LONGEST_DOCUMENT {
                return Err(ImageError::refused(format!("`{name}` of the base is too long for a document")));
            }
            found = Some(bytes);
            Ok(())
        })?;
        Ok(found)
    }

    /// Reads files by name. Those that are not there are passed over.
    fn each(
        &self,
        names: &[&str],
        mut read: impl FnMut(&str, &mut dyn Read) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let failed = |error| ImageError::io(format!("could not read `{}`", self.path.display()), error);
        let mut wanted: HashMap<String, &str> =
            names.iter().filter_map(|name| Some((self.resolve(name)?, *name))).collect();
        if self.entries.is_none() {
            for (file, name) in wanted {
                match fs_err::File::open(self.path.join(file)) {
                    Ok(mut file) => read(name, &mut file)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            return Ok(());
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut archive = tar::Archive::new(self.reader().map_err(failed)?);
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let Some(name) = plain(&String::from_utf8_lossy(&entry.path_bytes())) else { continue };
            if entry.header().entry_type().is_file()
                && let Some(name) = wanted.remove(&name)
            {
                read(name, &mut entry)?;
                if wanted.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// A name without `./` and closing slashes; `None` for one that leads out.
fn plain(name: &str) -> Option<String> {
    if name.starts_with('/') { None } else { within("", name) }
}

/// `target` as seen from a folder; `None` where it leads out.
fn within(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    let inside = !folder.is_empty();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if inside => _ = parts.pop()?,
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_leave_the_archive() {
        assert_eq!(plain("./a/b/"), Some("a/b".to_owned()));
        for bad in ["/a", "../a", "a/../../b", "a/.."] {
            assert_eq!(plain(bad), None, "{bad}");
        }
        assert_eq!(within("a", "../b/layer.tar"), Some("b/layer.tar".to_owned()));
        assert_eq!(within("a", "../../b"), None);
    }
}
