//! Taking files into a release: what lies in a folder, in a fixed order, copied and hashed in one pass.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use moorline_core::{Digest, FileEntry};

/// What never belongs to a release.
const LEFT_OUT: [&str; 4] = ["__pycache__", ".git", ".ipynb_checkpoints", ".DS_Store"];
/// Folders within folders; deeper is a loop or a mistake.
const MAX_DEPTH: usize = 64;

/// One file to take: where it is, and its path in the release.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) from: PathBuf,
    pub(crate) path: String,
}

/// Every file of the folder `root`, its path below `prefix`, sorted by path.
pub(crate) fn of_folder(root: &Path, prefix: &str) -> anyhow::Result<Vec<Source>> {
    let real_root = fs_err::canonicalize(root)?;
    let mut found = Vec::new();
    collect(&real_root, root, prefix, MAX_DEPTH, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn collect(
    real_root: &Path,
    folder: &Path,
    prefix: &str,
    depth: usize,
    found: &mut Vec<Source>,
) -> anyhow::Result<()> {
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
        if name.contains('\\') {
            bail!("`{}` has a backslash in its name, which a release's paths cannot have", from.display());
        }
        // A link is followed only inside the folder: a release must not take in what its author did not see.
        let real = fs_err::canonicalize(&from)?;
        if !real.starts_with(real_root) {
            bail!(
                "`{}` is a link out of `{}`; copy the file there instead",
                from.display(),
                real_root.display()
            );
        }
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let kind = fs_err::metadata(&from)?.file_type();
        if kind.is_dir() {
            collect(real_root, &from, &path, depth, found)?;
        } else if kind.is_file() {
            found.push(Source { from, path });
        } else {
            bail!("`{}` is neither a file nor a folder", from.display());
        }
    }
    Ok(())
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
    }
}
