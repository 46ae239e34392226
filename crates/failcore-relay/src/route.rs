//! The way to a server: to the address that the program asked for, or through the owner's proxy.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use failcore_gate::Outside;
use failcore_model::HostName;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::lock;

/// How long it may take to reach a server, and to agree on TLS with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A stream of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The way to a server.
pub(crate) struct Route {
    pub(crate) at: SocketAddr,
    /// Who is asked to connect us, where the owner goes through a proxy.
    via: Option<Intercept>,
    /// What the server is to a proxy: its name, which the proxy looks up for itself.
    authority: String,
    /// A connection that stands already.
    made: Mutex<Option<TcpStream>>,
    /// Who makes connections, where this process has no network.
    outside: Option<Arc<dyn Outside>>,
    /// Whether it is written down how the server spells the names of fields.
    pub(crate) spelt: bool,
}

impl Route {
    /// The way to a host at an address that the program was granted. The owner's proxy is told of no address of this
    /// machine.
    pub(crate) fn to(at: SocketAddr, name: &HostName, scheme: &str, proxies: &Matcher) -> Self {
        let uri = |host: &str| Uri::builder().scheme(scheme).authority(host).path_and_query("/").build().ok();
        let via = |host: &str| proxies.intercept(&uri(host)?);
        let named = via(name.as_str()).filter(|_| !at.ip().is_loopback());
        // A network may be left out by its addresses too.
        let via = named.filter(|_| via(&SocketAddr::new(at.ip(), at.port()).to_string()).is_some());
        Self { via, ..Self::direct(at, format!("{name}:{}", at.port())) }
    }

    fn direct(at: SocketAddr, authority: String) -> Self {
        Self { at, via: None, authority, made: Mutex::default(), outside: None, spelt: false }
    }

    /// The way to an address that was granted as it is, with the connection that was made there before.
    ///
    /// # Errors
    /// Where that is none.
    pub(crate) fn straight(at: SocketAddr, made: Option<OwnedFd>) -> io::Result<Self> {
        let made = made.map(|fd| TcpStream::from_std(fd.into())).transpose()?;
        Ok(Self { made: Mutex::new(made), spelt: true, ..Self::direct(at, at.to_string()) })
    }

    /// The same by somebody outside.
    pub(crate) fn by(self, outside: Option<Arc<dyn Outside>>) -> Self {
        Self { outside, ..self }
    }

    /// The way to an address by somebody outside alone.
    pub(crate) fn live(at: SocketAddr, outside: Arc<dyn Outside>) -> Self {
        Self::direct(at, at.to_string()).by(Some(outside))
    }

    /// Makes a request without TLS one to a proxy, where it goes to one: with the whole URL, and who asks.
    pub(crate) fn address<B>(&self, request: &mut Request<B>) {
        let Some(via) = &self.via else { return };
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let whole = Uri::builder().scheme("http").authority(host).path_and_query(path).build();
        // What is no URL stays what no proxy takes.
        *request.uri_mut() = whole.unwrap_or_default();
        let auth = via.basic_auth().map(|auth| (PROXY_AUTHORIZATION, auth.clone()));
        request.headers_mut().extend(auth);
    }

    /// A stream to whoever takes requests without TLS: the server, or the proxy.
    ///
    /// # Errors
    /// As connect(2).
    pub(crate) async fn next(&self) -> io::Result<Box<dyn Stream>> {
        let made = lock(&self.made).take();
        let stream = match (made, self.outside.clone(), &self.via) {
            (Some(made), ..) => made,
            (None, Some(outside), _) => {
                let at = self.at;
                let made = tokio::task::spawn_blocking(move || outside.connect(at)).await??;
                TcpStream::from_std(made.into())?
            }
            (None, None, None) => within(TcpStream::connect(self.at)).await?,
            (None, None, Some(via)) => proxy(via).await?,
        };
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    /// A stream to the server itself, whoever is in between.
    ///
    /// # Errors
    /// As connect(2), and what a proxy says.
    pub(crate) async fn through(&self) -> io::Result<Box<dyn Stream>> {
        let stream = self.next().await?;
        match &self.via {
            None => Ok(stream),
            Some(via) => within(self.ask(via, stream)).await,
        }
    }

    /// Asks a proxy to connect us (RFC 9110 section 9.3.6).
    async fn ask(&self, via: &Intercept, stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        let (mut link, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::connect(&self.authority).header(HOST, &self.authority);
        if let Some(auth) = via.basic_auth() {
            request = request.header(PROXY_AUTHORIZATION, auth);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let response = link.send_request(request).await.map_err(io::Error::other)?;
        if !response.status().is_success() {
            return Err(io::Error::other(format!("the proxy says {}", response.status())));
        }
        let through = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        Ok(Box::new(TokioIo::new(through)))
    }
}

async fn proxy(via: &Intercept) -> io::Result<TcpStream> {
    if via.uri().scheme_str() != Some("http") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "only proxies by `http://` are spoken with"));
    }
    let host = via.uri().host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    within(TcpStream::connect((host, via.uri().port_u16().unwrap_or(80)))).await
}

async fn within<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(at: &str, name: &str, scheme: &str) -> Option<String> {
        let proxies = Matcher::builder()
            .https("http://user:word@proxy.example:3128")
            .http("proxy.example:80")
            .no("inside.example, 10.0.0.0/8")
            .build();
        let route = Route::to(at.parse().unwrap(), &HostName::parse(name).unwrap(), scheme, &proxies);
        route.via.map(|via| via.uri().to_string())
    }

    #[test]
    fn the_owners_proxies_are_gone_through() {
        let secure = Some("http://proxy.example:3128/".to_owned());
        assert_eq!(via("93.184.216.34:443", "a.example", "https"), secure);
        assert_eq!(via("93.184.216.34:80", "a.example", "http").as_deref(), Some("http://proxy.example:80/"));
        assert_eq!(via("93.184.216.34:443", "x.inside.example", "https"), None);
        assert_eq!(via("10.1.2.3:443", "a.example", "https"), None);
        assert_eq!(via("127.0.0.1:443", "a.example", "https"), None);
        assert_eq!(via("[2606:4700::1111]:443", "a.example", "https"), secure);
    }
}
