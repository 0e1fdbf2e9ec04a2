//! Files that are replaced whole, and that this user alone can read.

use std::{
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Replaces a file so that a loss of power leaves the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Not `with_extension`: what stands behind a dot may be all that two names differ in.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let (new, folder) = (path.with_file_name(name), path.parent().unwrap_or(Path::new(".")));
    fs_err::create_dir_all(folder)?;
    let mut options = fs_err::OpenOptions::new();
    options.options_mut().mode(0o600);
    let mut file = options.create(true).truncate(true).write(true).open(&new)?;
    fs_err::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs_err::rename(&new, path)?;
    fs_err::File::open(folder)?.sync_all()
}
