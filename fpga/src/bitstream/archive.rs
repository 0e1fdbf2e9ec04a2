//! The archive: an uncompressed tar with the manifest first, its signature next, and then the files that the manifest
//! names, in its order. Nothing is ever written to a path that an archive names.

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read, Write},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use moorline_core::Digest;
use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, EntryType, Header};

use super::{BitstreamError, File, Manifest, PublicKey, SigningKey};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const SIGNATURE: &str = "manifest.json.sig";
const LARGEST_MANIFEST: u64 = 4 << 20;
const LARGEST_SIGNATURE: u64 = 4096;

/// The signature's entry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    algorithm: String,
    key: String,
    signature: String,
}

/// A bitstream whose signature, digests and manifest were checked. There is no other way to have one.
#[derive(Clone, Debug)]
pub struct Bitstream(Unverified);

impl std::ops::Deref for Bitstream {
    type Target = Unverified;

    fn deref(&self) -> &Unverified {
        &self.0
    }
}

/// A bitstream that is whole, but of which nobody knows who made it: for showing, never for a device.
#[derive(Clone)]
pub struct Unverified {
    manifest: Manifest,
    signer: String,
    files: BTreeMap<String, Arc<[u8]>>,
}

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { id, version, .. } = &self.manifest;
        f.debug_struct("Bitstream").field("id", id).field("version", version).finish_non_exhaustive()
    }
}

impl Bitstream {
    /// Reads a bitstream that one of `trusted` signed and that is not expired `now`.
    pub fn open(reader: impl Read, trusted: &[PublicKey], now: Timestamp) -> Result<Self, BitstreamError> {
        let verify = |manifest: &[u8], signed: &Signed| {
            let Some(key) = trusted.iter().find(|key| key.id() == signed.key) else {
                let mut known: Vec<String> = trusted.iter().map(PublicKey::id).collect();
                if known.is_empty() {
                    known.push("no key at all".to_owned());
                }
                return Err(BitstreamError::Foreign { key: signed.key.clone(), trusted: known.join(" or ") });
            };
            let signature = STANDARD.decode(&signed.signature).map_err(|_| BitstreamError::Signature)?;
            key.verify(manifest, &signature)
        };
        let bitstream = read(reader, verify)?;
        match bitstream.manifest.expires {
            Some(at) if at <= now => Err(BitstreamError::Expired { at }),
            _ => Ok(Self(bitstream)),
        }
    }
}

impl Unverified {
    /// Reads a bitstream without asking who signed it.
    pub fn read(reader: impl Read) -> Result<Self, BitstreamError> {
        read(reader, |_, _| Ok(()))
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The id of the key that the signature names.
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// The content of a file that the manifest names.
    pub fn content(&self, file: &File) -> Arc<[u8]> {
        // Reading has seen to it that every file of the manifest is there.
        self.files.get(&file.file).cloned().unwrap_or_default()
    }

    /// Fails unless it is of the architecture that a model was lowered for.
    pub fn expect(&self, fingerprint: &str) -> Result<(), BitstreamError> {
        let found = &self.manifest.arch_fingerprint;
        if found == fingerprint {
            return Ok(());
        }
        Err(BitstreamError::Fingerprint { expected: fingerprint.to_owned(), found: found.clone() })
    }
}

/// Writes a bitstream. The same contents and the same key make the same bytes.
pub fn pack(
    manifest: &Manifest,
    files: &BTreeMap<String, Vec<u8>>,
    key: &SigningKey,
    writer: impl Write,
) -> Result<(), BitstreamError> {
    manifest.check()?;
    let json = serde_json::to_vec_pretty(manifest).map_err(|source| BitstreamError::Manifest { source })?;
    let signed = Signed {
        algorithm: "ed25519".to_owned(),
        key: key.public().id(),
        signature: STANDARD.encode(key.sign(&json)),
    };
    let signed = serde_json::to_vec(&signed).map_err(|source| BitstreamError::Manifest { source })?;
    let mut archive = Builder::new(writer);
    append(&mut archive, MANIFEST, &json)?;
    append(&mut archive, SIGNATURE, &signed)?;
    for file in manifest.files() {
        let content = files.get(&file.file).ok_or_else(|| BitstreamError::Contradiction {
            reason: format!("it names `{}`, which was not given", file.file),
        })?;
        file.check(content)?;
        append(&mut archive, &file.file, content)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

fn append(archive: &mut Builder<impl Write>, name: &str, content: &[u8]) -> Result<(), BitstreamError> {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, content)?;
    Ok(())
}

impl File {
    /// What the manifest says of a file with this content.
    pub fn of(name: &str, content: &[u8]) -> Self {
        Self { file: name.to_owned(), sha256: Digest::of(content), size: content.len() as u64 }
    }

    fn check(&self, content: &[u8]) -> Result<(), BitstreamError> {
        let found = Digest::of(content);
        if found == self.sha256 && content.len() as u64 == self.size {
            return Ok(());
        }
        Err(BitstreamError::Damaged { file: self.file.clone(), expected: self.sha256, found })
    }
}

/// One entry as it is expected next.
fn next<R: Read>(
    entries: &mut tar::Entries<'_, R>,
    name: &str,
    limit: u64,
) -> Result<Vec<u8>, BitstreamError> {
    let refused = |reason: String| Err(BitstreamError::Archive { reason });
    let mut entry = match entries.next() {
        None => return refused(format!("it ends before `{name}`")),
        // What is not a tar fails in words that say little; what was expected says more.
        Some(Err(error)) => return refused(format!("there is no entry `{name}` ({error})")),
        Some(Ok(entry)) => entry,
    };
    if entry.header().entry_type() != EntryType::Regular || entry.path_bytes() != name.as_bytes() {
        let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        return refused(format!("`{found}` stands where the file `{name}` should"));
    }
    if entry.size() > limit {
        return Err(BitstreamError::TooLarge { what: format!("`{name}`"), limit });
    }
    let mut content = Vec::with_capacity(entry.size().min(16 << 20) as usize);
    let size = entry.size();
    entry.read_to_end(&mut content)?;
    if (content.len() as u64) < size {
        return refused(format!("it ends within `{name}`"));
    }
    Ok(content)
}

fn read(
    reader: impl Read,
    verify: impl FnOnce(&[u8], &Signed) -> Result<(), BitstreamError>,
) -> Result<Unverified, BitstreamError> {
    let mut archive = Archive::new(reader);
    let mut entries = archive.entries()?;
    let json = next(&mut entries, MANIFEST, LARGEST_MANIFEST)?;
    let signed = next(&mut entries, SIGNATURE, LARGEST_SIGNATURE)?;
    let signed: Signed = serde_json::from_slice(&signed).map_err(|_| BitstreamError::Signature)?;
    if signed.algorithm != "ed25519" {
        return Err(BitstreamError::Signature);
    }
    verify(&json, &signed)?;
    let manifest: Manifest =
        serde_json::from_slice(&json).map_err(|source| BitstreamError::Manifest { source })?;
    manifest.check()?;
    let mut files = BTreeMap::new();
    for file in manifest.files() {
        let content = next(&mut entries, &file.file, file.size)?;
        file.check(&content)?;
        files.insert(file.file.clone(), Arc::from(content));
    }
    if entries.next().is_some() {
        return Err(BitstreamError::Archive {
            reason: "it has more files than its manifest names".to_owned(),
        });
    }
    Ok(Unverified { manifest, signer: signed.key, files })
}
