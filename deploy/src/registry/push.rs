//! A push: blobs, then the manifests that name them, then the one that was asked for, and its tag with it.

use std::{collections::HashMap, io, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{Method, header};
use moorline_core::Digest;
use oci_spec::image::Descriptor;

use super::{
    Pushed, Reference, RegistryError,
    manifest::{Document, Served, said_digest},
    meter::Meter,
    remote::{Remote, Request, Shared},
    upload::{Arrival, Upload},
};
use crate::{
    Direction, Progress,
    image::{Layout, LayoutError, digest_of},
};

/// Blobs on their way at a time.
const PARALLEL: usize = 4;
/// Indexes in indexes.
const DEEPEST: usize = 4;
/// Of all images of an index together.
const MOST_MANIFESTS: usize = 1024;
const OCI_SUBJECT: &str = "oci-subject";

/// One push.
pub(super) struct Push<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) from: &'a Layout,
    pub(super) to: &'a Reference,
    pub(super) mount_from: &'a [String],
    pub(super) progress: &'a Progress,
}

/// What there is to send.
#[derive(Default)]
struct Load {
    /// Children before those that name them; the last is the one that was asked for.
    manifests: Vec<Served>,
    /// With their sizes.
    blobs: HashMap<Digest, u64>,
}

impl Push<'_> {
    pub(super) async fn run(&self, what: &Descriptor) -> Result<Pushed, RegistryError> {
        let remote = Remote::destination(self.shared, self.to, self.mount_from)?;
        let root = self.digest(what)?;
        if let Some(digest) = self.to.digest().filter(|digest| **digest != root) {
            return Err(RegistryError::OtherDigest { image: self.to.to_string(), digest: *digest });
        }
        let (layout, name, media_type) =
            (self.from.clone(), self.to.to_string(), what.media_type().to_string());
        let load = move || {
            let mut load = Load::default();
            load.add(&layout, &name, root, &media_type, DEEPEST)?;
            Ok::<_, RegistryError>(load)
        };
        let Load { manifests, blobs } = tokio::task::spawn_blocking(load).await??;
        let mut pushed = Pushed::default();
        let sent: Vec<_> = blobs.into_iter().map(|(digest, size)| self.blob(&remote, digest, size)).collect();
        let mut arriving = stream::iter(sent).buffer_unordered(PARALLEL);
        while let Some((arrival, size)) = arriving.try_next().await? {
            match arrival {
                Arrival::WasThere => pushed.skipped += 1,
                Arrival::Mounted => pushed.mounted += 1,
                Arrival::Sent => {
                    pushed.blobs_sent += 1;
                    pushed.bytes_sent += size;
                }
            }
        }
        for served in manifests {
            let digest = served.digest.to_string();
            let tag = self.to.tag().filter(|_| served.digest == root);
            pushed.bytes_sent += served.bytes.len() as u64;
            self.manifest(&remote, tag.unwrap_or(&digest), served).await?;
        }
        Ok(pushed)
    }

    async fn blob(&self, to: &Remote, digest: Digest, size: u64) -> Result<(Arrival, u64), RegistryError> {
        let meter = Arc::new(Meter::new(self.progress, Direction::Push, &digest, size));
        let path = self.from.blob_path(&digest);
        let upload =
            Upload { to, mount_from: self.mount_from, digest, size, path, meter: Arc::clone(&meter) };
        let arrival = upload.run().await?;
        meter.finish();
        Ok((arrival, size))
    }

    async fn manifest(&self, to: &Remote, version: &str, served: Served) -> Result<(), RegistryError> {
        if put(to, version, &served).await? {
            return Ok(());
        }
        match served.subject() {
            Some(subject) => {
                let subject = self.digest(subject)?;
                super::referrers::list_by_tag(to, &subject, &served).await
            }
            None => Ok(()),
        }
    }

    fn digest(&self, descriptor: &Descriptor) -> Result<Digest, RegistryError> {
        digest_of(descriptor).ok_or_else(|| no_digest(&self.to.to_string(), descriptor))
    }
}

impl Load {
    fn add(
        &mut self,
        layout: &Layout,
        name: &str,
        digest: Digest,
        media_type: &str,
        depth: usize,
    ) -> Result<(), RegistryError> {
        if self.manifests.iter().any(|known| known.digest == digest) {
            return Ok(());
        }
        let beyond = |why: &str| RegistryError::TooLarge {
            image: name.to_owned(),
            what: "the number of images",
            why: why.to_owned(),
        };
        let served = Served::read(layout.read(&digest)?, Some(media_type), name)?;
        match &served.document {
            Document::Manifest(manifest) => {
                for blob in manifest.layers().iter().chain([manifest.config()]) {
                    let digest = digest_of(blob).ok_or_else(|| no_digest(name, blob))?;
                    let (expected, actual) = (blob.size(), size_of(layout, &digest)?);
                    if actual != expected {
                        return Err(LayoutError::Size { digest, expected, actual }.into());
                    }
                    self.blobs.insert(digest, blob.size());
                }
            }
            Document::Index(index) => {
                let depth = depth.checked_sub(1).ok_or_else(|| beyond("indexes in indexes, too deep"))?;
                for child in index.manifests() {
                    let digest = digest_of(child).ok_or_else(|| no_digest(name, child))?;
                    self.add(layout, name, digest, child.media_type().as_ref(), depth)?;
                }
            }
        }
        self.manifests.push(served);
        if self.manifests.len() > MOST_MANIFESTS {
            return Err(beyond("an index with too many"));
        }
        Ok(())
    }
}

/// Sends a manifest. `true`: the registry knows about subjects, and has listed it among the referrers of its own.
pub(super) async fn put(to: &Remote, version: &str, served: &Served) -> Result<bool, RegistryError> {
    let action = format!("take the manifest {} into `{}`", served.digest, to.repository());
    let request = Request::new(Method::PUT, to.url(&format!("manifests/{version}")), &action)
        .header(header::CONTENT_TYPE, &served.media_type)
        .bytes(Bytes::copy_from_slice(&served.bytes));
    let response = to.send(request).await?;
    if !response.status().is_success() {
        return Err(to.refused(&action, response).await);
    }
    if let Some(said) = said_digest(&response).filter(|said| *said != served.digest) {
        return Err(to.wrong(&action, format!("it took it as {said}")));
    }
    Ok(response.headers().contains_key(OCI_SUBJECT))
}

fn size_of(layout: &Layout, digest: &Digest) -> Result<u64, LayoutError> {
    let path = layout.blob_path(digest);
    match fs_err::metadata(&path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LayoutError::Missing(*digest)),
        Err(source) => Err(LayoutError::Io { path, source }),
    }
}

fn no_digest(image: &str, descriptor: &Descriptor) -> RegistryError {
    RegistryError::Kind {
        image: image.to_owned(),
        kind: format!("it names `{}`", descriptor.digest()),
        hint: "only sha256 digests are known here",
    }
}
