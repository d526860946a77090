//! Whom a registry's certificate is trusted from, and what a failed handshake was about.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};

use camino::Utf8Path;
use oci_client::client::{Certificate, CertificateEncoding};
use oci_client::errors::OciDistributionError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::ImageError;

/// Bytes of a file of certificates that are read: the bundle of a whole distribution has a quarter.
const BUNDLE_MAX: u64 = 1 << 20;

/// The certificates of a PEM file, which count beside those of the system.
pub(crate) fn roots(path: &Utf8Path) -> Result<Vec<Certificate>, ImageError> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BUNDLE_MAX + 1).read_to_end(&mut pem))
        .map_err(ImageError::file("read", path))?;
    if pem.len() as u64 > BUNDLE_MAX {
        return Err(ImageError::Limit {
            what: path.to_string(),
            limit: BUNDLE_MAX,
            unit: "bytes of certificates",
        });
    }
    let unusable = |why: String| ImageError::unsupported(path.as_str(), why);
    let certificates: Vec<Certificate> = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| {
            let der = certificate.map_err(|e| unusable(format!("it is not valid PEM: {e}")))?;
            Ok(Certificate {
                encoding: CertificateEncoding::Der,
                data: der.to_vec(),
            })
        })
        .collect::<Result<_, ImageError>>()?;
    if certificates.is_empty() {
        return Err(unusable(
            "it has no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned(),
        ));
    }
    Ok(certificates)
}

/// Why no secure connection came about, although somebody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// The certificate leads to nobody who is trusted.
    Untrusted,
    /// The certificate is expired, for another name, or broken.
    BadCertificate,
    /// Something answered that is not TLS.
    NotTls,
}

/// What a failure says about the handshake; `None` if it is about something else.
pub(crate) fn handshake(error: &OciDistributionError) -> Option<Handshake> {
    use rustls::{CertificateError, Error, InvalidMessage};
    Some(match cause(error)? {
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Handshake::Untrusted,
        Error::InvalidCertificate(_) => Handshake::BadCertificate,
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => Handshake::NotTls,
        _ => return None,
    })
}

/// The TLS library's own error, wherever it is in the chain.
fn cause(error: &OciDistributionError) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // What an I/O error carries is not its source: that is the source of what it carries.
        let carried = error.downcast_ref::<io::Error>().and_then(|e| e.get_ref());
        next = match carried {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}
