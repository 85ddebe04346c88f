//! Certificates for one test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair as TlsKey};
use std::path::{Path, PathBuf};

pub use rcgen::ExtendedKeyUsagePurpose as Purpose;

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A certificate authority of a test.
pub struct Authority(CertifiedIssuer<'static, TlsKey>);

impl Authority {
    /// Makes one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, TlsKey::generate().unwrap()).unwrap())
    }

    /// Writes its certificate.
    pub fn save(&self, dir: &Path, name: &str) -> PathBuf {
        file(dir, name, &self.0.pem())
    }

    /// Writes the files of a certificate and its key.
    pub fn issue(
        &self,
        dir: &Path,
        name: &str,
        names: &[&str],
        purposes: &[Purpose],
    ) -> (PathBuf, PathBuf) {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())
                .unwrap();
        params.extended_key_usages = purposes.to_vec();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = TlsKey::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (
            file(dir, &format!("{name}.pem"), &certificate.pem()),
            file(dir, &format!("{name}.key"), &key.serialize_pem()),
        )
    }
}
