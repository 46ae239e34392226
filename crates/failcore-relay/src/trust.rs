//! Whom the relay believes upstream, and whom the program is to believe.

use std::sync::Arc;

use pem::{EncodeConfig, LineEnding, Pem, encode_many_config};
use rustls::{ClientConfig, RootCertStore};

use crate::Error;
use crate::authority::Authority;

/// The certificates that whoever starts the run trusts: the system's, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
pub struct Trust {
    roots: Arc<RootCertStore>,
    pems: Vec<Pem>,
}

impl Trust {
    /// Looks them up, in this process's own environment. There may be none: then no server is believed.
    pub fn system() -> Self {
        let found = rustls_native_certs::load_native_certs().certs;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.iter().cloned());
        let pems = found.iter().map(|cert| Pem::new("CERTIFICATE", cert.to_vec())).collect();
        Self { roots: Arc::new(roots), pems }
    }

    /// The same and the run's own authority, as programs read it from a file.
    pub fn bundle(&self, authority: &Authority) -> String {
        let own = Pem::new("CERTIFICATE", authority.der().to_vec());
        let all: Vec<Pem> = std::iter::once(own).chain(self.pems.iter().cloned()).collect();
        encode_many_config(&all, EncodeConfig::new().set_line_ending(LineEnding::LF))
    }

    /// How servers are spoken to: their certificates are verified, and none of ours is shown.
    pub(crate) fn client(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(crate::provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth())
    }
}
