//! One connection, from its first bytes to its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use failcore_gate::Sender;
use failcore_model::{Action, Endpoint, Event, Host, HostName};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::{Accepted, Acceptor};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, copy_bidirectional_with_sizes,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::StartHandshake;

use crate::Error;
use crate::far::{Far, HTTP1, HTTP2};
use crate::heads::Heads;
use crate::requests::Opened;
use crate::route::Route;
use crate::server::Shared;
use crate::waiting::Passenger;

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

/// Carries a connection to its end; `first` is the byte that it begins with.
pub(crate) async fn ride(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    passenger: Passenger,
    first: u8,
) -> Result<(), Error> {
    let Passenger { sender, to, .. } = passenger;
    stream.set_nodelay(true)?;
    let mut names = shared.gate.names(to.ip()).to_vec();
    if to.ip().to_canonical().is_loopback() {
        names.extend(HostName::parse("localhost").ok());
    }
    let journey = Journey { shared, sender, to, names };
    match first {
        TLS => journey.tls(stream).await,
        byte if byte.is_ascii_uppercase() => journey.plain(stream).await,
        _ => {
            journey.refuse(&format!("what is neither TLS nor HTTP, to {to}")).await;
            stream.shutdown().await.map_err(Into::into)
        }
    }
}

struct Journey<'a> {
    shared: &'a Arc<Shared>,
    sender: Sender,
    to: std::net::SocketAddr,
    /// What leads to the address.
    names: Vec<HostName>,
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
        if !self.shared.gate.policy().opens(&name, self.to.port(), &self.sender.claims.scope) {
            let route = Route::to(self.to, &name, "https", &self.shared.setup.proxies);
            let mut far = match route.through().await {
                Ok(far) => far,
                Err(error) => {
                    // The program sees that the connection ends; why, the record says.
                    let text = format!("the carried connection to {name} at {} failed: {error}", self.to);
                    let _ = self.shared.ask(move |gate| gate.record(&Event::Notice { text })).await;
                    return Err(error.into());
                }
            };
            far.write_all(&raw).await?;
            copy_bidirectional_with_sizes(&mut stream, &mut far, PIECE, PIECE).await?;
            return Ok(());
        }
        let Some(authority) = &self.shared.setup.authority else { return turn_away(stream).await };
        let offered: Vec<Vec<u8>> =
            accepted.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        let spoken =
            [HTTP2, HTTP1].map(<[u8]>::to_vec).into_iter().filter(|one| offered.contains(one)).collect();
        let route = Route::to(self.to, &name, "https", &self.shared.setup.proxies);
        let (far, agreed) = Far::secure(route, &name, &self.shared.client, spoken, &self.shared.idle).await;
        // What the server speaks is spoken here too; where it is not there, whatever the program speaks.
        let protocols = match agreed {
            Ok(agreed) => agreed.into_iter().collect(),
            Err(_) if offered.iter().any(|one| one == HTTP1) => vec![HTTP1.to_vec()],
            Err(_) => offered.into_iter().filter(|one| one == HTTP2).collect(),
        };
        let config = authority.server(&name, protocols)?;
        let start = StartHandshake::from_parts(accepted, BufReader::with_capacity(PIECE, stream));
        let stream = timeout(HANDSHAKE, start.into_stream(config)).await??;
        let two = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        self.serve(stream, Some(name), far, two).await
    }

    async fn plain(self, stream: TcpStream) -> Result<(), Error> {
        // Where no name leads, no request is for the right host.
        let Some(name) = self.names.first() else { return turn_away(stream).await };
        let route = Route::to(self.to, name, "http", &self.shared.setup.proxies);
        self.serve(stream, None, Far::plain(route), false).await
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

    async fn serve<S>(self, stream: S, name: Option<HostName>, far: Far, two: bool) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { shared, sender, to, names } = self;
        let through = Arc::new(AtomicBool::new(false));
        let opened = Arc::new(Opened {
            shared: Arc::clone(shared),
            actor: sender.actor,
            claims: sender.claims,
            at: to,
            name,
            names,
            far,
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

async fn turn_away(mut stream: TcpStream) -> Result<(), Error> {
    stream.write_all(&UNRECOGNIZED).await?;
    stream.shutdown().await?;
    Ok(())
}
