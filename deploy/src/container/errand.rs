//! Errands: a program that is run once in an image, with files that are brought to it and files that are taken away.
//!
//! It runs as nobody and without capabilities, and its container is gone afterwards, also where nobody waits for it any
//! more. What is brought is in no image, and in nothing that an Engine shows.

use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use bollard::{
    body_try_stream,
    errors::Error as Bollard,
    models::{ContainerCreateBody, HostConfig, HostConfigLogConfig},
    query_parameters::{
        CreateContainerOptions, DownloadFromContainerOptions, LogsOptions, RemoveContainerOptions,
        StartContainerOptions, UploadToContainerOptions, WaitContainerOptions,
    },
};
use futures_util::StreamExt;
use moorline_core::ErrorClass;
use tar::{Archive, Builder, EntryType, Header};
use tokio_util::io::ReaderStream;

use super::{Engine, EngineError, build::Said};
use crate::{
    Progress,
    image::{Image, Images},
    registry::Platform,
};

/// Nobody, as whom scorers run too.
const USER: u64 = 65532;
/// Processes and threads of one errand: compilers run side by side.
const PIDS: i64 = 4096;
const LOG_BYTES: &str = "8388608";
/// All that is taken away.
const MOST_TAKEN: u64 = 16 << 30;
/// No program that ends in order says this.
const UNKNOWN_CODE: i64 = -1;

/// What is run.
#[derive(Clone, Debug)]
pub struct Errand<'a> {
    /// Of the container. One of that name that is left over is removed first.
    pub name: &'a str,
    pub image: &'a Image,
    /// Of the image.
    pub platform: &'a Platform,
    pub program: &'a [String],
    /// The folder whose content is brought.
    pub files: &'a Path,
    /// Where it is in the container: a folder of the root that the image does not have.
    pub place: &'a str,
    /// The folder of the container whose files are taken away where the program succeeded; folders in it are not.
    pub result: &'a str,
    pub into: &'a Path,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The program's exit code.
    pub code: i64,
    /// The last lines that it printed, oldest first.
    pub log: Vec<String>,
}

impl Engine {
    /// Runs an errand to its end. What it prints is told line by line.
    pub async fn run(
        &self,
        errand: &Errand<'_>,
        images: &Images,
        progress: &Progress,
    ) -> Result<Done, EngineError> {
        let own = self.describe().await?.platform;
        let Platform { os, architecture, .. } = errand.platform;
        if own != format!("{os}/{architecture}") {
            return Err(EngineError::new(
                ErrorClass::Unsupported,
                format!(
                    "a program of an image for {} has to be run, and the Engine at {} is for {own}",
                    errand.platform,
                    self.host()
                ),
            ));
        }
        let image = self.give(errand.image, images, progress).await?;
        let (files, place) = (errand.files.to_owned(), errand.place.trim_matches('/').to_owned());
        let packed = blocking(move || pack(&files, &place)).await;
        let packed = packed.map_err(|error| failed("the files of an errand could not be packed", error))?;
        let container = self.create(errand, image).await?;
        let what = "could not run a program in an image";
        let options =
            UploadToContainerOptions { path: "/".to_owned(), ..UploadToContainerOptions::default() };
        let body = body_try_stream(ReaderStream::new(tokio::fs::File::from_std(packed)));
        let docker = self.docker();
        docker
            .upload_to_container(&container.id, Some(options), body)
            .await
            .map_err(|error| EngineError::of(what, error))?;
        docker
            .start_container(&container.id, None::<StartContainerOptions>)
            .await
            .map_err(|error| EngineError::of(what, error))?;
        let log = self.listen(&container.id, progress).await?;
        let code = self.ended(&container.id).await?;
        if code == 0 {
            self.take(&container.id, errand).await?;
        }
        container.remove().await;
        Ok(Done { code, log })
    }

    async fn create(&self, errand: &Errand<'_>, image: String) -> Result<Container, EngineError> {
        let what = "could not make a container to run a program in";
        // Of a server that ended before its errand did.
        remove(self, errand.name).await;
        let host_config = HostConfig {
            pids_limit: Some(PIDS),
            init: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some([("max-size".to_owned(), LOG_BYTES.to_owned())].into()),
            }),
            ..HostConfig::default()
        };
        let body = ContainerCreateBody {
            image: Some(image),
            user: Some(format!("{USER}:{USER}")),
            entrypoint: Some(errand.program.to_vec()),
            cmd: Some(Vec::new()),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions {
            name: Some(errand.name.to_owned()),
            ..CreateContainerOptions::default()
        };
        let created = self.docker().create_container(Some(options), body).await;
        let id = created.map_err(|error| EngineError::of(what, error))?.id;
        Ok(Container { engine: Some(self.clone()), id })
    }

    /// Tells what a container prints until it ends; its last lines.
    async fn listen(&self, container: &str, progress: &Progress) -> Result<Vec<String>, EngineError> {
        let options = LogsOptions { follow: true, stdout: true, stderr: true, ..LogsOptions::default() };
        let mut pieces = std::pin::pin!(self.docker().logs(container, Some(options)));
        let mut said = Said::default();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| EngineError::of("the log of a container broke off", error))?;
            said.hear(&String::from_utf8_lossy(&piece.into_bytes()), progress);
        }
        Ok(said.end(progress))
    }

    async fn ended(&self, container: &str) -> Result<i64, EngineError> {
        let mut answers =
            std::pin::pin!(self.docker().wait_container(container, None::<WaitContainerOptions>));
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            Some(Err(Bollard::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(EngineError::of("the Engine does not say how a container ended", error)),
            None => Ok(UNKNOWN_CODE),
        }
    }

    async fn take(&self, container: &str, errand: &Errand<'_>) -> Result<(), EngineError> {
        let what = "what a program made could not be taken out of its container";
        let options = DownloadFromContainerOptions { path: errand.result.to_owned() };
        let archive = tempfile::tempfile().map_err(|error| failed(what, error))?;
        let mut file = tokio::fs::File::from_std(archive);
        let mut pieces = std::pin::pin!(self.docker().download_from_container(container, Some(options)));
        let mut taken = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| EngineError::of(what, error))?;
            taken += piece.len() as u64;
            if taken > MOST_TAKEN {
                let message = format!("{what}: it is more than {} GiB", MOST_TAKEN >> 30);
                return Err(EngineError::new(ErrorClass::TooLarge, message));
            }
            tokio::io::AsyncWriteExt::write_all(&mut file, &piece)
                .await
                .map_err(|error| failed(what, error))?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(|error| failed(what, error))?;
        let (archive, into) = (file.into_std().await, errand.into.to_owned());
        blocking(move || unpack(archive, &into)).await.map_err(|error| failed(what, error))
    }
}

/// A container that is removed when it is not needed any more.
struct Container {
    engine: Option<Engine>,
    id: String,
}

impl Container {
    async fn remove(mut self) {
        if let Some(engine) = self.engine.take() {
            remove(&engine, &self.id).await;
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Some(engine) = self.engine.take() else { return };
        let id = std::mem::take(&mut self.id);
        // Nobody waits for it; without a runtime the process ends, and the next errand of the name removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remove(&engine, &id).await });
        }
    }
}

async fn remove(engine: &Engine, container: &str) {
    let options = RemoveContainerOptions { force: true, v: true, link: false };
    match engine.docker().remove_container(container, Some(options)).await {
        Ok(()) | Err(Bollard::DockerResponseServerError { status_code: 404, .. }) => {}
        Err(error) => tracing::warn!(%container, %error, "a container could not be removed"),
    }
}

/// The folder as a tar, below `place`, all of it nobody's.
fn pack(folder: &Path, place: &str) -> io::Result<std::fs::File> {
    let mut tar = Builder::new(tempfile::tempfile()?);
    let mut folders = vec![(folder.to_owned(), place.to_owned())];
    while let Some((folder, place)) = folders.pop() {
        let mut header = header(EntryType::Directory, 0, 0o755);
        tar.append_data(&mut header, format!("{place}/"), io::empty())?;
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the name {} is not UTF-8", name.display()),
                )
            })?;
            let (path, inside) = (entry.path(), format!("{place}/{name}"));
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push((path, inside));
            } else if kind.is_file() {
                let file = fs_err::File::open(&path)?;
                let metadata = file.metadata()?;
                let mode = metadata.permissions().mode() & 0o755;
                tar.append_data(&mut self::header(EntryType::Regular, metadata.len(), mode), inside, file)?;
            }
        }
    }
    let mut file = tar.into_inner()?;
    file.flush()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(USER);
    header.set_gid(USER);
    header.set_mtime(0);
    header
}

/// Writes the files of a tar's one folder. What else a program may have put there, links above all, is left out.
fn unpack(mut archive: impl Read + Seek, into: &Path) -> io::Result<()> {
    archive.seek(SeekFrom::Start(0))?;
    for entry in Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let mut parts = path.components().rev();
        let (Some(std::path::Component::Normal(name)), Some(_), None) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if entry.header().entry_type().is_file() {
            let mut file = fs_err::File::create(into.join(name))?;
            io::copy(&mut entry, &mut file)?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn failed(what: &str, error: io::Error) -> EngineError {
    EngineError::caused(ErrorClass::Internal, what, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_brought_is_nobodys_and_what_is_taken_is_files_alone() {
        let (from, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs_err::create_dir_all(from.path().join("deep/er")).unwrap();
        fs_err::write(from.path().join("deep/er/file"), "x").unwrap();
        let mut packed = Archive::new(pack(from.path(), "build").unwrap());
        let entries: Vec<(String, u64)> = packed
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.header().uid().unwrap())
            })
            .collect();
        let paths: Vec<&str> = entries.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["build/", "build/deep/", "build/deep/er/", "build/deep/er/file"]);
        assert!(entries.iter().all(|(_, owner)| *owner == USER));

        let mut tar = Builder::new(Vec::new());
        for path in ["wheels/a.whl", "wheels/deep/b.whl", "alone.whl"] {
            tar.append_data(&mut header(EntryType::Regular, 1, 0o644), path, &b"x"[..]).unwrap();
        }
        let mut link = header(EntryType::Symlink, 0, 0o777);
        tar.append_link(&mut link, "wheels/link.whl", "/etc/passwd").unwrap();
        let mut above = header(EntryType::Regular, 1, 0o644);
        above.as_old_mut().name[..9].copy_from_slice(b"wheels/..");
        above.set_cksum();
        tar.append(&above, &b"x"[..]).unwrap();
        unpack(io::Cursor::new(tar.into_inner().unwrap()), into.path()).unwrap();
        let taken: Vec<_> =
            fs_err::read_dir(into.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(taken, ["a.whl"]);
    }
}
