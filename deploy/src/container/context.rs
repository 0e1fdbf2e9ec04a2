//! A build's context: a folder as a tar, without what `.dockerignore` names.

use std::{
    fs::{FileType, Metadata},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use moorline_core::ErrorClass;
use tar::{Builder, EntryType, Header};

use super::{EngineError, ignore::Ignore};

const MOST_FILES: usize = 100_000;
const MOST_BYTES: u64 = 8 * 1024 * 1024 * 1024;
const LONGEST_IGNORE: u64 = 1024 * 1024;
const IGNORE_FILE: &str = ".dockerignore";

/// Packs the folder into an unnamed temporary file that is read from its beginning. Reads files: not for the runtime.
pub(super) fn pack(folder: &Path, dockerfile: &str) -> Result<std::fs::File, EngineError> {
    let mut packing = Packing {
        folder,
        dockerfile,
        ignore: read_ignore(folder)?,
        files: 0,
        bytes: 0,
        tar: Builder::new(tempfile::tempfile().map_err(|error| unreadable(folder, error))?),
    };
    if !folder.join(dockerfile).is_file() {
        return Err(EngineError::new(
            ErrorClass::NotFound,
            format!("the build context has no `{dockerfile}`; it is looked for in {}", folder.display()),
        ));
    }
    packing.folder_below("")?;
    let finish = || {
        let mut file = packing.tar.into_inner()?;
        file.flush()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    };
    finish().map_err(|error| unreadable(folder, error))
}

struct Packing<'a> {
    folder: &'a Path,
    dockerfile: &'a str,
    ignore: Ignore,
    files: usize,
    bytes: u64,
    tar: Builder<std::fs::File>,
}

impl Packing<'_> {
    fn folder_below(&mut self, below: &str) -> Result<(), EngineError> {
        let path = self.folder.join(below);
        let listed = fs_err::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = listed.map_err(|error| unreadable(&path, error))?;
        // The Engine's cache knows a context by its files alone, but the same order makes the same tar.
        entries.sort_by_key(fs_err::DirEntry::file_name);
        for entry in entries {
            let own = entry.file_name();
            let Some(own) = own.to_str() else {
                return Err(EngineError::new(
                    ErrorClass::InvalidInput,
                    format!("the name of {} in the build context is not UTF-8", entry.path().display()),
                ));
            };
            let name = if below.is_empty() { own.to_owned() } else { format!("{below}/{own}") };
            let kind = entry.file_type().map_err(|error| unreadable(&entry.path(), error))?;
            let sent = !self.ignore.leaves_out(&name) || name == self.dockerfile || name == IGNORE_FILE;
            if sent {
                self.entry(&name, &entry.path(), kind)?;
            }
            // A file in a folder that is left out may be asked for again by a later rule.
            if kind.is_dir() {
                self.folder_below(&name)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, path: &Path, kind: FileType) -> Result<(), EngineError> {
        let metadata = fs_err::symlink_metadata(path).map_err(|error| unreadable(path, error))?;
        self.count(&metadata)?;
        self.write(name, path, kind, &metadata).map_err(|error| unreadable(path, error))
    }

    fn count(&mut self, metadata: &Metadata) -> Result<(), EngineError> {
        self.files += 1;
        self.bytes += if metadata.is_file() { metadata.len() } else { 0 };
        if self.files > MOST_FILES || self.bytes > MOST_BYTES {
            return Err(EngineError::new(
                ErrorClass::TooLarge,
                format!(
                    "the build context {} has more than {MOST_FILES} files or {} GiB; name what is not needed in \
                     {IGNORE_FILE}",
                    self.folder.display(),
                    MOST_BYTES >> 30,
                ),
            ));
        }
        Ok(())
    }

    fn write(&mut self, name: &str, path: &Path, kind: FileType, metadata: &Metadata) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mode(metadata.permissions().mode() & 0o7777);
        header.set_size(0);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.tar.append_data(&mut header, format!("{name}/"), io::empty())
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target: PathBuf = fs_err::read_link(path)?;
            self.tar.append_link(&mut header, name, target)
        } else if kind.is_file() {
            let file = fs_err::File::open(path)?;
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            // A file that grows while it is read must not break the tar, and one that shrinks is an error.
            let mut file = io::Read::take(file, metadata.len());
            self.tar.append_data(&mut header, name, &mut file)?;
            if file.limit() > 0 { Err(io::Error::other("it was cut while it was read")) } else { Ok(()) }
        } else {
            // Sockets and devices mean nothing in an image.
            Ok(())
        }
    }
}

fn read_ignore(folder: &Path) -> Result<Ignore, EngineError> {
    let path = folder.join(IGNORE_FILE);
    match fs_err::metadata(&path) {
        Ok(metadata) if metadata.len() > LONGEST_IGNORE => Err(EngineError::new(
            ErrorClass::TooLarge,
            format!("{} is longer than {} KiB", path.display(), LONGEST_IGNORE >> 10),
        )),
        Ok(_) => {
            let text = fs_err::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            Ok(Ignore::parse(&text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ignore::default()),
        Err(error) => Err(unreadable(&path, error)),
    }
}

fn unreadable(path: &Path, error: io::Error) -> EngineError {
    let class = match error.kind() {
        io::ErrorKind::NotFound => ErrorClass::NotFound,
        io::ErrorKind::PermissionDenied => ErrorClass::Forbidden,
        _ => ErrorClass::Internal,
    };
    EngineError::caused(class, format!("{} of the build context could not be packed", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut archive = tar::Archive::new(pack(folder, "Dockerfile").unwrap());
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_is_ignored_is_not_packed_and_the_dockerfile_always_is() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in
            [("Dockerfile", "FROM scratch"), ("a.log", "x"), ("sub/b", "y"), ("sub/c.log", "z")]
        {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, content).unwrap();
        }
        assert_eq!(names(folder.path()), ["Dockerfile", "a.log", "sub/", "sub/b", "sub/c.log"]);
        fs_err::write(folder.path().join(IGNORE_FILE), "*\n**/*.log\n!sub/b\n").unwrap();
        assert_eq!(names(folder.path()), [".dockerignore", "Dockerfile", "sub/b"]);
    }

    #[test]
    fn a_context_without_its_dockerfile_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = pack(folder.path(), "Dockerfile").unwrap_err();
        assert_eq!(error.class(), ErrorClass::NotFound);
        assert!(error.to_string().contains("`Dockerfile`"), "{error}");
    }
}
