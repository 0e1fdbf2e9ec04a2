//! TLS of the hub's sockets: 1.2, which is all that Azure's Python client speaks, and 1.3. The certificate can be
//! renewed while the hub runs; one that cannot be read leaves the old one in place.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

use super::{
    certificate::{AnyCertificate, Authorities, Presented},
    config::TlsFiles,
    error::HubError,
};

#[derive(Debug)]
struct Loaded {
    certificate: Arc<CertifiedKey>,
    authorities: Option<Authorities>,
    stamps: Vec<Option<(SystemTime, u64)>>,
}

/// What both listeners share.
pub(crate) struct Tls {
    files: TlsFiles,
    loaded: Arc<RwLock<Loaded>>,
    provider: Arc<CryptoProvider>,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Newest(Arc<RwLock<Loaded>>);

impl ResolvesServerCert for Newest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).certificate))
    }
}

impl Tls {
    pub(crate) fn new(files: TlsFiles) -> Result<Self, HubError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let loaded = Arc::new(RwLock::new(load(&files, &provider)?));
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(HubError::Tls)?
            .with_client_cert_verifier(Arc::new(AnyCertificate(Arc::clone(&provider))))
            .with_cert_resolver(Arc::new(Newest(Arc::clone(&loaded))));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { files, loaded, provider, acceptor })
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// What a client presented, if it presented a certificate.
    pub(crate) fn presented(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Presented> {
        let authorities = self.loaded.read().unwrap_or_else(PoisonError::into_inner).authorities.clone();
        Presented::new(chain?, authorities.as_ref())
    }

    /// Reads the files again.
    pub(crate) fn reload(&self) -> Result<(), HubError> {
        let new = load(&self.files, &self.provider)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Reads the files again if they are not those that were read.
    pub(crate) fn reload_changed(&self) {
        let stamps = stamps(&self.files);
        if self.loaded.read().unwrap_or_else(PoisonError::into_inner).stamps == stamps {
            return;
        }
        match self.reload() {
            Ok(()) => tracing::info!("read the hub's certificate again"),
            Err(error) => {
                // Renewal is more than one file: the next look may find them whole. Said once for each change.
                self.loaded.write().unwrap_or_else(PoisonError::into_inner).stamps = stamps;
                tracing::warn!(error = &error as &dyn std::error::Error, "kept the hub's old certificate");
            }
        }
    }
}

fn stamps(files: &TlsFiles) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &Path| {
        let metadata = fs_err::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    let authorities = files.client_authorities.as_deref().and_then(stamp);
    vec![stamp(&files.certificates), stamp(&files.key), authorities]
}

fn load(files: &TlsFiles, provider: &CryptoProvider) -> Result<Loaded, HubError> {
    // Before the files are read: whatever changes meanwhile is read again.
    let stamps = stamps(files);
    let chain = certificates(&files.certificates)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| HubError::Pem { path: files.key.clone(), source })?;
    let certificate = CertifiedKey::from_der(chain, key, provider)
        .map_err(|source| HubError::Key { path: files.key.clone(), source })?;
    let authorities = match &files.client_authorities {
        None => None,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|source| HubError::Authorities { path: path.clone(), source: source.into() })?;
            }
            let authorities = Authorities::new(roots, Arc::new(provider.clone()))
                .map_err(|source| HubError::Authorities { path: path.clone(), source: source.into() })?;
            Some(authorities)
        }
    };
    Ok(Loaded { certificate: Arc::new(certificate), authorities, stamps })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HubError> {
    let error = |source| HubError::Pem { path: path.to_owned(), source };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(error)?.collect();
    let found = found.map_err(error)?;
    if found.is_empty() { Err(HubError::NoCertificate(path.to_owned())) } else { Ok(found) }
}
