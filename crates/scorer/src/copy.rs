//! `moorline-scorer copy`: a model comes from its own image into a volume, in a container that has no other program.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::Context;

use crate::{failure::Failure, settings::Copy};

pub(crate) fn run(copy: &Copy) -> Result<(), Failure> {
    let mut copied = Copied::default();
    folder(&copy.from, &copy.to, &mut copied)
        .with_context(|| format!("could not copy `{}` to `{}`", copy.from.display(), copy.to.display()))?;
    let Copied { files, bytes } = copied;
    writeln!(io::stdout(), "{files} files of {:.1} MB are in `{}`", bytes as f64 / 1e6, copy.to.display())
        .context("could not say so")?;
    Ok(())
}

#[derive(Default)]
struct Copied {
    files: usize,
    bytes: u64,
}

/// What an earlier attempt left there is written over.
fn folder(from: &Path, to: &Path, copied: &mut Copied) -> anyhow::Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            folder(&entry.path(), &to, copied)?;
        } else if kind.is_file() {
            copied.bytes += fs_err::copy(entry.path(), to)?;
            copied.files += 1;
        } else {
            anyhow::bail!("`{}` is neither a file nor a folder", entry.path().display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_come_over_what_was_there() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        fs_err::create_dir_all(from.join("a/b")).unwrap();
        fs_err::write(from.join("model.onnx"), b"model").unwrap();
        fs_err::write(from.join("a/b/weights"), b"weights").unwrap();
        fs_err::create_dir(&to).unwrap();
        fs_err::write(to.join("model.onnx"), b"half of a longer one").unwrap();
        run(&Copy { from: from.clone(), to: to.clone() }).unwrap_or_else(|failure| panic!("{failure:?}"));
        assert_eq!(fs_err::read(to.join("model.onnx")).unwrap(), b"model");
        assert_eq!(fs_err::read(to.join("a/b/weights")).unwrap(), b"weights");
        fs_err::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        assert!(run(&Copy { from, to }).is_err());
    }
}
