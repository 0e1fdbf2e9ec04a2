//! Who a client's certificate says that it is, and whether a hub believes it.
//!
//! The TLS handshake proves that the client has the certificate's key. Whether the certificate was issued by an
//! authority of the hub is told apart here and not there, so that a self-signed certificate whose thumbprint is known
//! gets in too.

use std::sync::Arc;

use moorline_core::Digest;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use super::identity::{ClientId, Proof};

/// What a client presented.
#[derive(Clone, Debug)]
pub(crate) struct Presented {
    thumbprint: Digest,
    names: Vec<String>,
    trusted: bool,
    /// Neither before its time nor after it.
    current: bool,
}

impl Presented {
    pub(crate) fn new(chain: &[CertificateDer<'_>], authorities: Option<&Authorities>) -> Option<Self> {
        let (leaf, intermediates) = chain.split_first()?;
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(leaf).ok()?;
        let mut names: Vec<String> = certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok().map(str::to_owned))
            .collect();
        if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
            names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            }));
        }
        let trusted = authorities.is_some_and(|authorities| {
            authorities.0.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
        });
        Some(Self {
            thumbprint: Digest::of(leaf),
            names,
            trusted,
            current: certificate.validity().is_valid(),
        })
    }

    /// Whether this proves what `proof` asks for.
    pub(crate) fn proves(&self, id: &ClientId, proof: &Proof) -> bool {
        match proof {
            Proof::Sas { .. } => false,
            Proof::Thumbprint { primary, secondary } => {
                self.current && (self.thumbprint == *primary || Some(self.thumbprint) == *secondary)
            }
            Proof::Authority => {
                let id = id.to_string();
                self.trusted && self.names.contains(&id)
            }
        }
    }

    /// Who it is, if an authority of the hub says so.
    pub(crate) fn by_authority(&self) -> Option<ClientId> {
        self.names.iter().filter(|_| self.trusted).find_map(|name| name.parse().ok())
    }
}

/// The authorities whose certificates prove a name.
#[derive(Clone, Debug)]
pub(crate) struct Authorities(Arc<dyn ClientCertVerifier>);

impl Authorities {
    pub(crate) fn new(
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map(Self)
    }
}

/// Lets any certificate through whose key the client has; none is asked for.
#[derive(Debug)]
pub(crate) struct AnyCertificate(pub(crate) Arc<CryptoProvider>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
