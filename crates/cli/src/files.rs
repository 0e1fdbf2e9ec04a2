//! The files of a model, of code or of a build context: what lies in a folder, in a fixed order, without what an ignore
//! file leaves out; for a release, copied and hashed in one pass.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use moorline_core::{Digest, FileEntry};

use crate::ignore::Ignore;

/// What never belongs to a release.
const LEFT_OUT: [&str; 4] = ["__pycache__", ".git", ".ipynb_checkpoints", ".DS_Store"];
/// Folders within folders; deeper is a loop or a mistake.
const MAX_DEPTH: usize = 64;
/// A folder with more files is most likely not the one that was meant.
const MAX_FILES: usize = 100_000;

/// One file to take: where it is, and its path in the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) from: PathBuf,
    pub(crate) path: String,
}

/// The files of a model: one file, or a folder, which keeps its own name below the model directory.
pub(crate) fn of_model(path: &Path) -> anyhow::Result<Vec<Source>> {
    let real = real_path(path)?;
    let name = real.file_name().and_then(|name| name.to_str());
    let Some(name) = name else {
        bail!("the name of `{}` is not text that a release can have", real.display())
    };
    let kind = fs_err::metadata(&real)?.file_type();
    if kind.is_dir() {
        let found = of_folder(&real, name)?;
        if found.is_empty() {
            bail!("the folder `{}` has no files", path.display());
        }
        return Ok(found);
    }
    if !kind.is_file() {
        bail!("`{}` is neither a file nor a folder", path.display());
    }
    Ok(vec![Source { from: real.clone(), path: name.to_owned() }])
}

/// Every file of the folder `root`, its path below `prefix`, sorted by path.
pub(crate) fn of_folder(root: &Path, prefix: &str) -> anyhow::Result<Vec<Source>> {
    let real_root = real_path(root)?;
    if !real_root.is_dir() {
        bail!("`{}` is not a folder", root.display());
    }
    let ignore = Ignore::of_folder(&real_root)?;
    let mut walk = Walk { real_root: &real_root, ignore: &ignore, prefix, found: Vec::new() };
    walk.folder(root, "", MAX_DEPTH)?;
    let mut found = walk.found;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn real_path(path: &Path) -> anyhow::Result<PathBuf> {
    match fs_err::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("`{}` does not exist", path.display())
        }
        result => Ok(result?),
    }
}

struct Walk<'a> {
    real_root: &'a Path,
    ignore: &'a Ignore,
    prefix: &'a str,
    found: Vec<Source>,
}

impl Walk<'_> {
    /// Takes what is in `folder`, whose path from the root is `below`.
    fn folder(&mut self, folder: &Path, below: &str, depth: usize) -> anyhow::Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            bail!("`{}` lies more than {MAX_DEPTH} folders deep", folder.display());
        };
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            let from = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                bail!("the name of `{}` is not UTF-8; a release's paths are text", from.display());
            };
            if LEFT_OUT.contains(&name) {
                continue;
            }
            let below = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            // Of a link that leads nowhere, the error comes after the ignore file had its say.
            let is_folder = from.is_dir();
            if self.ignore.leaves_out(&below, is_folder) {
                continue;
            }
            if name.contains('\\') {
                bail!(
                    "`{}` has a backslash in its name, which a release's paths cannot have",
                    from.display()
                );
            }
            // A link is followed only inside the folder: a release must not take in what its author did not see.
            let real = fs_err::canonicalize(&from)?;
            if !real.starts_with(self.real_root) {
                bail!(
                    "`{}` is a link out of `{}`; copy the file there instead",
                    from.display(),
                    self.real_root.display()
                );
            }
            if is_folder {
                self.folder(&from, &below, depth)?;
            } else if fs_err::metadata(&from)?.is_file() {
                if self.found.len() == MAX_FILES {
                    bail!("`{}` has more than {MAX_FILES} files", self.real_root.display());
                }
                let path = if self.prefix.is_empty() { below } else { format!("{}/{below}", self.prefix) };
                self.found.push(Source { from, path });
            } else {
                bail!("`{}` is neither a file nor a folder", from.display());
            }
        }
        Ok(())
    }
}

/// Copies `sources` below `folder` and returns their entries. The bytes that are hashed are those that are written.
pub(crate) fn take(sources: &[Source], folder: &Path) -> anyhow::Result<Vec<FileEntry>> {
    sources
        .iter()
        .map(|Source { from, path }| {
            let to = folder.join(path);
            fs_err::create_dir_all(to.parent().unwrap_or(folder))?;
            let reader = Tee { reader: fs_err::File::open(from)?, writer: fs_err::File::create_new(&to)? };
            let (sha256, size) =
                Digest::of_reader(reader).with_context(|| format!("could not copy `{}`", from.display()))?;
            Ok(FileEntry { path: path.clone(), size, sha256 })
        })
        .collect()
}

/// Writes what is read through it.
struct Tee<R, W> {
    reader: R,
    writer: W,
}

impl<R: Read, W: io::Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.writer.write_all(&buffer[..read])?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_whole_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("code");
        fs_err::create_dir_all(source.join("lib/__pycache__")).unwrap();
        fs_err::write(source.join("score.py"), "b").unwrap();
        fs_err::write(source.join("lib/a.py"), "").unwrap();
        fs_err::write(source.join("lib/__pycache__/a.pyc"), "").unwrap();
        std::os::unix::fs::symlink("score.py", source.join("same.py")).unwrap();
        let found = of_folder(&source, "top").unwrap();
        let paths: Vec<&str> = found.iter().map(|source| source.path.as_str()).collect();
        assert_eq!(paths, ["top/lib/a.py", "top/same.py", "top/score.py"]);
        let entries = take(&found, &dir.path().join("out")).unwrap();
        assert_eq!(entries[2].sha256, Digest::of(b"b"));
        assert_eq!(fs_err::read_to_string(dir.path().join("out/top/same.py")).unwrap(), "b");
    }

    #[test]
    fn links_out_and_sockets_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("model");
        fs_err::create_dir_all(&source).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", source.join("link")).unwrap();
        assert!(of_folder(&source, "").unwrap_err().to_string().contains("is a link out of"));
        fs_err::remove_file(source.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
        assert!(of_folder(&source, "").unwrap_err().to_string().contains("neither a file nor a folder"));
        assert!(of_model(&source.join("socket")).unwrap_err().to_string().contains("neither a file nor"));
        fs_err::write(source.join(".amlignore"), "socket\n.amlignore\n").unwrap();
        assert_eq!(of_folder(&source, "").unwrap(), []);
        assert!(of_model(&source).unwrap_err().to_string().contains("has no files"));
        assert!(
            of_folder(&dir.path().join("absent"), "").unwrap_err().to_string().contains("does not exist")
        );
    }
}
