//! One connection, from its first bytes to its end.

use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use failcore_gate::{Outside, Passage, Sender, Witness};
use failcore_model::heard::{Asked, Said};
use failcore_model::{Action, Claims, Endpoint, Event, Host, HostName};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
    copy_bidirectional_with_sizes,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::{StartHandshake, TlsStream};

use crate::far::{Far, FarError, HTTP1, HTTP2, secured};
use crate::heads::Heads;
use crate::requests::Opened;
use crate::route::Route;
use crate::server::Shared;
use crate::witnessed::{self, FIRST_WORDS};
use crate::{Error, lock};

/// How long a program may take to say something on a connection that it made, and between two requests.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// How long it may take to say who it wants to speak with, and to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Longest first message of TLS.
const LONGEST_HELLO: usize = 64 << 10;
/// The first byte of TLS (RFC 8446 section 5.1: a handshake).
const TLS: u8 = 22;
/// What is said to whom we do not speak with: a fatal `unrecognized_name` (RFC 6066 section 3).
const UNRECOGNIZED: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// Bytes that are taken in at once, where many may come: TLS itself asks for four thousand.
pub(crate) const PIECE: usize = 32 << 10;
/// Requests at once on one connection.
const MOST_STREAMS: u32 = 256;

/// Carries a connection to its end; `first` are the bytes that it begins with, none where the other side is to speak first.
pub(crate) async fn ride(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    passage: Passage,
    first: &[u8],
) -> Result<(), Error> {
    let Passage { sender, to, judged, far, outside, .. } = passage;
    stream.set_nodelay(true)?;
    let mut names = shared.gate.names(to.ip()).to_vec();
    if to.ip().to_canonical().is_loopback() {
        names.extend(HostName::parse("localhost").ok());
    }
    // What really happens is neither recorded nor played.
    let witness = shared.witness.clone().filter(|_| outside.is_none());
    if let (false, Some(outside)) = (judged, &outside) {
        let mut far = Route::straight(to, far)?.by(Some(Arc::clone(outside))).next().await?;
        copy_bidirectional_with_sizes(&mut stream, &mut far, PIECE, PIECE).await?;
        return Ok(());
    }
    let journey = Journey { shared, sender, to, names, witness: witness.clone(), outside };
    match (first, &witness) {
        ([TLS, ..], Some(witness)) if !judged => journey.tls_unjudged(stream, far, witness).await,
        ([TLS, ..], _) => journey.tls(stream).await,
        (first, Some(witness)) if !judged => {
            let route = Route::straight(to, far)?;
            if is_request(first) {
                return journey
                    .serve(stream, None, (!witness.plays()).then(|| Far::plain(route)), false, false)
                    .await;
            }
            converse(stream, || route.next(), witness, to.to_string(), &journey.sender.claims).await
        }
        ([byte, ..], _) if byte.is_ascii_uppercase() => journey.plain(stream).await,
        _ => {
            journey.refuse(&format!("what is neither TLS nor HTTP, to {to}")).await;
            stream.shutdown().await.map_err(Into::into)
        }
    }
}

/// Whether a connection that begins so speaks HTTP/1: a method, and a target.
fn is_request(first: &[u8]) -> bool {
    let method = first.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    method > 2 && matches!(first.get(method..), Some([b' ', b'/' | b'*' | b'h', ..]))
}

/// Has both sides speak as they like: with the server itself, or with what is recorded of it.
async fn converse<N, F, S>(
    near: N,
    far: impl FnOnce() -> F,
    witness: &Arc<dyn Witness>,
    with: String,
    claims: &Claims,
) -> Result<(), Error>
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    if witness.plays() {
        return witnessed::play(near, witness.as_ref(), with, claims).await;
    }
    witnessed::converse(near, far().await?, witness.as_ref(), with).await
}

struct Journey<'a> {
    shared: &'a Arc<Shared>,
    sender: Sender,
    to: std::net::SocketAddr,
    /// What leads to the address.
    names: Vec<HostName>,
    /// Who keeps what is said, or says it.
    witness: Option<Arc<dyn Witness>>,
    /// Who makes connections, where it really happens in a program that is run again.
    outside: Option<Arc<dyn Outside>>,
}

impl Journey<'_> {
    async fn tls(self, mut stream: TcpStream) -> Result<(), Error> {
        let (raw, accepted) = match timeout(HANDSHAKE, hello(&mut stream)).await? {
            Ok(said) => said,
            Err(error) => {
                self.refuse(&format!("tls to {}: {error}", self.to)).await;
                return Err(error);
            }
        };
        let name = match accepted.client_hello().server_name().map(Host::parse) {
            Some(Ok(Host::Name(name))) => name,
            _ => {
                self.refuse(&format!("tls to {} that names no host", self.to)).await;
                return turn_away(stream).await;
            }
        };
        if !self.is_with(&name).await {
            return turn_away(stream).await;
        }
        let route = self.route(&name, "https");
        if !self.shared.gate.policy().opens(&name, self.to.port(), &self.sender.claims.scope) {
            return match self.witness.clone() {
                None => self.pass(stream, &raw, &name, &route).await,
                Some(witness) => self.witnessed(stream, raw, accepted, name.as_str(), route, &witness).await,
            };
        }
        let Some(authority) = &self.shared.setup.authority else { return turn_away(stream).await };
        let offered = offered(&accepted);
        let asked = self.asked(name.as_str(), &offered);
        let known = match &self.witness {
            Some(witness) => witness.recalls(&asked, &self.sender.claims)?,
            None => None,
        };
        let (far, agreed) = match known {
            Some((said, _)) => (None, agreed_then(said)),
            None => {
                let (config, idle) = (&self.shared.client, &self.shared.idle);
                let spoken = spoken(&offered);
                let (far, agreed) = Far::secure(route, name.as_str(), config, spoken, idle).await;
                self.hears(asked, agreed.as_ref().map_err(FarError::errno))?;
                (Some(far), agreed.map_err(drop))
            }
        };
        // What the server speaks is spoken here too; where it is not there, whatever the program speaks.
        let protocols = match agreed {
            Ok(agreed) => agreed.into_iter().collect(),
            Err(()) if offered.iter().any(|one| one == HTTP1) => vec![HTTP1.to_vec()],
            Err(()) => offered.into_iter().filter(|one| one == HTTP2).collect(),
        };
        let config = authority.server(name.as_str(), protocols)?;
        let stream = take_up(accepted, stream, config).await?;
        let two = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        self.serve(stream, Some(name.to_string()), far, two, true).await
    }

    /// TLS that is granted as it is, with whomever it names.
    async fn tls_unjudged(
        self,
        mut stream: TcpStream,
        far: Option<OwnedFd>,
        witness: &Arc<dyn Witness>,
    ) -> Result<(), Error> {
        let route = Route::straight(self.to, far)?;
        let (raw, accepted) = timeout(HANDSHAKE, hello(&mut stream)).await??;
        let name = accepted.client_hello().server_name().map(str::to_owned);
        let name = name.unwrap_or_else(|| self.to.ip().to_canonical().to_string());
        self.witnessed(stream, raw, accepted, &name, route, witness).await
    }

    /// Opens TLS to see what is said, and judges nothing of it. Where the server has no certificate that is believed here,
    /// or the program does not believe ours, it passes unopened, and is not kept.
    async fn witnessed(
        self,
        stream: TcpStream,
        raw: Vec<u8>,
        accepted: Accepted,
        name: &str,
        route: Route,
        witness: &Arc<dyn Witness>,
    ) -> Result<(), Error> {
        let offered = offered(&accepted);
        let asked = self.asked(name, &offered);
        let Some(authority) = &self.shared.setup.authority else { return turn_away(stream).await };
        let mut config = self.shared.client.clone();
        config.alpn_protocols = spoken(&offered);
        let config = Arc::new(config);
        let (far, agreed) = match witness.recalls(&asked, &self.sender.claims)? {
            Some((said, _)) => (None, agreed_then(said)),
            None => {
                let unopened = lock(&self.shared.unopened).contains(&(self.to, name.to_owned()));
                let far = match unopened {
                    true => Err(io::Error::other("the program believes no certificate of ours")),
                    false => secured(&route, name, Arc::clone(&config)).await,
                };
                match far {
                    Ok((far, agreed)) => {
                        self.hears(asked, Ok(&agreed))?;
                        (Some(far), Ok(agreed))
                    }
                    Err(error) => {
                        let why = format!("TLS with {name} at {} passed as it is: {error}", self.to);
                        self.notice(&why).await;
                        witness.hears(asked, Said::Unkept { why }, None)?;
                        return self.pass(stream, &raw, name, &route).await;
                    }
                }
            }
        };
        let Ok(agreed) = agreed else { return turn_away(stream).await };
        let server = authority.server(name, agreed.iter().cloned().collect())?;
        let mut stream = match take_up(accepted, stream, server).await {
            Ok(stream) => BufReader::with_capacity(PIECE, stream),
            Err(error) => {
                lock(&self.shared.unopened).insert((self.to, name.to_owned()));
                return Err(error);
            }
        };
        let is_http = match agreed.as_deref() {
            Some(_) => true,
            None => {
                matches!(timeout(FIRST_WORDS, stream.fill_buf()).await, Ok(Ok(first)) if is_request(first))
            }
        };
        if !is_http {
            let with = format!("{name}:{}", self.to.port());
            let far = || async { far.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) };
            return converse(stream, far, witness, with, &self.sender.claims).await;
        }
        let far = match far {
            Some(far) => Some(Far::over(route, name, config, far, agreed.as_deref()).await?),
            None => None,
        };
        self.serve(stream, Some(name.to_owned()), far, agreed.as_deref() == Some(HTTP2), false).await
    }

    /// The way to a host that is judged.
    fn route(&self, name: &HostName, scheme: &str) -> Route {
        let route = Route::to(self.to, name, scheme, &self.shared.setup.proxies);
        let mut route = route.by(self.outside.clone());
        route.spelt = self.witness.is_some();
        route
    }

    /// Passes TLS on as it is; `raw` was read of it.
    async fn pass(
        &self,
        mut stream: TcpStream,
        raw: &[u8],
        name: impl Display,
        route: &Route,
    ) -> Result<(), Error> {
        let mut far = match route.through().await {
            Ok(far) => far,
            Err(error) => {
                // The program sees that the connection ends; why, the record says.
                self.notice(&format!("the carried connection to {name} at {} failed: {error}", self.to))
                    .await;
                return Err(error.into());
            }
        };
        far.write_all(raw).await?;
        copy_bidirectional_with_sizes(&mut stream, &mut far, PIECE, PIECE).await?;
        Ok(())
    }

    async fn notice(&self, text: &str) {
        let text = text.to_owned();
        let _ = self.shared.ask(move |gate| gate.record(&Event::Notice { text })).await;
    }

    fn asked(&self, host: &str, offered: &[Vec<u8>]) -> Asked {
        let protocols = offered.iter().map(|one| String::from_utf8_lossy(one).into_owned()).collect();
        Asked::Tls { to: self.to, host: host.to_owned(), protocols }
    }

    fn hears(&self, asked: Asked, agreed: Result<&Option<Vec<u8>>, i32>) -> Result<(), Error> {
        let Some(witness) = &self.witness else { return Ok(()) };
        let text = |agreed: &Vec<u8>| String::from_utf8_lossy(agreed).into_owned();
        let said = match agreed {
            Ok(agreed) => Said::Connected { protocol: agreed.as_ref().map(text) },
            Err(errno) => Said::Failed { errno },
        };
        Ok(witness.hears(asked, said, None)?)
    }

    async fn plain(self, stream: TcpStream) -> Result<(), Error> {
        // Where no name leads, no request is for the right host.
        let Some(name) = self.names.first() else { return turn_away(stream).await };
        let route = self.route(name, "http");
        let plays = self.witness.as_ref().is_some_and(|witness| witness.plays());
        self.serve(stream, None, (!plays).then(|| Far::plain(route)), false, true).await
    }

    /// Whether the connection may be with the host that it asks for: one that leads to the address, and that is granted by
    /// itself.
    async fn is_with(&self, name: &HostName) -> bool {
        let action = Action::Connect(Endpoint::Inet { transport: self.sender.transport, addr: self.to });
        let (actor, claims) = (self.sender.actor.clone(), self.sender.claims.clone());
        if self.shared.gate.check_name(actor, action, claims, name).is_err() {
            return false;
        }
        if !self.names.is_empty() && !self.names.contains(name) {
            self.refuse(&format!("tls with {name} to {}, where that host is not", self.to)).await;
            return false;
        }
        true
    }

    /// Serves requests, which are `judged` or not; without a `far` side, from a record.
    async fn serve<S>(
        self,
        stream: S,
        name: Option<String>,
        far: Option<Far>,
        two: bool,
        judged: bool,
    ) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { shared, sender, to, names, witness, .. } = self;
        let through = Arc::new(AtomicBool::new(false));
        let opened = Arc::new(Opened {
            shared: Arc::clone(shared),
            actor: sender.actor,
            claims: sender.claims,
            at: to,
            name,
            names,
            judged,
            far,
            witness,
            through: Arc::clone(&through),
        });
        let watching = Arc::clone(&opened);
        let service = service_fn(move |request| Arc::clone(&opened).answer(request));
        if two {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).auto_date_header(false).adaptive_window(true);
            builder.max_concurrent_streams(MOST_STREAMS);
            return Ok(builder.serve_connection(TokioIo::new(stream), service).await?);
        }
        let stream = Heads::of(stream, through, move |wrong| {
            tokio::spawn(async move {
                watching.refuse_unread(&format!("http to {}: {wrong}", watching.at)).await
            });
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(SILENCE).auto_date_header(false);
        builder.preserve_header_case(true);
        Ok(builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await?)
    }

    async fn refuse(&self, text: &str) {
        self.shared.refuse_unread(&self.sender.actor, &self.sender.claims, text).await;
    }
}

/// The first message of TLS, and the bytes that it came in.
async fn hello(stream: &mut TcpStream) -> Result<(Vec<u8>, Accepted), Error> {
    let (mut raw, mut acceptor) = (Vec::new(), Acceptor::default());
    let mut bytes = [0; 4096];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 || raw.len() > LONGEST_HELLO {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        raw.extend_from_slice(&bytes[..read]);
        let mut rest = &bytes[..read];
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest)?;
            match acceptor.accept() {
                Ok(Some(accepted)) if rest.is_empty() => return Ok((raw, accepted)),
                // More than one message: nobody sends it before an answer.
                Ok(Some(_)) => return Err("more than the first message".into()),
                Ok(None) => {}
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
}

/// The protocols that a program speaks.
fn offered(accepted: &Accepted) -> Vec<Vec<u8>> {
    accepted.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect()
}

/// Those of them that are spoken here.
fn spoken(offered: &[Vec<u8>]) -> Vec<Vec<u8>> {
    [HTTP2, HTTP1].map(<[u8]>::to_vec).into_iter().filter(|one| offered.contains(one)).collect()
}

/// What both spoke when it was recorded.
fn agreed_then(said: Said) -> Result<Option<Vec<u8>>, ()> {
    match said {
        Said::Connected { protocol } => Ok(protocol.map(String::into_bytes)),
        _ => Err(()),
    }
}

async fn take_up(
    accepted: Accepted,
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<BufReader<TcpStream>>, Error> {
    let start = StartHandshake::from_parts(accepted, BufReader::with_capacity(PIECE, stream));
    Ok(timeout(HANDSHAKE, start.into_stream(config)).await??)
}

async fn turn_away(mut stream: TcpStream) -> Result<(), Error> {
    stream.write_all(&UNRECOGNIZED).await?;
    stream.shutdown().await?;
    Ok(())
}
