//! Asking name servers of the owner's choice, by DNS, TLS or HTTPS, in place of the machine's own resolver.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use failcore_model::HostName;
use failcore_policy::{AskedBy, NameServer};
use hickory_proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts, ServerOrderingStrategy};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::answers::Chain;
use crate::resolver::{Found, LookupError, May, Source};

/// How long all servers together may take for one question; a C library waits five seconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a question is asked that nobody answered.
const ATTEMPTS: usize = 2;

/// How long it may take to find out what keeps us from one server.
const LOOK: Duration = Duration::from_secs(1);

/// Name servers, and the connections to them.
///
/// # Security
/// A server over TLS or HTTPS is who its certificate says, by the machine's own list of authorities. Whoever runs it sees
/// every name that is asked for, and says what it leads to: its answers are filtered as any.
pub struct Upstream {
    named: Vec<NameServer>,
    config: ClientConfig,
    servers: NameServerPool<TokioRuntimeProvider>,
    runtime: Option<Runtime>,
}

/// Why name servers cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// This machine names nobody whose certificates are to be believed.
    #[error(
        "no certificate authorities are found on this machine, by which a name server could prove who it is"
    )]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// No thread or descriptor is to be had.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl Upstream {
    /// Prepares to ask these servers, the first one first; nobody is asked yet.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub fn new(servers: &[NameServer]) -> Result<Self, UpstreamError> {
        let proves = servers.iter().any(|server| server.by != AskedBy::Plain);
        let mut tls = TlsConfig::new().map_err(|error| UpstreamError::Tls(error.to_string()))?;
        if proves {
            tls.config = authorities()?;
        }
        let mut options = ResolverOpts::default();
        options.timeout = PATIENCE;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.num_concurrent_reqs = 1;
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("failcore-dns").enable_all().build()?;
        let (named, config) = (servers.to_vec(), tls.config.clone());
        let pool = {
            let _entered = runtime.enter();
            NameServerPool::from_config(
                servers.iter().map(configured),
                Arc::new(PoolContext::new(options, tls)),
                TokioRuntimeProvider::default(),
            )
        };
        Ok(Self { named, config, servers: pool, runtime: Some(runtime) })
    }

    /// Goes on along a chain of aliases to its end; no name is asked for before `may` said that it may be.
    fn follow(
        &self,
        mut asked: JoinHandle<Result<DnsResponse, NetError>>,
        mut chain: Chain,
        may: &mut May<'_>,
    ) -> Result<Chain, LookupError> {
        loop {
            let response = self.wait(asked)?;
            let known = chain.aliases().len();
            let led_on = chain
                .extend(&response.answers)
                .map_err(|error| LookupError::again(format!("its answer is none: {error}")))?;
            if !chain.aliases()[known..].iter().all(&mut *may) {
                return Err(LookupError::refused());
            }
            if !chain.records().is_empty() {
                return Ok(chain);
            }
            if response.response_code == ResponseCode::NXDomain {
                return Err(LookupError::no_name());
            }
            if !led_on {
                return Err(LookupError::no_data());
            }
            asked = self.start(chain.end().clone(), chain.kind());
        }
    }

    fn start(&self, name: Name, kind: RecordType) -> JoinHandle<Result<DnsResponse, NetError>> {
        let servers = self.servers.clone();
        let mut options = DnsRequestOptions::default();
        options.use_edns = true;
        self.runtime().spawn(async move {
            let mut first = None;
            for _ in 0..ATTEMPTS {
                let asked = servers.lookup(Query::query(name.clone(), kind), options).first_answer().await;
                match asked {
                    Err(error @ (NetError::Timeout | NetError::Io(_) | NetError::NoConnections)) => {
                        // The first one says why; the next, perhaps, that there is nobody left.
                        first.get_or_insert(error);
                    }
                    asked => return asked,
                }
            }
            Err(first.unwrap_or(NetError::NoConnections))
        })
    }

    fn wait(&self, asked: JoinHandle<Result<DnsResponse, NetError>>) -> Result<DnsResponse, LookupError> {
        let answered = self.runtime().block_on(asked);
        answered.map_err(|_| LookupError::again("the question was given up"))?.map_err(|error| match error {
            NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) => match response_code {
                ResponseCode::NXDomain => LookupError::no_name(),
                _ => LookupError::no_data(),
            },
            // Also what a validating server says of an answer that is not to be believed.
            NetError::Dns(DnsError::ResponseCode(code)) => {
                LookupError::again(format!("the name server says {code}"))
            }
            // The library keeps to itself which of both it was: `Upstream::obstacles` finds out.
            NetError::NoConnections => {
                LookupError::unreachable("none could be connected to, or none proved who it is")
            }
            error => LookupError::unreachable(error.to_string()),
        })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until this is dropped")
    }
}

impl Source for Upstream {
    fn addresses(&self, name: &HostName, may: &mut May<'_>) -> Result<Found, LookupError> {
        // RFC 6761 section 6.3: no server knows it better.
        if name.as_str() == "localhost" {
            let addrs = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
            return Ok(Found { addrs, ..Found::default() });
        }
        let begin = |kind| {
            let chain = Chain::of(fqdn(name)?, kind);
            Ok::<_, LookupError>((self.start(chain.end().clone(), kind), chain))
        };
        let (six, four) = (begin(RecordType::AAAA)?, begin(RecordType::A)?);
        let six = self.follow(six.0, six.1, may);
        let four = self.follow(four.0, four.1, may);
        let mut found = Found::default();
        let mut failures = Vec::new();
        for chain in [six, four] {
            match chain {
                Ok(chain) => {
                    found.ttl = Some(found.ttl.map_or(chain.ttl(), |ttl| ttl.min(chain.ttl())));
                    found.addrs.extend(chain.records().iter().filter_map(|record| match &record.data {
                        RData::A(addr) => Some(IpAddr::from(addr.0)),
                        RData::AAAA(addr) => Some(IpAddr::from(addr.0)),
                        _ => None,
                    }));
                    // Both families have the same ones.
                    if found.aliases.is_empty() {
                        found.aliases = chain.aliases().to_vec();
                    }
                }
                Err(error) => failures.push(error),
            }
        }
        if found.addrs.is_empty() {
            // The worst of both: what could not be found out may well be there.
            failures.sort_by_key(|error| (error.is_final(), error.code));
            return Err(failures.into_iter().next().unwrap_or_else(LookupError::no_data));
        }
        Ok(found)
    }

    fn records(
        &self,
        name: &HostName,
        kind: RecordType,
        may: &mut May<'_>,
    ) -> Result<Option<Chain>, LookupError> {
        let chain = Chain::of(fqdn(name)?, kind);
        self.follow(self.start(chain.end().clone(), kind), chain, may).map(Some)
    }

    fn obstacles(&self) -> Vec<String> {
        let secure = self.named.iter().filter(|server| server.by != AskedBy::Plain);
        secure.map(|server| format!("{server} {}", obstacle(server, &self.config))).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Nobody waits for what is under way any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

/// What keeps us from a server over TLS: asked for once, when no question came through.
fn obstacle(server: &NameServer, config: &ClientConfig) -> String {
    let cannot = |error: std::io::Error| format!("cannot be connected to: {error}");
    let mut stream = match TcpStream::connect_timeout(&server.addr, LOOK) {
        Ok(stream) => stream,
        Err(error) => return cannot(error),
    };
    let timeouts = stream.set_read_timeout(Some(LOOK)).and_then(|()| stream.set_write_timeout(Some(LOOK)));
    let name = ServerName::try_from(proves_to_be(server));
    let (Ok(()), Ok(name)) = (timeouts, name) else { return "cannot be asked".into() };
    let connection = ClientConnection::new(Arc::new(config.clone()), name);
    let shaken = connection.map_err(std::io::Error::other).and_then(|mut connection| {
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(())
    });
    match shaken {
        Ok(()) => "can be connected to, and proves who it is, but gives no answer".into(),
        Err(error) if error.kind() == ErrorKind::InvalidData => format!("does not prove who it is: {error}"),
        Err(error) => format!("breaks off before it proves who it is: {error}"),
    }
}

/// Whom a server's certificate must be for; nobody where it is asked without one.
fn proves_to_be(server: &NameServer) -> String {
    match &server.by {
        AskedBy::Tls { name: Some(name) } | AskedBy::Https { name: Some(name), .. } => name.to_string(),
        _ => server.addr.ip().to_string(),
    }
}

fn fqdn(name: &HostName) -> Result<Name, LookupError> {
    Name::from_ascii(format!("{name}.")).map_err(|error| LookupError::again(error.to_string()))
}

fn configured(server: &NameServer) -> NameServerConfig {
    let (ip, port) = (server.addr.ip(), server.addr.port());
    let name = || proves_to_be(server).into();
    let mut connections = match &server.by {
        AskedBy::Plain => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
        AskedBy::Tls { .. } => vec![ConnectionConfig::tls(name())],
        AskedBy::Https { path, .. } => vec![ConnectionConfig::https(name(), Some(path.as_str().into()))],
    };
    for connection in &mut connections {
        connection.port = port;
    }
    NameServerConfig::new(ip, true, connections)
}

/// TLS that believes whom this machine believes (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others).
fn authorities() -> Result<ClientConfig, UpstreamError> {
    let mut roots = RootCertStore::empty();
    // Some of a machine's certificates may well be of no use.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(UpstreamError::NoAuthorities);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| UpstreamError::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
