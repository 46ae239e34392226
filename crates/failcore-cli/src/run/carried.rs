//! What a run needs so that connections can be carried: whom the relay believes, its authority, the secrets it adds; and
//! for the program, a file with the certificates that it is to believe.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use failcore_model::AbsPath;
use failcore_policy::{PolicySet, Secret};
use failcore_relay::{Authority, Credentials, Proxies, Setup, Trust};
use failcore_trace::Redactor;

use super::io_problem;
use super::prepare::Private;
use crate::failure::{Failure, Problem};

/// By which programs are told in which file the certificates are that they believe: OpenSSL and all that goes by it
/// (Python, Ruby, curl), Python's requests and pip, curl itself, Node.js, git, the AWS tools, cargo, Deno, gRPC.
const CERTIFICATES: [&str; 10] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];
/// By which programs are told to go through a proxy: here the relay does.
const PROXIES: [&str; 3] = ["https_proxy", "http_proxy", "all_proxy"];

/// The means of a run's relay.
pub(super) struct Means {
    pub(super) setup: Arc<Setup>,
    /// Where the certificates lie, where connections are opened.
    certificates: Option<Private>,
    hidden: Vec<OsString>,
}

/// What the relay takes from the owner: whom he believes, his secrets, and the proxies he goes through.
pub(crate) struct Owners {
    trust: Trust,
    credentials: Credentials,
    proxies: Proxies,
}

impl Owners {
    /// Looks all of it up.
    pub(crate) fn gather(policy: &PolicySet) -> Result<Self, Failure> {
        let credentials =
            Credentials::gather(policy, |name| std::env::var_os(name)).map_err(Problem::Credential)?;
        Ok(Self { trust: Trust::system(), credentials, proxies: Proxies::from_env() })
    }

    /// What there is where nobody is outside.
    fn none() -> Self {
        Self {
            trust: Trust::system(),
            credentials: Credentials::default(),
            proxies: Proxies::builder().build(),
        }
    }
}

/// Why connections are carried.
pub(super) enum Carrying {
    /// As far as the policy says.
    Policy,
    /// All, to be recorded.
    Recorded,
    /// All, with nobody at the other end but where it really happens; the certificates lie where they did, if they did.
    Played(Option<PathBuf>, Option<Box<Owners>>),
}

impl Means {
    /// Gathers them; nothing where no connection is carried.
    pub(super) fn gather(policy: &PolicySet, carrying: Carrying) -> Result<Option<Self>, Failure> {
        let by_policy = matches!(carrying, Carrying::Policy);
        if !policy.carries() && by_policy {
            return Ok(None);
        }
        let (place, owners) = match carrying {
            Carrying::Played(place, owners) => (place, owners.map_or_else(Owners::none, |owners| *owners)),
            Carrying::Policy | Carrying::Recorded => (None, Owners::gather(policy)?),
        };
        let Owners { trust, credentials, proxies } = owners;
        let hidden = policy.credentials().filter_map(|credential| match &credential.from {
            Secret::Env(name) => Some(name.into()),
            Secret::File(_) => None,
        });
        let hidden = hidden.collect();
        if !policy.opens_any() && by_policy {
            let setup = Arc::new(Setup { trust, authority: None, credentials, proxies });
            return Ok(Some(Self { setup, certificates: None, hidden }));
        }
        let authority = Authority::create().map_err(|error| Problem::System {
            what: "make a certificate authority",
            source: std::io::Error::other(error),
        })?;
        let certificates = match place {
            Some(dir) => Private::at(&dir)?,
            None => Private::new("trust")?,
        };
        let file = certificates.path().join(FILE);
        std::fs::write(&file, trust.bundle(&authority)).map_err(io_problem("write", &file))?;
        let setup = Arc::new(Setup { trust, authority: Some(authority), credentials, proxies });
        Ok(Some(Self { setup, certificates: Some(certificates), hidden }))
    }

    /// The directory that the program reads its certificates from, and changes nothing in.
    pub(super) fn certificates(&self) -> Option<&Path> {
        self.certificates.as_ref().map(Private::path)
    }

    /// Whether a variable is kept from the program, whatever the policy passes.
    pub(super) fn hides(&self, name: &OsStr) -> bool {
        let proxy = name.to_str().is_some_and(|name| PROXIES.contains(&name.to_ascii_lowercase().as_str()));
        proxy
            || self.hidden.iter().any(|hidden| hidden == name)
            || self.environment().any(|(own, _)| own == name)
    }

    /// What the program finds in its environment.
    pub(super) fn environment(&self) -> impl Iterator<Item = (OsString, OsString)> {
        let file = self.certificates().map(|dir| OsString::from(dir.join(FILE)));
        file.into_iter().flat_map(|file| CERTIFICATES.map(|name| (name.into(), file.clone())))
    }

    /// Keeps the secrets out of the record.
    pub(super) fn redact(&self, redactor: Redactor) -> Redactor {
        self.setup
            .credentials
            .secrets()
            .fold(redactor, |redactor, secret| redactor.with_env("credential", secret))
    }
}

const FILE: &str = "certificates.pem";

/// Files that hold secrets of the policy.
pub(super) fn secret_files(policy: &PolicySet) -> Vec<AbsPath> {
    let file = |from: &Secret| match from {
        Secret::File(path) => Some(path.clone()),
        Secret::Env(_) => None,
    };
    policy.credentials().filter_map(|credential| file(&credential.from)).collect()
}
