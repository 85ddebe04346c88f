//! TLS to the embedded server of this node.
//!
//! Its certificate must be signed by the CA of the settings. Its name is not compared: the
//! connection goes to a child of this process on this machine, and the certificate names the host
//! as other machines know it, hardly 127.0.0.1.

use crate::settings::NatsSettings;
use async_nats::rustls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::sync::Arc;

/// Returns the configuration of the connection: the CA, and the certificate of the settings if they
/// have one.
///
/// # Errors
/// A file that cannot be used, for people.
pub(super) fn client_config(nats: &NatsSettings) -> Result<ClientConfig, String> {
    let unusable =
        |key: &str, file: &str, error: &dyn std::fmt::Display| format!("{key} {file}: {error}");
    let ca = |error: &dyn std::fmt::Display| unusable("nats.ca_file", &nats.ca_file, error);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&nats.ca_file).map_err(|error| ca(&error))? {
        roots.add(certificate).map_err(|error| ca(&error))?;
    }
    let signed = WebPkiServerVerifier::builder(Arc::new(roots));
    let verifier = AnyName(signed.build().map_err(|error| ca(&error))?);
    let builder =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    if nats.cert_file.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let own = |error: &dyn std::fmt::Display| unusable("nats.cert_file", &nats.cert_file, error);
    let certificate = certificates(&nats.cert_file).map_err(|error| own(&error))?;
    let key = PrivateKeyDer::from_pem_file(&nats.key_file)
        .map_err(|error| unusable("nats.key_file", &nats.key_file, &error))?;
    builder.with_client_auth_cert(certificate, key).map_err(|error| own(&error))
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_file_iter(file)?.collect()
}

/// Verifies all but the name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is compared last, after the signatures and the times.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
