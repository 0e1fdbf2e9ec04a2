//! What the layers of an image amount to: every path with its kind and mode, and the content of the few files that say
//! what is installed.
//!
//! Layers are read once, in order, and nothing is written: whiteouts and links are followed in memory, so that a layer
//! cannot reach out of the image.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{self, Read},
    rc::Rc,
};

use moorline_core::ErrorClass;
use tar::{Archive, EntryType};
use thiserror::Error;

const MOST_ENTRIES: usize = 1_000_000;
/// As Linux has it.
const LONGEST_PATH: usize = 4096;
const MOST_BYTES_OF_PATHS: usize = 256 << 20;
/// What may stand before an entry: its header, and its name and attributes where they are long.
const LONGEST_HEADER: u64 = 1 << 20;
const LARGEST_LAYER: u64 = 256 << 30;
const LARGEST_KEPT: u64 = 16 << 20;
/// The description of a distribution follows what is of interest.
const KEPT_OF_METADATA: u64 = 32 << 10;
const MOST_KEPT: usize = 256 << 20;
/// As Linux has it.
const MOST_LINKS: usize = 40;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Files whose content is of interest, beside those that [`keeps`] knows by their place.
const KEPT: [&str; 5] = [
    "var/lib/dpkg/status",
    "lib/apk/db/installed",
    "usr/lib/apk/db/installed",
    "etc/os-release",
    "usr/lib/os-release",
];

/// Why the layers could not be read.
#[derive(Debug, Error)]
pub enum FilesystemError {
    #[error("layer {layer} of the image cannot be read")]
    Read {
        layer: usize,
        #[source]
        source: io::Error,
    },
    #[error("layer {layer} of the image holds `{path}`, a path that leaves the image; the image is not used")]
    Outside { layer: usize, path: String },
    #[error(
        "layer {layer} of the image holds a path of more than {LONGEST_PATH} bytes; the image is not used"
    )]
    LongPath { layer: usize },
    #[error(
        "the layers of the image hold more than {MOST_ENTRIES} files, or lists of packages that are too long to be read"
    )]
    TooLarge,
}

impl FilesystemError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Read { .. } | Self::Outside { .. } | Self::LongPath { .. } => ErrorClass::InvalidInput,
            Self::TooLarge => ErrorClass::TooLarge,
        }
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File {
        size: u64,
    },
    Folder,
    Link {
        target: String,
    },
    /// A device or a pipe.
    Other,
}

/// A path of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub mode: u32,
    /// The layer that it is of, counted from 0.
    pub layer: usize,
    content: Option<Vec<u8>>,
}

/// An image's files as a container would see them. Paths are relative to its root: `usr/bin/python3`.
#[derive(Clone, Debug, Default)]
pub struct Filesystem {
    entries: BTreeMap<String, Entry>,
    bytes_of_paths: usize,
    bytes_kept: usize,
}

impl Filesystem {
    /// Reads layers, from the lowest to the highest, each as a tar that is not compressed any more. It takes as long as
    /// reading them does.
    pub fn read<R: Read>(layers: impl IntoIterator<Item = io::Result<R>>) -> Result<Self, FilesystemError> {
        let mut files = Self::default();
        for (layer, reader) in layers.into_iter().enumerate() {
            let reader = reader.map_err(|source| FilesystemError::Read { layer, source })?;
            files.add(layer, reader)?;
        }
        Ok(files)
    }

    /// What is at exactly this path.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path.trim_matches('/'))
    }

    /// The path that is found at a path when every link is followed.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let mut resolved = String::new();
        let mut rest: Vec<&str> = path.split('/').rev().collect();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part {
                "" | "." => continue,
                ".." => {
                    resolved.truncate(resolved.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = join(&resolved, part);
            match &self.entries.get(&next)?.kind {
                Kind::Link { target } => {
                    links += 1;
                    if links > MOST_LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        resolved.clear();
                    }
                    rest.extend(target.split('/').rev());
                }
                _ => resolved = next,
            }
        }
        Some(resolved)
    }

    /// What a path leads to.
    pub fn follow(&self, path: &str) -> Option<&Entry> {
        self.entries.get(&self.resolve(path)?)
    }

    /// The content of a file that is among those kept.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        self.follow(path)?.content.as_deref()
    }

    /// The names in a folder, which may be given by a link.
    pub fn names(&self, folder: &str) -> Vec<&str> {
        let Some(folder) = self.resolve(folder) else { return Vec::new() };
        let skip = if folder.is_empty() { 0 } else { folder.len() + 1 };
        self.below(&folder).map(|(path, _)| &path[skip..]).filter(|name| !name.contains('/')).collect()
    }

    /// Every path whose content was kept, with it.
    pub fn kept(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().filter_map(|(path, entry)| Some((path.as_str(), entry.content.as_deref()?)))
    }

    /// Every path, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    fn below(&self, folder: &str) -> impl Iterator<Item = (&String, &Entry)> {
        // `0` comes next after `/`.
        let (from, to) = if folder.is_empty() {
            (String::new(), None)
        } else {
            (format!("{folder}/"), Some(format!("{folder}0")))
        };
        self.entries.range(from..).take_while(move |(path, _)| to.as_ref().is_none_or(|to| *path < to))
    }

    fn add(&mut self, layer: usize, reader: impl Read) -> Result<(), FilesystemError> {
        let failed = |source| FilesystemError::Read { layer, source };
        let budget = Rc::new(Cell::new(LONGEST_HEADER));
        let reader = Budgeted { reader: reader.take(LARGEST_LAYER), left: Rc::clone(&budget) };
        let mut archive = Archive::new(reader);
        let mut entries = archive.entries().map_err(failed)?;
        loop {
            budget.set(LONGEST_HEADER);
            let Some(entry) = entries.next() else { return Ok(()) };
            let mut entry = entry.map_err(failed)?;
            // What follows is content, which is read through here so that `next` finds a header.
            budget.set(u64::MAX);
            self.add_entry(layer, &mut entry)?;
            io::copy(&mut entry, &mut io::sink()).map_err(failed)?;
        }
    }

    fn add_entry<R: Read>(
        &mut self,
        layer: usize,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), FilesystemError> {
        let failed = |source| FilesystemError::Read { layer, source };
        let written = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = inside(layer, &written)?;
        let Some((folder, name)) = split(&path) else { return Ok(()) };
        let Some(folder) = self.folder(layer, folder) else { return Ok(()) };
        if name == OPAQUE {
            self.clear(&folder, layer);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            self.hide(&join(&folder, hidden), layer);
            return Ok(());
        }
        let path = join(&folder, name);
        let mode = entry.header().mode().map_err(failed)? & 0o7777;
        let target = |entry: &tar::Entry<'_, R>| {
            let target = entry.link_name_bytes().unwrap_or_default();
            String::from_utf8_lossy(&target).chars().take(LONGEST_PATH).collect::<String>()
        };
        let mut content = None;
        let kind = match entry.header().entry_type() {
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Link { target: target(entry) },
            EntryType::Link => {
                let target = inside(layer, &target(entry))?;
                let Some(same) = self.resolve(&target).and_then(|target| self.entries.get(&target)).cloned()
                else {
                    return Ok(());
                };
                content = same.content;
                same.kind
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let size = entry.size();
                if let Some(most) = keeps(&path).filter(|_| size <= LARGEST_KEPT) {
                    let mut bytes = Vec::new();
                    entry.take(most).read_to_end(&mut bytes).map_err(failed)?;
                    content = Some(bytes);
                }
                Kind::File { size }
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Other,
            // A header that speaks of others.
            _ => return Ok(()),
        };
        self.insert(path, Entry { kind, mode, layer, content })
    }

    /// The folder of an entry, its links followed as a container's root would have them, and made where it is not there.
    /// `None` where links lead round in a circle.
    fn folder(&mut self, layer: usize, path: &str) -> Option<String> {
        let mut folder = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let next = join(&folder, part);
            match self.entries.get(&next).map(|entry| &entry.kind) {
                Some(Kind::Folder) => folder = next,
                Some(Kind::Link { .. }) => folder = self.resolve(&next)?,
                _ => {
                    let entry = Entry { kind: Kind::Folder, mode: 0o755, layer, content: None };
                    self.insert(next.clone(), entry).ok()?;
                    folder = next;
                }
            }
        }
        Some(folder)
    }

    fn insert(&mut self, path: String, entry: Entry) -> Result<(), FilesystemError> {
        let layer = entry.layer;
        if entry.kind != Kind::Folder {
            self.remove_below(&path, usize::MAX);
        }
        self.bytes_of_paths += path.len();
        self.bytes_kept += entry.content.as_ref().map_or(0, Vec::len);
        if path.len() > LONGEST_PATH {
            return Err(FilesystemError::LongPath { layer });
        }
        self.entries.insert(path, entry);
        let fits = self.entries.len() <= MOST_ENTRIES
            && self.bytes_of_paths <= MOST_BYTES_OF_PATHS
            && self.bytes_kept <= MOST_KEPT;
        if fits { Ok(()) } else { Err(FilesystemError::TooLarge) }
    }

    /// Takes away what lower layers have at a path.
    fn hide(&mut self, path: &str, layer: usize) {
        if self.entries.get(path).is_some_and(|entry| entry.layer < layer) {
            self.entries.remove(path);
        }
        self.clear(path, layer);
    }

    /// Takes away what lower layers have in a folder.
    fn clear(&mut self, folder: &str, layer: usize) {
        self.remove_below(folder, layer);
    }

    fn remove_below(&mut self, folder: &str, layer: usize) {
        let lower = |(path, entry): (&String, &Entry)| (entry.layer < layer).then(|| path.clone());
        let gone: Vec<String> = self.below(folder).filter_map(lower).collect();
        for path in gone {
            self.entries.remove(&path);
        }
    }
}

/// How much of a file's content is kept.
fn keeps(path: &str) -> Option<u64> {
    let (folder, name) = split(path)?;
    let known = KEPT.contains(&path) || folder == "var/lib/dpkg/status.d";
    let libc = name == "libc.so.6" || (name.starts_with("libc-2.") && name.strip_suffix(".so").is_some());
    let virtual_environment = name == "pyvenv.cfg";
    if known || libc || virtual_environment {
        return Some(LARGEST_KEPT);
    }
    (name == "METADATA" && folder.ends_with(".dist-info")).then_some(KEPT_OF_METADATA)
}

/// A path as it is written in a tar, relative to the root.
fn inside(layer: usize, written: &str) -> Result<String, FilesystemError> {
    if written.len() > LONGEST_PATH {
        return Err(FilesystemError::LongPath { layer });
    }
    let parts: Vec<&str> = written.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(FilesystemError::Outside { layer, path: written.chars().take(400).collect() });
    }
    Ok(parts.join("/"))
}

/// The folder of a path and its last part; `None` for the root.
fn split(path: &str) -> Option<(&str, &str)> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    (!name.is_empty()).then_some((folder, name))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Ends with an error where more is read than was allowed, since long names are read into memory whole.
struct Budgeted<R> {
    reader: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        match self.left.get().checked_sub(read as u64) {
            Some(left) => self.left.set(left),
            None => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a header of the tar is too long"));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer of `(path, content)`; what ends with `/` is a folder, and what begins with `->` a link.
    fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(0);
            // `tar` refuses to write what leaves the folder, and layers are written by others.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            let mut bytes: &[u8] = &[];
            if path.ends_with('/') {
                header.set_entry_type(EntryType::Directory);
            } else if let Some(target) = content.strip_prefix("->") {
                header.set_entry_type(EntryType::Symlink);
                header.set_link_name(target).unwrap();
            } else {
                bytes = content.as_bytes();
                header.set_size(bytes.len() as u64);
            }
            header.set_cksum();
            archive.append(&header, bytes).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn read(layers: &[Vec<u8>]) -> Result<Filesystem, FilesystemError> {
        Filesystem::read(layers.iter().map(|layer| Ok(layer.as_slice())))
    }

    #[test]
    fn higher_layers_hide_and_replace_what_lower_ones_have() {
        let files = read(&[
            layer(&[
                ("a/", ""),
                ("a/one", "1"),
                ("a/two", "2"),
                ("b/", ""),
                ("b/old", ""),
                ("c/x/y", ""),
                ("d/z", ""),
            ]),
            layer(&[
                ("a/.wh.one", ""),
                ("b/new", ""),
                ("b/.wh..wh..opq", ""),
                (".wh.c", ""),
                ("d", "a file now"),
            ]),
        ])
        .unwrap();
        assert_eq!(files.names("a"), ["two"]);
        assert_eq!(files.names("b"), ["new"], "what is of the same layer stays");
        assert_eq!(files.names(""), ["a", "b", "d"]);
        assert_eq!(files.get("d").unwrap().kind, Kind::File { size: 10 });
        assert!(files.get("d/z").is_none());
    }

    #[test]
    fn links_are_followed_inside_the_image_and_layers_do_not_leave_it() {
        let files = read(&[
            layer(&[("usr/lib/", ""), ("lib", "->usr/lib"), ("up", "->../../../usr"), ("round", "->round")]),
            layer(&[("lib/os-release", "ID=x\n"), ("etc/os-release", "->/lib/os-release")]),
        ])
        .unwrap();
        assert_eq!(files.resolve("lib/os-release").as_deref(), Some("usr/lib/os-release"));
        assert_eq!(files.resolve("/up/lib").as_deref(), Some("usr/lib"));
        assert_eq!(files.content("etc/os-release"), Some(&b"ID=x\n"[..]));
        assert_eq!(files.resolve("round"), None);
        let error = read(&[layer(&[("a/../../etc/passwd", "")])]).unwrap_err();
        assert!(error.to_string().contains("`a/../../etc/passwd`"), "{error}");
        assert_eq!(error.class(), ErrorClass::InvalidInput);
        assert!(matches!(read(&[b"no tar".repeat(200)]), Err(FilesystemError::Read { layer: 0, .. })));
    }
}
