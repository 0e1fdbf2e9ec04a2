//! A certificate authority of our own: the server's, which signs what devices ask for when they enrol, and a device's,
//! which signs the certificates of its modules.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateSigningRequestDer, ServerName};
use thiserror::Error;

use crate::hub::{ClientId, ClientIdError};

/// Clocks of devices and servers differ; a certificate is valid from a little before it was made.
const EARLIER: Duration = Duration::from_hours(24);

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error("the certificate or key of the authority cannot be read")]
    Own(#[source] rcgen::Error),
    #[error("the signing request cannot be read, or is not signed with its own key")]
    Request(#[source] rcgen::Error),
    #[error("the signing request names no device and no module")]
    Name(#[source] ClientIdError),
    #[error("`{asked}` asks for the certificate of `{named}`")]
    OtherName { asked: ClientId, named: String },
    #[error("`{0}` cannot be the name of a server")]
    ServerName(String),
    #[error("the certificate could not be made")]
    Make(#[source] rcgen::Error),
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// Its own first, then that of the authority.
    pub certificates: String,
    pub key: String,
    pub expires: SystemTime,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// What issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority and its key in PEM, which is to be kept.
    pub fn create(name: &str, lifetime: Duration) -> Result<(Self, String), AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let mut params = named(name, lifetime);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Make)?.pem();
        let kept = key.serialize_pem();
        Ok((Self { issuer: Issuer::new(params, key), certificate }, kept))
    }

    /// An authority that was created before.
    pub fn open(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Own)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(AuthorityError::Own)?;
        Ok(Self { issuer, certificate: certificate.to_owned() })
    }

    /// Its own certificate, for those who are to trust it.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes a key, and a certificate by which servers of these names are trusted.
    pub fn issue_server(&self, names: &[&str], lifetime: Duration) -> Result<Issued, AuthorityError> {
        let mut params = named(names.first().copied().unwrap_or_default(), lifetime);
        for name in names {
            if ServerName::try_from(*name).is_err() {
                return Err(AuthorityError::ServerName((*name).to_owned()));
            }
            let san = match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    (*name).try_into().map_err(|_| AuthorityError::ServerName((*name).to_owned()))?,
                ),
            };
            params.subject_alt_names.push(san);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// Makes a key, and a certificate that proves a device or module.
    pub fn issue_client(&self, id: &ClientId, lifetime: Duration) -> Result<Issued, AuthorityError> {
        let mut params = named(&id.to_string(), lifetime);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Issued, AuthorityError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let expires = params.not_after.into();
        let certificate = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Make)?;
        Ok(Issued { certificates: self.chain(&certificate), key: key.serialize_pem(), expires })
    }

    /// Signs what `id` asked for with [`request`]; nothing but the key is taken from the request. Gives the PEM chain.
    pub fn sign(&self, id: &ClientId, request: &[u8], lifetime: Duration) -> Result<String, AuthorityError> {
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request).map_err(AuthorityError::Request)?;
        let asked = request.params.distinguished_name.get(&DnType::CommonName).map(text).unwrap_or_default();
        let asked: ClientId = asked.parse().map_err(AuthorityError::Name)?;
        if asked != *id {
            return Err(AuthorityError::OtherName { asked: id.clone(), named: asked.to_string() });
        }
        let mut params = named(&id.to_string(), lifetime);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(AuthorityError::Make)?;
        Ok(self.chain(&certificate))
    }

    fn chain(&self, certificate: &Certificate) -> String {
        format!("{}{}", certificate.pem(), self.certificate)
    }
}

/// What a device or module sends to have its key signed, in DER.
pub fn request(id: &ClientId, key: &KeyPair) -> Result<Vec<u8>, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    params.serialize_request(key).map(|request| request.der().to_vec()).map_err(AuthorityError::Make)
}

fn named(name: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + lifetime).into();
    params.use_authority_key_identifier_extension = true;
    params
}

fn text(value: &rcgen::DnValue) -> String {
    match value {
        rcgen::DnValue::Utf8String(text) => text.clone(),
        rcgen::DnValue::PrintableString(text) => text.as_str().to_owned(),
        rcgen::DnValue::Ia5String(text) => text.as_str().to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn a_request_is_signed_for_the_name_that_asks_and_no_other() {
        let (authority, key) = Authority::create("test", DAY).unwrap();
        let again = Authority::open(authority.certificate(), &key).unwrap();
        let own: ClientId = "dev1".parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let asked = request(&own, &key).unwrap();
        let chain = again.sign(&own, &asked, DAY).unwrap();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
        let other: ClientId = "dev2".parse().unwrap();
        assert!(matches!(again.sign(&other, &asked, DAY), Err(AuthorityError::OtherName { .. })));
        let mut damaged = asked.clone();
        let last = damaged.len() - 4;
        damaged[last] ^= 1;
        assert!(matches!(again.sign(&own, &damaged, DAY), Err(AuthorityError::Request(_))));
        assert!(matches!(again.sign(&own, b"nonsense", DAY), Err(AuthorityError::Request(_))));
        assert!(Authority::open("nonsense", "nonsense").is_err());
    }
}
