//! Files from the server's blob store: checked against their digests, and put in place whole.

use std::{
    io::Write,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use moorline_core::{Digest, FileEntry};
use reqwest::Method;

use crate::{client::Client, screen::Screen};

/// Writes `files` below `folder`, which is made, whole or not at all.
pub(crate) async fn fetch(
    client: &Client,
    screen: &Screen,
    label: &str,
    files: &[FileEntry],
    folder: &Path,
) -> anyhow::Result<()> {
    if folder.exists() {
        bail!("`{}` exists; choose another folder with --download-path, or remove it", folder.display());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let building = tempfile::Builder::new()
        .prefix(".download-")
        .tempdir_in(parent)
        .with_context(|| format!("could not make a folder in `{}`", parent.display()))?;
    let bar = screen.bytes_bar(&format!("downloading {label}"), files.iter().map(|file| file.size).sum());
    for file in files {
        let to = building.path().join(safe(&file.path)?);
        fs_err::create_dir_all(to.parent().unwrap_or(building.path()))?;
        let url = client.at(&["blobs", &file.sha256.to_string()]);
        let response = client.send(client.request(Method::GET, url)).await?;
        let mut out = fs_err::File::create_new(&to)?;
        let mut bytes = response.bytes_stream();
        while let Some(piece) = bytes.next().await {
            let piece = piece.with_context(|| format!("the download of `{}` broke off", file.path))?;
            out.write_all(&piece)?;
            bar.inc(piece.len() as u64);
        }
        drop(out);
        let written =
            tokio::task::spawn_blocking(move || Digest::of_reader(fs_err::File::open(to)?)).await??;
        if written != (file.sha256, file.size) {
            bail!("`{}` arrived with other content than the server has registered", file.path);
        }
    }
    bar.finish_and_clear();
    make_readable(building.path())?;
    fs_err::rename(building.path(), folder)?;
    // The folder has another name now; there is nothing left to remove.
    let _ = building.keep();
    Ok(())
}

/// A path that stays below the folder that it is joined to.
fn safe(path: &str) -> anyhow::Result<PathBuf> {
    let safe: PathBuf = path.into();
    if path.is_empty() || !safe.components().all(|part| matches!(part, Component::Normal(_))) {
        bail!("the server lists `{path}`, which is no path within a folder");
    }
    Ok(safe)
}

/// A temporary folder is its maker's alone.
fn make_readable(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs_err::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_lead_a_download_elsewhere() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "."] {
            assert!(safe(bad).is_err(), "{bad}");
        }
        assert_eq!(safe("model/a.bin").unwrap(), Path::new("model/a.bin"));
    }
}
