//! The far side of a connection, to which requests are sent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::body::Passed;
use crate::idle::Idle;
use crate::ride::PIECE;
use crate::route::{PATIENCE, Route, Stream};
use crate::spelt::Spelt;

/// Protocols that are spoken, as TLS names them (RFC 7301).
pub(crate) const HTTP1: &[u8] = b"http/1.1";
pub(crate) const HTTP2: &[u8] = b"h2";

/// Why a server does not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FarError {
    /// It cannot be reached, or not be trusted.
    #[error("{at} cannot be reached: {source}")]
    Reach {
        /// Where it is.
        at: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// It broke off.
    #[error("{at} broke off: {source}")]
    Broke {
        /// Where it is.
        at: SocketAddr,
        /// What happened.
        source: hyper::Error,
    },
}

impl FarError {
    /// The errno that says most.
    pub(crate) fn errno(&self) -> i32 {
        const EPROTO: i32 = 71;
        const ECONNRESET: i32 = 104;
        match self {
            Self::Reach { source, .. } => source.raw_os_error().unwrap_or(match source.kind() {
                io::ErrorKind::TimedOut => crate::body::ETIMEDOUT,
                _ => EPROTO,
            }),
            Self::Broke { .. } => ECONNRESET,
        }
    }
}

/// A server that requests are sent to, one connection at a time.
pub(crate) struct Far {
    route: Route,
    tls: Option<(String, Arc<ClientConfig>)>,
    link: Mutex<Option<Link>>,
    /// Where its connection goes once it is not used any more, and what that speaks.
    idle: Option<(Arc<Idle>, Option<Vec<u8>>)>,
}

/// A connection over which requests go.
pub(crate) enum Link {
    One(http1::SendRequest<Passed>, Option<Spelt>),
    Two(http2::SendRequest<Passed>),
}

impl Far {
    /// A server without TLS, to be reached by the first request.
    pub(crate) fn plain(route: Route) -> Self {
        Self { route, tls: None, link: Mutex::default(), idle: None }
    }

    /// A server with TLS: reached at once, so that its protocol is known. Later connections speak that one alone.
    ///
    /// # Errors
    /// Beside the error comes the server all the same, which is tried anew by each request.
    pub(crate) async fn secure(
        route: Route,
        name: &str,
        config: &ClientConfig,
        protocols: Vec<Vec<u8>>,
        idle: &Arc<Idle>,
    ) -> (Self, Result<Option<Vec<u8>>, FarError>) {
        let mut config = config.clone();
        let kept = idle.take(route.at, name, &protocols);
        config.alpn_protocols = protocols;
        let mut far = Self {
            route,
            tls: Some((name.to_owned(), Arc::new(config.clone()))),
            link: Mutex::default(),
            idle: None,
        };
        let made = match kept {
            Some(kept) => Ok(kept),
            None => far.open().await,
        };
        let (link, agreed) = match made {
            Ok((link, agreed)) => (Some(link), Ok(agreed)),
            Err(error) => (None, Err(error)),
        };
        if let Ok(agreed) = &agreed {
            config.alpn_protocols = agreed.iter().cloned().collect();
            far.tls = Some((name.to_owned(), Arc::new(config)));
            far.idle = Some((Arc::clone(idle), agreed.clone()));
        }
        far.link = Mutex::new(link);
        (far, agreed)
    }

    /// A server with TLS, to be reached by the first request: by HTTP/1.1.
    pub(crate) fn later(route: Route, name: &str, config: &ClientConfig) -> Self {
        let mut config = config.clone();
        config.alpn_protocols = vec![HTTP1.to_vec()];
        let mut far = Self::plain(route);
        far.tls = Some((name.to_owned(), Arc::new(config)));
        far
    }

    /// The same over a stream that stands, and speaks `agreed`.
    pub(crate) async fn over<S>(
        route: Route,
        name: &str,
        config: Arc<ClientConfig>,
        stream: S,
        agreed: Option<&[u8]>,
    ) -> Result<Self, FarError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut far = Self::plain(route);
        let link = far.speak(stream, agreed == Some(HTTP2)).await?;
        far.tls = Some((name.to_owned(), config));
        far.link = Mutex::new(Some(link));
        Ok(far)
    }

    async fn open(&self) -> Result<(Link, Option<Vec<u8>>), FarError> {
        let reach = |source| FarError::Reach { at: self.route.at, source };
        let Some((name, config)) = &self.tls else {
            let stream = self.route.next().await.map_err(reach)?;
            return Ok((self.speak(stream, false).await?, None));
        };
        let (stream, agreed) = secured(&self.route, name, Arc::clone(config)).await.map_err(reach)?;
        let link = self.speak(stream, agreed.as_deref() == Some(HTTP2)).await?;
        Ok((link, agreed))
    }

    async fn speak<S>(&self, stream: S, two: bool) -> Result<Link, FarError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broke = |source| FarError::Broke { at: self.route.at, source };
        // The connection lives as long as somebody may send on it, or reads what came.
        if two {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let (link, connection) = builder
                .timer(TokioTimer::new())
                .adaptive_window(true)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(broke)?;
            tokio::spawn(connection);
            return Ok(Link::Two(link));
        }
        let spelt = self.route.spelt.then(Spelt::default);
        let link = match &spelt {
            Some(spelt) => speak_one(spelt.hear(stream)).await,
            None => speak_one(stream).await,
        };
        Ok(Link::One(link.map_err(broke)?, spelt))
    }

    /// Sends a request, and waits for the head of the answer.
    pub(crate) async fn send(&self, request: Request<Passed>) -> Result<Response<Incoming>, FarError> {
        let mut request = request;
        if self.tls.is_none() {
            self.route.address(&mut request);
        }
        // Once more where the server had closed a connection that it kept before it read the request.
        for again in [true, false] {
            let mut held = self.link.lock().await;
            let link = match held.take() {
                Some(link) if link.is_open() => link,
                _ => self.open().await?.0,
            };
            let sent = match held.insert(link) {
                Link::One(link, spelt) => {
                    link.ready().await.map_err(|source| FarError::Broke { at: self.route.at, source })?;
                    let spelt = spelt.as_ref().inspect(|spelt| spelt.begin()).cloned();
                    let sent = link.try_send_request(request).await;
                    sent.map(|mut response| {
                        if let Some(spelt) = spelt {
                            response.extensions_mut().insert(spelt.names());
                        }
                        response
                    })
                }
                Link::Two(link) => {
                    let mut link = link.clone();
                    drop(held);
                    link.try_send_request(request).await
                }
            };
            let mut failed = match sent {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            match failed.take_message() {
                Some(unsent) if again => request = unsent,
                _ => return Err(FarError::Broke { at: self.route.at, source: failed.into_error() }),
            }
        }
        unreachable!("the second time it returns")
    }
}

/// Begins to speak HTTP/1.
pub(crate) async fn speak_one<S>(stream: S) -> Result<http1::SendRequest<Passed>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    let (link, connection) = builder.preserve_header_case(true).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    Ok(link)
}

/// A stream of TLS to a server, and what both speak on it.
///
/// # Errors
/// Where it cannot be reached, or not be trusted.
pub(crate) async fn secured(
    route: &Route,
    name: &str,
    config: Arc<ClientConfig>,
) -> io::Result<(TlsStream<BufReader<Box<dyn Stream>>>, Option<Vec<u8>>)> {
    let stream = BufReader::with_capacity(PIECE, route.through().await?);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let connected = timeout(PATIENCE, TlsConnector::from(config).connect(name, stream)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    Ok((stream, agreed))
}

impl Drop for Far {
    fn drop(&mut self) {
        if let (Some((idle, agreed)), Some((name, _)), Some(link)) =
            (self.idle.take(), self.tls.take(), self.link.get_mut().take())
        {
            idle.put(self.route.at, name, agreed, link);
        }
    }
}

impl Link {
    /// Whether it can take a request at once.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::One(link, _) => link.is_ready(),
            Self::Two(link) => link.is_ready(),
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::One(link, _) => !link.is_closed(),
            Self::Two(link) => !link.is_closed(),
        }
    }
}
