//! The certificate authority of one run. Its key is in this process's memory and nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use time::{Duration, OffsetDateTime};

use crate::{Error, lock};

/// How long its certificates count: longer than any run, shorter than what clients find suspicious.
const VALID: Duration = Duration::days(390);
/// Servers that are kept; with more they are all made anew.
const MOST: usize = 256;

/// An authority, and the servers it has certified.
///
/// # Security
/// Whoever has its key can pose as any server to this run's programs, and to nobody else: no store of the system knows
/// it. It signs for names only that the program was granted.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// One key for all that it certifies.
    key: KeyPair,
    provider: Arc<CryptoProvider>,
    servers: Mutex<Servers>,
}

/// By name and protocols. Who comes again to one goes on with the session that he had.
type Servers = HashMap<(String, Vec<Vec<u8>>), Arc<ServerConfig>>;

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// Where there is no randomness to be had.
    pub fn create() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut params = params(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "FailCore, for one run");
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            key: KeyPair::generate()?,
            provider: Arc::new(crate::provider()),
            servers: Mutex::default(),
        })
    }

    /// Its own certificate.
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    /// How a server of that name, or at that address, speaks, with these protocols (RFC 7301).
    pub(crate) fn server(&self, name: &str, protocols: Vec<Vec<u8>>) -> Result<Arc<ServerConfig>, Error> {
        let asked = (name.to_owned(), protocols);
        if let Some(known) = lock(&self.servers).get(&asked) {
            return Ok(Arc::clone(known));
        }
        let certified = SingleCertAndKey::from(self.certify(name)?);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certified));
        config.ignore_client_order = true;
        config.alpn_protocols.clone_from(&asked.1);
        let config = Arc::new(config);
        let mut servers = lock(&self.servers);
        if servers.len() >= MOST {
            servers.clear();
        }
        servers.insert(asked, Arc::clone(&config));
        Ok(config)
    }

    fn certify(&self, name: &str) -> Result<CertifiedKey, Error> {
        let mut params = params(vec![name.to_owned()])?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&self.key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(self.key.serialize_der())?;
        let key = self.provider.key_provider.load_private_key(key)?;
        Ok(CertifiedKey::new(vec![cert.der().clone(), self.der().clone()], key))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

fn params(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let now = OffsetDateTime::now_utc();
    // Clocks differ.
    params.not_before = now - Duration::days(1);
    params.not_after = now + VALID;
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}
