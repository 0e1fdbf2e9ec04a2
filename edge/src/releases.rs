//! Releases on a device: their files by digest, each fetched once whatever release it is of, and put together to folders
//! that a scorer serves.
//!
//! A new version of a model costs the files that have changed. A fetch that broke off goes on where it ended. Nothing is
//! given its name before all of it is there, checked and durable; so a loss of power leaves files of no name, which are
//! fetched further.

use std::{
    collections::BTreeSet,
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use moorline_core::{Backoff, Digest, FileEntry, Release, ReleaseError};
use reqwest::{StatusCode, Url, header::RANGE};
use thiserror::Error;

use crate::{disk::replace, fleet::ImageManifest};

/// Attempts in a row that brought nothing.
const FRUITLESS: u32 = 6;
/// A `release.json` is not longer.
const MAX_RELEASE: u64 = 4 * 1024 * 1024;

/// Why a release is not on the device.
#[derive(Debug, Error)]
pub enum ReleasesError {
    #[error("could not read or write `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "`{digest}` takes {needed} bytes, and {free} are free of those that releases may take; make the quota larger, or remove a module"
    )]
    Quota { digest: Digest, needed: u64, free: u64 },
    #[error("`{0}` could not be fetched")]
    Fetch(Digest, #[source] reqwest::Error),
    #[error("`{digest}` was answered with {status}")]
    Status { digest: Digest, status: u16 },
    #[error("`{0}` did not come in time: the connection gives nothing")]
    Stalled(Digest),
    #[error("what came as `{0}` is something else: its sha256 or its length differs")]
    Damaged(Digest),
    #[error("`{0}` is no release")]
    Release(Digest, #[source] ReleaseError),
    #[error("`{0}` is longer than any release.json")]
    TooLong(Digest),
}

/// Why the server did not answer.
#[derive(Debug, Error)]
pub enum Unanswered {
    #[error("there is no such place")]
    Place,
    #[error("the server could not be reached")]
    Fetch(#[source] reqwest::Error),
    #[error("it was answered with {0}")]
    Status(u16),
    #[error("the answer is longer than it may be")]
    TooLong,
    #[error("the answer did not come in time")]
    Stalled,
}

impl Unanswered {
    fn of(self, digest: Digest) -> ReleasesError {
        match self {
            Self::Fetch(error) => ReleasesError::Fetch(digest, error),
            Self::Status(status) => ReleasesError::Status { digest, status },
            Self::TooLong | Self::Place => ReleasesError::TooLong(digest),
            Self::Stalled => ReleasesError::Stalled(digest),
        }
    }
}

fn io_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ReleasesError {
    let path = path.into();
    move |source| ReleasesError::Io { path, source }
}

/// Where releases come from, and what bounds them.
#[derive(Clone, Debug)]
pub struct ReleasesConfig {
    pub folder: PathBuf,
    /// Files are fetched from below: `{base}/sha256:…`.
    pub base: Url,
    /// Bytes on disk.
    pub quota: u64,
    /// Bytes in a second.
    pub bandwidth: Option<u64>,
    /// For the connection to give something.
    pub stall: Duration,
}

/// The releases of a device.
#[derive(Debug)]
pub struct Releases {
    config: ReleasesConfig,
    /// By the newest certificate of the device.
    client: RwLock<reqwest::Client>,
}

impl Releases {
    pub fn open(config: ReleasesConfig, client: reqwest::Client) -> Result<Self, ReleasesError> {
        let releases = Self { config, client: RwLock::new(client) };
        for folder in [releases.blobs(), releases.partial(), releases.folders()] {
            fs_err::create_dir_all(&folder).map_err(io_error(&folder))?;
        }
        // Put together, or deleted, in part when the power went.
        for entry in entries(&releases.folders())? {
            if entry.extension().is_some_and(|extension| extension == "new") {
                fs_err::remove_dir_all(&entry).map_err(io_error(&entry))?;
            }
        }
        Ok(releases)
    }

    /// Asks by this client from now on: the device has another certificate.
    pub fn ask_by(&self, client: reqwest::Client) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn blobs(&self) -> PathBuf {
        self.config.folder.join("blobs")
    }

    fn partial(&self) -> PathBuf {
        self.config.folder.join("partial")
    }

    fn folders(&self) -> PathBuf {
        self.config.folder.join("releases")
    }

    /// The folder of a release, if it is all there.
    pub fn folder(&self, digest: &Digest) -> Option<PathBuf> {
        let folder = self.folders().join(digest.hex());
        folder.join(Release::FILE).is_file().then_some(folder)
    }

    /// Bytes on disk. A file counts once, in however many releases it is.
    pub fn used(&self) -> Result<u64, ReleasesError> {
        let mut used = 0;
        for folder in [self.blobs(), self.partial()] {
            for entry in entries(&folder)? {
                used += fs_err::metadata(&entry).map_err(io_error(&entry))?.len();
            }
        }
        Ok(used)
    }

    /// Fetches what is missing of a release and puts it together; gives its folder. `size` is that of its
    /// `release.json`.
    pub async fn fetch(&self, digest: &Digest, size: u64) -> Result<PathBuf, ReleasesError> {
        if let Some(folder) = self.folder(digest) {
            return Ok(folder);
        }
        if size > MAX_RELEASE {
            return Err(ReleasesError::TooLong(*digest));
        }
        let path = self.file(digest, size).await?;
        let text = fs_err::read_to_string(&path).map_err(io_error(&path))?;
        let release = Release::parse(&text).map_err(|error| ReleasesError::Release(*digest, error))?;
        // All of it is looked at before any of it is fetched: half a release serves nobody.
        let missing: BTreeSet<(Digest, u64)> = files(&release)
            .map(|(_, file)| (file.sha256, file.size))
            .filter(|(digest, _)| !self.blobs().join(digest.hex()).exists())
            .collect();
        let needed: u64 = missing.iter().map(|(_, size)| *size).sum();
        let here: u64 = missing.iter().map(|(digest, size)| self.begun(digest).min(*size)).sum();
        self.check_quota(digest, needed.saturating_sub(here))?;
        for (digest, size) in missing {
            self.file(&digest, size).await?;
        }
        self.put_together(digest, &path, &release)
    }

    /// Deletes what no release of `keep` needs; gives the bytes that it took.
    pub fn collect(&self, keep: &BTreeSet<Digest>) -> Result<u64, ReleasesError> {
        let before = self.used()?;
        let mut wanted: BTreeSet<String> = keep.iter().map(Digest::hex).collect();
        for folder in entries(&self.folders())? {
            let kept =
                folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| wanted.contains(name));
            if !kept {
                // Its name first: what is deleted in part is no release any more, and is deleted when they are opened.
                let going = folder.with_extension("new");
                fs_err::rename(&folder, &going).map_err(io_error(&folder))?;
                fs_err::remove_dir_all(&going).map_err(io_error(&going))?;
            }
        }
        for digest in keep {
            let path = self.blobs().join(digest.hex());
            let Ok(text) = fs_err::read_to_string(&path) else { continue };
            if let Ok(release) = Release::parse(&text) {
                wanted.extend(files(&release).map(|(_, file)| file.sha256.hex()));
            } else if let Ok(manifest) = serde_json::from_str::<ImageManifest>(&text) {
                wanted.extend(manifest.blobs().map(|blob| blob.digest.hex()));
            }
        }
        for folder in [self.blobs(), self.partial()] {
            for entry in entries(&folder)? {
                if !entry.file_name().and_then(|name| name.to_str()).is_some_and(|name| wanted.contains(name))
                {
                    fs_err::remove_file(&entry).map_err(io_error(&entry))?;
                }
            }
        }
        Ok(before.saturating_sub(self.used()?))
    }

    fn begun(&self, digest: &Digest) -> u64 {
        fs_err::metadata(self.partial().join(digest.hex())).map_or(0, |metadata| metadata.len())
    }

    fn check_quota(&self, digest: &Digest, needed: u64) -> Result<(), ReleasesError> {
        let free = self.config.quota.saturating_sub(self.used()?);
        if needed > free { Err(ReleasesError::Quota { digest: *digest, needed, free }) } else { Ok(()) }
    }

    /// A small file whose length is not known before, such as the manifest of an image.
    pub(crate) async fn document(&self, digest: &Digest) -> Result<Vec<u8>, ReleasesError> {
        let path = self.blobs().join(digest.hex());
        if let Ok(bytes) = fs_err::read(&path) {
            return Ok(bytes);
        }
        let asked = self.get(self.address(digest), MAX_RELEASE).await;
        let bytes = asked.map_err(|failure| failure.of(*digest))?;
        if Digest::of(&bytes) != *digest {
            return Err(ReleasesError::Damaged(*digest));
        }
        self.check_quota(digest, bytes.len() as u64)?;
        replace(&path, &bytes).map_err(io_error(&path))?;
        Ok(bytes)
    }

    /// What the server answers at a place beside the files of releases, of at most so many bytes.
    pub(crate) async fn beside(&self, place: &str, most: u64) -> Result<Vec<u8>, Unanswered> {
        let url = self.config.base.join(place).map_err(|_| Unanswered::Place)?;
        self.get(url.into(), most).await
    }

    fn address(&self, digest: &Digest) -> String {
        format!("{}/{digest}", self.config.base.as_str().trim_end_matches('/'))
    }

    async fn get(&self, url: String, most: u64) -> Result<Vec<u8>, Unanswered> {
        let request = self.client.read().unwrap_or_else(PoisonError::into_inner).get(url);
        let asking = async {
            let mut answer = request.send().await?;
            let mut bytes = Vec::new();
            if answer.status() != StatusCode::OK {
                return Ok(Err(Unanswered::Status(answer.status().as_u16())));
            }
            while let Some(chunk) = answer.chunk().await? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() as u64 > most {
                    return Ok(Err(Unanswered::TooLong));
                }
            }
            Ok(Ok(bytes))
        };
        let answered = tokio::time::timeout(self.config.stall, asking).await;
        answered.map_err(|_| Unanswered::Stalled)?.map_err(Unanswered::Fetch)?
    }

    /// Deletes files that are needed no more here. One that is gone is as good.
    pub(crate) fn drop_files<'a>(
        &self,
        digests: impl Iterator<Item = &'a Digest>,
    ) -> Result<(), ReleasesError> {
        for path in digests.map(|digest| self.blobs().join(digest.hex())) {
            match fs_err::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) async fn file(&self, digest: &Digest, size: u64) -> Result<PathBuf, ReleasesError> {
        let whole = self.blobs().join(digest.hex());
        if whole.exists() {
            return Ok(whole);
        }
        self.check_quota(digest, size.saturating_sub(self.begun(digest)))?;
        let partial = self.partial().join(digest.hex());
        let mut backoff = Backoff::default();
        loop {
            let before = self.begun(digest);
            let failure = match self.fetch_rest(digest, size, &partial).await {
                Ok(()) => break,
                Err(error @ (ReleasesError::Io { .. } | ReleasesError::Damaged(_))) => return Err(error),
                Err(ReleasesError::Status { digest, status }) if (400..500).contains(&status) => {
                    return Err(ReleasesError::Status { digest, status });
                }
                Err(error) => error,
            };
            if self.begun(digest) > before {
                backoff.forget();
            }
            if backoff.ends() + 1 >= FRUITLESS {
                return Err(failure);
            }
            tracing::info!(%digest, error = &failure as &dyn std::error::Error, "a fetch broke off and goes on");
            tokio::time::sleep(backoff.next_pause()).await;
        }
        let checked = partial.clone();
        let digest = *digest;
        let sound = tokio::task::spawn_blocking(move || -> io::Result<bool> {
            let file = fs_err::File::open(&checked)?;
            let (found, length) = Digest::of_reader(&file)?;
            file.sync_all()?;
            Ok(found == digest && length == size)
        });
        let sound = sound.await.map_err(|error| io_error(&partial)(io::Error::other(error)))?;
        if !sound.map_err(io_error(&partial))? {
            fs_err::remove_file(&partial).map_err(io_error(&partial))?;
            return Err(ReleasesError::Damaged(digest));
        }
        let mut readonly = fs_err::metadata(&partial).map_err(io_error(&partial))?.permissions();
        readonly.set_readonly(true);
        fs_err::set_permissions(&partial, readonly).map_err(io_error(&partial))?;
        fs_err::rename(&partial, &whole).map_err(io_error(&whole))?;
        sync(&self.blobs())?;
        Ok(whole)
    }

    /// Fetches from where the partial file ends.
    async fn fetch_rest(&self, digest: &Digest, size: u64, partial: &Path) -> Result<(), ReleasesError> {
        let error = |source| ReleasesError::Io { path: partial.to_owned(), source };
        let mut options = fs_err::OpenOptions::new();
        let mut file =
            options.create(true).truncate(false).read(true).write(true).open(partial).map_err(error)?;
        let mut at = file.seek(io::SeekFrom::End(0)).map_err(error)?;
        if at == size {
            return Ok(());
        }
        if at > size {
            at = restart(&mut file).map_err(error)?;
        }
        let mut request =
            self.client.read().unwrap_or_else(PoisonError::into_inner).get(self.address(digest));
        if at > 0 {
            request = request.header(RANGE, format!("bytes={at}-"));
        }
        let fetch = |source| ReleasesError::Fetch(*digest, source);
        let stalled = || ReleasesError::Stalled(*digest);
        let answer = tokio::time::timeout(self.config.stall, request.send()).await;
        let mut answer = answer.map_err(|_| stalled())?.map_err(fetch)?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {}
            // All of it, whatever was asked for.
            StatusCode::OK => at = restart(&mut file).map_err(error)?,
            StatusCode::RANGE_NOT_SATISFIABLE => {
                restart(&mut file).map_err(error)?;
                return Err(ReleasesError::Status { digest: *digest, status: 500 });
            }
            status => return Err(ReleasesError::Status { digest: *digest, status: status.as_u16() }),
        }
        let (began, from) = (Instant::now(), at);
        loop {
            let chunk = tokio::time::timeout(self.config.stall, answer.chunk()).await;
            let Some(chunk) = chunk.map_err(|_| stalled())?.map_err(fetch)? else { break };
            at += chunk.len() as u64;
            if at > size {
                drop(file);
                fs_err::remove_file(partial).map_err(error)?;
                return Err(ReleasesError::Damaged(*digest));
            }
            file.write_all(&chunk).map_err(error)?;
            if let Some(bandwidth) = self.config.bandwidth {
                let due = Duration::from_secs_f64((at - from) as f64 / bandwidth.max(1) as f64);
                tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            }
        }
        // Shorter than it is: the server ended it.
        if at < size { Err(stalled()) } else { Ok(()) }
    }

    fn put_together(
        &self,
        digest: &Digest,
        json: &Path,
        release: &Release,
    ) -> Result<PathBuf, ReleasesError> {
        let folder = self.folders().join(digest.hex());
        let new = folder.with_extension("new");
        if new.exists() {
            fs_err::remove_dir_all(&new).map_err(io_error(&new))?;
        }
        let mut folders = BTreeSet::from([new.clone()]);
        let mut links = vec![(json.to_owned(), new.join(Release::FILE))];
        for (part, file) in files(release) {
            // The release was checked: its paths lead nowhere else.
            let target = new.join(part).join(&file.path);
            folders.extend(
                target.ancestors().skip(1).take_while(|own| own.starts_with(&new)).map(Path::to_owned),
            );
            links.push((self.blobs().join(file.sha256.hex()), target));
        }
        for own in &folders {
            fs_err::create_dir_all(own).map_err(io_error(own))?;
        }
        for (from, to) in links {
            fs_err::hard_link(&from, &to).map_err(io_error(&to))?;
        }
        for own in &folders {
            sync(own)?;
        }
        fs_err::rename(&new, &folder).map_err(io_error(&folder))?;
        sync(&self.folders())?;
        Ok(folder)
    }

    /// Reads every file of a release again: disks of devices go bad. `false` if one is not what it was.
    pub fn is_sound(&self, digest: &Digest) -> Result<bool, ReleasesError> {
        let Some(folder) = self.folder(digest) else { return Ok(false) };
        let path = folder.join(Release::FILE);
        let text = fs_err::read(&path).map_err(io_error(&path))?;
        if Digest::of(&text) != *digest {
            return Ok(false);
        }
        let text = String::from_utf8_lossy(&text);
        let release = Release::parse(&text).map_err(|error| ReleasesError::Release(*digest, error))?;
        for (part, file) in files(&release) {
            let path = folder.join(part).join(&file.path);
            let Ok(open) = fs_err::File::open(&path) else { return Ok(false) };
            let (found, _) = Digest::of_reader(open).map_err(io_error(&path))?;
            if found != file.sha256 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets a release that is not sound, so that it is fetched again.
    pub fn forget(&self, digest: &Digest) -> Result<(), ReleasesError> {
        let Some(folder) = self.folder(digest) else { return Ok(()) };
        let path = folder.join(Release::FILE);
        let text = fs_err::read_to_string(&path).unwrap_or_default();
        let mut blobs = vec![digest.hex()];
        if let Ok(release) = Release::parse(&text) {
            blobs.extend(files(&release).map(|(_, file)| file.sha256.hex()));
        }
        let going = folder.with_extension("new");
        fs_err::rename(&folder, &going).map_err(io_error(&folder))?;
        fs_err::remove_dir_all(&going).map_err(io_error(&going))?;
        for blob in blobs.into_iter().map(|name| self.blobs().join(name)) {
            let Ok(file) = fs_err::File::open(&blob) else { continue };
            let (found, _) = Digest::of_reader(file).map_err(io_error(&blob))?;
            // What is sound may be another release's too.
            if blob.file_name().and_then(|name| name.to_str()) != Some(found.hex().as_str()) {
                fs_err::remove_file(&blob).map_err(io_error(&blob))?;
            }
        }
        Ok(())
    }
}

/// The files of a release with the folder that each is in.
fn files(release: &Release) -> impl Iterator<Item = (&'static str, &FileEntry)> {
    let model = release.model.iter().flat_map(|model| &model.files).map(|file| (Release::MODEL_DIR, file));
    let code = release.code.iter().flat_map(|code| &code.files).map(|file| (Release::CODE_DIR, file));
    model.chain(code)
}

fn restart(file: &mut fs_err::File) -> io::Result<u64> {
    file.set_len(0)?;
    file.seek(io::SeekFrom::Start(0))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ReleasesError> {
    let listed = fs_err::read_dir(folder).map_err(io_error(folder))?;
    listed.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>().map_err(io_error(folder))
}

/// What was named in a folder is durable once the folder is.
fn sync(folder: &Path) -> Result<(), ReleasesError> {
    fs_err::File::open(folder).and_then(|file| file.sync_all()).map_err(io_error(folder))
}
