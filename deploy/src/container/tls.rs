//! Certificates of Engines: files that cannot be used are named before anybody connects, and a refusal is put into the
//! words of whoever wrote the compute's document.

use std::{
    error::Error as StdError,
    io::{self, Read},
    path::Path,
};

use moorline_core::ErrorClass;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{EngineError, EngineHost, TlsFiles};

/// No file of certificates is longer.
const LONGEST_FILE: u64 = 1 << 20;

/// Refuses files that are not there or hold something else.
pub(super) async fn check(files: &TlsFiles) -> Result<(), EngineError> {
    let files = files.clone();
    let checked = tokio::task::spawn_blocking(move || {
        certificates("ca", &files.ca)?;
        certificates("cert", &files.cert)?;
        PrivateKeyDer::from_pem_slice(&read("key", &files.key)?)
            .map(|_| ())
            .map_err(|_| lacks("key", &files.key, "private key"))
    });
    checked.await.map_err(|error| {
        EngineError::caused(ErrorClass::Internal, "the reading of certificates was broken off", error)
    })?
}

fn certificates(key: &str, path: &Path) -> Result<(), EngineError> {
    let text = read(key, path)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(()),
        _ => Err(lacks(key, path, "certificate")),
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, EngineError> {
    let mut text = Vec::new();
    let read = fs_err::File::open(path).and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut text));
    read.map(|_| text).map_err(|error| {
        EngineError::caused(ErrorClass::InvalidInput, format!("`tls.{key}` cannot be read"), error)
    })
}

fn lacks(key: &str, path: &Path, what: &str) -> EngineError {
    EngineError::new(
        ErrorClass::InvalidInput,
        format!("`tls.{key}`, the file `{}`, holds no {what} in PEM", path.display()),
    )
}

/// What came of the certificates, where it was they that a connection failed for.
pub(super) fn refusal(host: &EngineHost, error: &(dyn StdError + 'static)) -> Option<EngineError> {
    let cause = cause(error)?;
    let message = match cause {
        rustls::Error::InvalidCertificate(_) => {
            format!("the Engine at {host} shows a certificate that `tls.ca` does not vouch for")
        }
        rustls::Error::AlertReceived(_) => {
            format!("the Engine at {host} does not take the certificate `tls.cert`")
        }
        _ => format!("no TLS connection comes about with the Engine at {host}"),
    };
    Some(EngineError::new(ErrorClass::InvalidInput, format!("{message}: {cause}")))
}

/// What TLS itself says, wherever it is among the causes.
fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An error of reading or writing is not its content's cause, but the content itself.
        let content = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match content {
            Some(content) => Some(content),
            None => error.source(),
        };
    }
    None
}
