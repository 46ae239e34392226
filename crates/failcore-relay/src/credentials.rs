//! Secrets that the relay adds to requests, so that no program holds them.

use std::ffi::OsString;
use std::path::PathBuf;

use failcore_model::HostName;
use failcore_policy::{Credential, PolicySet, Secret};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Why a credential is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The environment variable is not set.
    #[error("the environment variable `{variable}`, which holds the credential for {host}, is not set")]
    NotSet {
        /// Its name.
        variable: String,
        /// Whom it is for.
        host: HostName,
    },
    /// The file cannot be read.
    #[error("`{}`, which holds the credential for {host}, cannot be read: {source}", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// Whom it is for.
        host: HostName,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is empty, or has bytes in it that no header may have.
    #[error("what stands for the credential for {host} cannot be sent in the header `{header}`")]
    NoHeader {
        /// Whom it is for.
        host: HostName,
        /// The header.
        header: String,
    },
}

/// The credentials of a policy with their secrets.
#[derive(Default)]
pub struct Credentials(Vec<Held>);

struct Held {
    host: HostName,
    port: u16,
    header: HeaderName,
    /// Marked, so that it is never shown.
    value: HeaderValue,
    secret: Vec<u8>,
}

impl Credentials {
    /// Reads them where the policy says; `variable` is the environment of whoever starts the run.
    ///
    /// # Errors
    /// The first that is not there.
    pub fn gather(
        policy: &PolicySet,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, CredentialError> {
        policy.credentials().map(|of| Held::read(of, &variable)).collect::<Result<_, _>>().map(Self)
    }

    /// The secrets, so that they are kept out of the record.
    pub fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|held| held.secret.as_slice())
    }

    /// Puts what is for a host in place of what the program may have sent.
    pub(crate) fn put(&self, host: &HostName, port: u16, headers: &mut HeaderMap) {
        for held in self.of(host, port) {
            headers.insert(held.header.clone(), held.value.clone());
        }
    }

    /// Whether there is any for a host.
    pub(crate) fn are_for(&self, host: &HostName, port: u16) -> bool {
        self.of(host, port).next().is_some()
    }

    fn of(&self, host: &HostName, port: u16) -> impl Iterator<Item = &Held> {
        self.0.iter().filter(move |held| held.host == *host && held.port == port)
    }
}

impl Held {
    fn read(
        credential: &Credential,
        variable: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, CredentialError> {
        let Credential { host, port, header, prefix, from } = credential;
        let secret = match from {
            Secret::Env(name) => variable(name)
                .map(OsString::into_encoded_bytes)
                .ok_or_else(|| CredentialError::NotSet { variable: name.clone(), host: host.clone() })?,
            Secret::File(path) => {
                let path = path.as_path();
                let mut bytes = std::fs::read(path).map_err(|source| CredentialError::Unreadable {
                    path: path.to_owned(),
                    host: host.clone(),
                    source,
                })?;
                // Editors end files with it.
                bytes.truncate(bytes.trim_ascii_end().len());
                bytes
            }
        };
        let no_header = || CredentialError::NoHeader { host: host.clone(), header: header.clone() };
        if secret.is_empty() {
            return Err(no_header());
        }
        let name = HeaderName::from_bytes(header.as_bytes()).map_err(|_| no_header())?;
        let bytes = [prefix.as_bytes(), &secret].concat();
        let mut value = HeaderValue::from_bytes(&bytes).map_err(|_| no_header())?;
        value.set_sensitive(true);
        Ok(Self { host: host.clone(), port: *port, header: name, value, secret })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|held| (&held.host, &held.header))).finish()
    }
}
