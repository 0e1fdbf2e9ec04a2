//! Tars that are the same for the same files: sorted, without times, owners and names of owners.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use moorline_core::Digest;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// Files are read in pieces of this size.
const PIECE: usize = 256 * 1024;
const BLOCK: usize = 512;
pub(crate) const PLAIN: u32 = 0o644;
pub(crate) const PROGRAM: u32 = 0o755;

/// What lies at one path.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Folder,
    Link(String),
    Bytes(Vec<u8>),
    /// A file of this machine. It is refused while it is written unless it is exactly this.
    File {
        path: PathBuf,
        size: u64,
        sha256: Digest,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) mode: u32,
    pub(crate) content: Content,
}

/// Files by their paths in the image, which have no leading slash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree(BTreeMap<String, Item>);

impl Tree {
    /// Adds a file, and the folders that it is in.
    pub(crate) fn add(&mut self, path: &str, mode: u32, content: Content) {
        for (end, _) in path.match_indices('/') {
            let folder = || Item { mode: PROGRAM, content: Content::Folder };
            self.0.entry(path[..end].to_owned()).or_insert_with(folder);
        }
        self.0.insert(path.to_owned(), Item { mode, content });
    }

    /// Adds a file of this machine, whose digest is looked for now.
    pub(crate) fn add_file(&mut self, path: &str, mode: u32, from: &Path) -> io::Result<()> {
        let (sha256, size) = Digest::of_reader(fs_err::File::open(from)?)?;
        self.add(path, mode, Content::File { path: from.to_owned(), size, sha256 });
        Ok(())
    }

    /// Adds everything below a folder of this machine. Whatever anybody may run, everybody may.
    pub(crate) fn add_folder(&mut self, at: &str, from: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        self.add(at, PROGRAM, Content::Folder);
        for entry in fs_err::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                io::Error::other(format!("`{}` has a name that is no UTF-8", entry.path().display()))
            })?;
            let (path, place) = (entry.path(), format!("{at}/{name}"));
            let metadata = fs_err::symlink_metadata(&path)?;
            if metadata.is_dir() {
                self.add_folder(&place, &path)?;
            } else if metadata.is_symlink() {
                let target = fs_err::read_link(&path)?;
                let target = target.to_str().ok_or_else(|| io::Error::other("a link is no UTF-8"))?;
                self.add(&place, 0o777, Content::Link(target.to_owned()));
            } else if metadata.is_file() {
                let mode = if metadata.permissions().mode() & 0o111 == 0 { PLAIN } else { PROGRAM };
                self.add_file(&place, mode, &path)?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names the tar: equal trees have equal recipes, and nothing is read.
    pub(crate) fn recipe(&self) -> Vec<(&str, u32, &'static str, String)> {
        let lines = self.0.iter().map(|(path, item)| {
            let (what, of) = match &item.content {
                Content::Folder => ("folder", String::new()),
                Content::Link(target) => ("link", target.clone()),
                Content::Bytes(bytes) => ("file", Digest::of(bytes).to_string()),
                Content::File { sha256, .. } => ("file", sha256.to_string()),
            };
            (path.as_str(), item.mode, what, of)
        });
        lines.collect()
    }

    /// Writes the tar, with its end.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        for (path, item) in &self.0 {
            let mode = item.mode;
            match &item.content {
                Content::Folder => {
                    header(to, EntryType::Directory, &format!("{path}/"), mode, 0, None)?;
                }
                Content::Link(target) => {
                    header(to, EntryType::Symlink, path, mode, 0, Some(target))?;
                }
                Content::Bytes(bytes) => {
                    header(to, EntryType::Regular, path, mode, bytes.len() as u64, None)?;
                    to.write_all(bytes)?;
                    pad(to, bytes.len() as u64)?;
                }
                Content::File { path: from, size, sha256 } => {
                    header(to, EntryType::Regular, path, mode, *size, None)?;
                    copy(from, *size, sha256, to, &mut buffer)?;
                    pad(to, *size)?;
                }
            }
        }
        to.write_all(&[0; 2 * BLOCK])
    }
}

/// Copies a file that must be what it was said to be: a release's folder may have been changed by hand.
fn copy(from: &Path, size: u64, sha256: &Digest, to: &mut impl Write, buffer: &mut [u8]) -> io::Result<()> {
    let changed = || {
        let text = format!("`{}` is not what the release lists: its content was changed", from.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    // A file that grew meanwhile must not spoil the tar.
    let mut file = fs_err::File::open(from)?.take(size);
    let (mut hash, mut copied) = (Sha256::new(), 0);
    loop {
        match file.read(buffer)? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                to.write_all(&buffer[..read])?;
                copied += read as u64;
            }
        }
    }
    if copied != size || Digest::new(hash.finalize().into()) != *sha256 {
        return Err(changed());
    }
    Ok(())
}

/// A header, before it those that GNU tar writes where a path or a link is too long for one.
pub(crate) fn header(
    to: &mut impl Write,
    kind: EntryType,
    path: &str,
    mode: u32,
    size: u64,
    link: Option<&str>,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let fields = header.as_old_mut();
    if let Some(link) = link {
        long(to, EntryType::GNULongLink, link, fields.linkname.len())?;
        put(&mut fields.linkname, link);
    }
    long(to, EntryType::GNULongName, path, fields.name.len())?;
    put(&mut fields.name, path);
    header.set_cksum();
    to.write_all(header.as_bytes())
}

fn put(field: &mut [u8], text: &str) {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text.as_bytes()[..fits]);
}

fn long(to: &mut impl Write, kind: EntryType, text: &str, room: usize) -> io::Result<()> {
    if text.len() <= room {
        return Ok(());
    }
    let size = text.len() as u64 + 1;
    header(to, kind, "././@LongLink", PLAIN, size, None)?;
    to.write_all(text.as_bytes())?;
    to.write_all(&[0])?;
    pad(to, size)
}

pub(crate) fn pad(to: &mut impl Write, size: u64) -> io::Result<()> {
    to.write_all(&[0; BLOCK][..padding(size) as usize])
}

/// Bytes between the end of a file and the next header.
pub(crate) const fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs_err::write(&file, "content").unwrap();
        let deep = format!("a/{}/file", "long".repeat(60));
        let mut tree = Tree::default();
        tree.add_file(&deep, PROGRAM, &file).unwrap();
        tree.add("a/bytes", PLAIN, Content::Bytes(vec![1; 600]));
        tree.add("a/link", 0o777, Content::Link("x".repeat(150)));
        let mut bytes = Vec::new();
        tree.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut archive = tar::Archive::new(&bytes[..]);
        let read: Vec<(String, u32, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
                let path = entry.path().unwrap().to_str().unwrap().to_owned();
                (path, header.mode().unwrap(), entry.size())
            })
            .collect();
        let folder = deep.rsplit_once('/').unwrap().0;
        assert_eq!(
            read,
            [
                ("a/".to_owned(), 0o755, 0),
                ("a/bytes".to_owned(), 0o644, 600),
                ("a/link".to_owned(), 0o777, 0),
                (format!("{folder}/"), 0o755, 0),
                (deep.clone(), 0o755, 7),
            ]
        );
        fs_err::write(&file, "c0ntent").unwrap();
        let error = tree.write(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("is not what the release lists"), "{error}");
    }
}
