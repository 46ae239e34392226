//! Requests on an opened connection: each is read in one way or not at all, judged, recorded, and then sent on.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use failcore_gate::{Actor, Gate, Grant, Outside, Witness};
use failcore_model::{Action, Claims, Denial, Host, HostName, Reason, Text, Timestamp, url_path};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, SEC_WEBSOCKET_KEY, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::timeout_at;

use crate::body::{Counted, EDQUOT, Passed, Ticket, moment, passed, said};
use crate::far::{Far, FarError};
use crate::route::Route;
use crate::server::{Budgets, Shared};
use crate::witnessed::{self, Heard};

/// Longest description of a request that is refused unread.
const SHOWN: usize = 300;

/// Fields in which some servers and frameworks look for another method or path than the request's own: IIS and what
/// imitates its URL rewriting, Symfony, Rack, Express, Google's APIs.
const REWRITING: [&str; 7] = [
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-forwarded-uri",
];

/// An opened connection.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) actor: Actor,
    pub(crate) claims: Claims,
    pub(crate) at: std::net::SocketAddr,
    /// Whom it is with, by TLS; nothing where each request says so, which may be any of these.
    pub(crate) name: Option<String>,
    pub(crate) names: Vec<HostName>,
    /// Whether requests are judged; otherwise they are only recorded or played.
    pub(crate) judged: bool,
    /// Nothing where responses come from a record.
    pub(crate) far: Option<Far>,
    /// Who keeps them, or has them.
    pub(crate) witness: Option<Arc<dyn Witness>>,
    /// Set once the connection is no HTTP any more.
    pub(crate) through: Arc<AtomicBool>,
}

/// A request that there is one way to read.
struct Asked {
    method: String,
    host: HostName,
    path: String,
    /// Whether it asks for a websocket.
    upgrades: bool,
}

/// A request that goes ahead.
struct Admitted {
    /// Whom it is for, where it was judged.
    host: Option<HostName>,
    upgrades: bool,
    ends: Option<Timestamp>,
    ticket: Ticket,
    budgets: Budgets,
    /// Who really makes the connection for it, in a program that is run again.
    outside: Option<Arc<dyn Outside>>,
}

/// Why a request is not looked at further.
struct Odd {
    status: StatusCode,
    why: String,
}

impl Odd {
    fn bad(why: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, why: why.into() }
    }
}

impl Opened {
    /// Answers one request. Whatever happens inside, an answer comes of it.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Passed>, Infallible> {
        let admitted = match self.judged {
            true => self.admit(&request).await,
            false => Ok(self.let_in(&request)),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(refused),
        };
        let two = request.version() == Version::HTTP_2;
        let Admitted { host, upgrades, ends, ticket, budgets, outside } = admitted;
        let (mut parts, body) = request.into_parts();
        let theirs = upgrades.then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>()).flatten();
        end_to_end(&mut parts.headers, two, upgrades);
        if let Some(host) = &host {
            self.shared.setup.credentials.put(host, self.at.port(), &mut parts.headers);
        }
        let url = self.url(&parts);
        if !two {
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            parts.uri = Uri::try_from(path).unwrap_or_default();
            parts.version = Version::HTTP_11;
        }
        let request = Request::from_parts(parts, Counted::pass(body, budgets.request, ends, ticket.clone()));
        // One that really happens is neither recorded nor played.
        let live = outside.map(|outside| self.live(outside));
        let far = live.as_ref().or(self.far.as_ref());
        let response = match (far, self.witness.as_ref().filter(|_| live.is_none())) {
            (Some(far), None) => match far.send(request).await {
                Ok(response) => response.map(passed),
                Err(error) => self.unanswered(&ticket, &error),
            },
            (Some(far), Some(witness)) => {
                let (request, heard) = Heard::of(request, url.clone(), witness);
                match far.send(request).await {
                    Ok(response) => heard.gather(response),
                    Err(error) => heard.gather(self.unanswered(&ticket, &error)),
                }
            }
            (None, Some(witness)) => {
                match witnessed::played(witness.as_ref(), request, &url, &self.claims).await {
                    Ok(response) => response,
                    Err(error) => refusal(StatusCode::BAD_GATEWAY, format!("FailCore: {url}: {error}\n")),
                }
            }
            (None, None) => refusal(StatusCode::BAD_GATEWAY, format!("FailCore: nobody answers {url}\n")),
        };
        Ok(self.pass(response, two, theirs, (ends, budgets.response), ticket, url))
    }

    /// The server itself, for a request that really happens.
    fn live(&self, outside: Arc<dyn Outside>) -> Far {
        let route = Route::live(self.at, outside);
        match &self.name {
            Some(name) => Far::later(route, name, &self.shared.client),
            None => Far::plain(route),
        }
    }

    /// What the program gets where the server gives no answer.
    fn unanswered(&self, ticket: &Ticket, error: &FarError) -> Response<Passed> {
        ticket.fail(error.errno());
        let who = self.name.clone().unwrap_or_else(|| self.at.to_string());
        refusal(StatusCode::BAD_GATEWAY, format!("FailCore: {who}: {error}\n"))
    }

    /// Judges a request, and records the decision.
    ///
    /// # Errors
    /// What the program gets in place of an answer.
    async fn admit(&self, request: &Request<Incoming>) -> Result<Admitted, Response<Passed>> {
        let asked = match self.read(request) {
            Ok(asked) => asked,
            Err(odd) => {
                let text = format!("http {} {}: {}", request.method(), self.shown(request.uri()), odd.why);
                self.refuse_unread(&text).await;
                let why = format!("FailCore does not carry this request: {}\n", odd.why);
                return Err(refusal(odd.status, why));
            }
        };
        let Asked { method, host, path, upgrades } = asked;
        let port = self.at.port();
        let grant = match self.judge(Action::Http { method, host: host.clone(), port, path }).await {
            Ok(grant) => grant,
            Err(denial) => {
                let status = match denial.reason {
                    Reason::Fault | Reason::TraceUnwritable | Reason::Diverged => StatusCode::BAD_GATEWAY,
                    Reason::OverBudget => StatusCode::TOO_MANY_REQUESTS,
                    _ => StatusCode::FORBIDDEN,
                };
                return Err(refusal(status, format!("FailCore: {denial}\n")));
            }
        };
        let ends = self.shared.gate.ends(&grant);
        let outside = self.witness.as_ref().and_then(|witness| witness.outside(grant.rules()));
        let ticket = Ticket::new(Arc::clone(&self.shared.gate), Some(grant));
        let budgets = self.shared.budgets;
        if budgets.request.is_some_and(|most| request.body().size_hint().lower() > most) {
            ticket.fail(EDQUOT);
            return Err(over_budget("request_bytes", budgets.request));
        }
        // Whether what is said can be read on the way.
        let secret = self.name.is_some() || self.at.ip().to_canonical().is_loopback();
        if self.shared.setup.credentials.are_for(&host, port) && !secret {
            const EPROTO: i32 = 71;
            ticket.fail(EPROTO);
            let why = "a credential is never sent without TLS; ask by https";
            let why = format!("FailCore does not carry this request: {why}\n");
            return Err(refusal(StatusCode::FORBIDDEN, why));
        }
        Ok(Admitted { host: Some(host), upgrades, ends, ticket, budgets, outside })
    }

    /// Takes a request as it is, on a connection that is granted as it is.
    fn let_in(&self, request: &Request<Incoming>) -> Admitted {
        let one = request.version() != Version::HTTP_2;
        Admitted {
            host: None,
            upgrades: one && asks_for_websocket(request.headers()).unwrap_or(false),
            ends: None,
            ticket: Ticket::new(Arc::clone(&self.shared.gate), None),
            budgets: Budgets { request: None, response: None },
            outside: None,
        }
    }

    /// The whole URL that a request is for, as it says it itself.
    fn url(&self, parts: &http::request::Parts) -> String {
        let scheme = if self.name.is_some() { "https" } else { "http" };
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = parts.uri.authority().map(Authority::as_str).or(host);
        let host = host.map_or_else(|| self.at.to_string(), str::to_owned);
        format!("{scheme}://{host}{}", parts.uri.path_and_query().map_or("/", PathAndQuery::as_str))
    }

    /// Hands a response on; a websocket is tied together, and then belongs to both ends.
    fn pass(
        &self,
        mut response: Response<Passed>,
        two: bool,
        theirs: Option<hyper::upgrade::OnUpgrade>,
        (ends, most): (Option<Timestamp>, Option<u64>),
        ticket: Ticket,
        url: String,
    ) -> Response<Passed> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(theirs) = theirs else {
                const EPROTO: i32 = 71;
                ticket.fail(EPROTO);
                return refusal(
                    StatusCode::BAD_GATEWAY,
                    "FailCore: the server changed the protocol unasked\n".into(),
                );
            };
            let ours = hyper::upgrade::on(&mut response);
            self.through.store(true, SeqCst);
            let (witness, claims) = (self.witness.clone(), self.claims.clone());
            tokio::spawn(async move {
                let tied = witnessed::tie(theirs, ours, witness, url, claims);
                match ends {
                    Some(ends) => drop(timeout_at(moment(ends), tied).await),
                    None => drop(tied.await),
                }
            });
            let (parts, _) = response.into_parts();
            return Response::from_parts(parts, said(""));
        }
        let declared = response.body().size_hint().lower();
        if most.is_some_and(|most| declared > most) {
            ticket.fail(EDQUOT);
            return over_budget("response_bytes", most);
        }
        let (mut parts, body) = response.into_parts();
        end_to_end(&mut parts.headers, two, false);
        parts.version = if two { Version::HTTP_2 } else { Version::HTTP_11 };
        Response::from_parts(parts, Counted::pass(body, most, ends, ticket))
    }

    /// Reads a request, if there is one way to do so.
    fn read(&self, request: &Request<Incoming>) -> Result<Asked, Odd> {
        let (uri, headers, two) = (request.uri(), request.headers(), request.version() == Version::HTTP_2);
        if request.method() == Method::CONNECT {
            return Err(Odd::bad("CONNECT would lead elsewhere"));
        }
        let method = request.method().as_str();
        if !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_') {
            return Err(Odd::bad("a method is written in capitals"));
        }
        let mut hosts = headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
        let (host, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(Odd::bad("there are two hosts"));
        }
        if let Some(name) = REWRITING.into_iter().find(|name| headers.contains_key(*name)) {
            return Err(Odd::bad(format!("`{name}` makes another request of it for some servers")));
        }
        let host = match (two, uri.authority()) {
            (true, Some(authority)) => {
                let scheme = if self.name.is_some() { "https" } else { "http" };
                if uri.scheme_str() != Some(scheme) {
                    return Err(Odd::bad("the scheme is not that of the connection"));
                }
                if host.is_some_and(|host| host != authority.as_str().as_bytes()) {
                    return Err(Odd::bad("`host` and `:authority` differ"));
                }
                authority.as_str()
            }
            (true, None) => return Err(Odd::bad("there is no `:authority`")),
            (false, None) if uri.scheme().is_none() => {
                let host = host.ok_or_else(|| Odd::bad("there is no host"))?;
                std::str::from_utf8(host).map_err(|_| Odd::bad("the host is no text"))?
            }
            (false, _) => return Err(Odd::bad("the target is a whole URL: this is no proxy")),
        };
        let host = self.meant(host)?;
        let path = url_path(uri.path()).map_err(|error| Odd::bad(format!("of its path: {error}")))?;
        if uri.query().is_some_and(|query| query.bytes().any(|byte| !byte.is_ascii_graphic())) {
            return Err(Odd::bad("its query has characters that no URL has"));
        }
        Ok(Asked { method: method.into(), host, path, upgrades: !two && asks_for_websocket(headers)? })
    }

    /// The host that a request names, where it is the one that the connection is with.
    fn meant(&self, text: &str) -> Result<HostName, Odd> {
        let misdirected = |why: String| Odd { status: StatusCode::MISDIRECTED_REQUEST, why };
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, port.parse().map_err(|_| Odd::bad("the port is none"))?)
            }
            Some(_) => return Err(Odd::bad("the host is none")),
            None => (text, if self.name.is_some() { 443 } else { 80 }),
        };
        let Ok(Host::Name(host)) = Host::parse(host) else {
            return Err(misdirected("it is for no host name".into()));
        };
        if port != self.at.port() {
            return Err(misdirected(format!(
                "it is for port {port}, and the connection is to {}",
                self.at.port()
            )));
        }
        let with = match &self.name {
            Some(name) => *name == host.as_str(),
            None => self.names.contains(&host),
        };
        if with {
            return Ok(host);
        }
        Err(misdirected(match &self.name {
            Some(name) => format!("it is for {host}, and the connection is with {name}"),
            None => format!("it is for {host}, and the connection is to {}, where that host is not", self.at),
        }))
    }

    fn shown(&self, uri: &Uri) -> String {
        let host = self
            .name
            .as_ref()
            .map_or_else(|| self.at.to_string(), |name| format!("{name}:{}", self.at.port()));
        let shown: String = format!("{host}{}", uri.path()).chars().take(SHOWN).collect();
        shown
    }

    async fn judge(&self, action: Action) -> Result<Grant, Denial> {
        let (actor, claims, addr) = (self.actor.clone(), self.claims.clone(), self.at.ip());
        // What is simply granted takes no other thread, whose waking costs more than the decision.
        let plain = self.shared.gate.grant_plain_for(actor, action.clone(), claims, &[addr]);
        if let Some(grant) = plain {
            return Ok(grant);
        }
        let (actor, claims) = (self.actor.clone(), self.claims.clone());
        self.shared.ask(move |gate: &Gate| gate.check_for(actor, action, claims, &[addr])).await
    }

    /// Records a request that is refused whatever the policy says.
    pub(crate) async fn refuse_unread(&self, text: &str) {
        self.shared.refuse_unread(&self.actor, &self.claims, text).await;
    }
}

impl Shared {
    /// Asks the gate, which may take its time: a person may be asked.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Gate) -> Result<T, Denial> + Send + 'static,
    ) -> Result<T, Denial> {
        let gate = Arc::clone(&self.gate);
        let asked = tokio::task::spawn_blocking(move || question(&gate)).await;
        // It was cut off, as the run is over.
        asked.unwrap_or_else(|_| {
            Err(Denial {
                verb: failcore_model::Verb::NetHttp,
                resource: String::new(),
                rule: None,
                reason: Reason::Fault,
                hint: None,
                errno: 5,
                retry: false,
            })
        })
    }

    /// Records what nobody could judge: refused also where a rule or audit mode would let it pass, since what we would
    /// make of it may not be what the server makes of it.
    pub(crate) async fn refuse_unread(&self, actor: &Actor, claims: &Claims, text: &str) {
        let (actor, claims) = (actor.clone(), claims.clone());
        let action = Action::Unmapped(Text::from(text));
        let asked = self.ask(move |gate| gate.check_for(actor, action, claims, &[])).await;
        if let Ok(grant) = asked {
            const EACCES: i32 = 13;
            self.gate.conclude(grant, failcore_model::Outcome::Failed(EACCES));
        }
    }
}

/// Whether a request of HTTP/1.1 asks for a websocket (RFC 6455 section 4.1). Other upgrades are not passed on, and so do not
/// happen.
fn asks_for_websocket(headers: &HeaderMap) -> Result<bool, Odd> {
    let mut wanted = headers.get_all(UPGRADE).iter();
    let websocket = wanted.next().is_some_and(|one| one.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket {
        return Ok(false);
    }
    let body = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    if wanted.next().is_some() || body || !headers.contains_key(SEC_WEBSOCKET_KEY) {
        return Err(Odd::bad("it asks for a websocket as no client does"));
    }
    Ok(true)
}

/// Takes out what is between two neighbours (RFC 9110 section 7.6.1): how a message is framed is each connection's own.
fn end_to_end(headers: &mut HeaderMap, two: bool, upgrades: bool) {
    const OLD: [HeaderName; 3] = [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("proxy-authorization"),
    ];
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !(upgrades && *name == UPGRADE) && *name != CONTENT_LENGTH && *name != HOST)
        .collect();
    let trailers = two && headers.get(TE).is_some_and(|te| te == "trailers");
    for name in named.into_iter().chain(OLD).chain([TE, TRANSFER_ENCODING, EXPECT, TRAILER, CONNECTION]) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

fn over_budget(name: &str, most: Option<u64>) -> Response<Passed> {
    let status =
        if name == "request_bytes" { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_GATEWAY };
    let most = most.unwrap_or_default();
    refusal(
        status,
        format!("FailCore: the body is longer than the policy's `[net] {name} = {most}`. Do not retry.\n"),
    )
}

/// What the program gets in place of an answer.
fn refusal(status: StatusCode, text: String) -> Response<Passed> {
    let mut response = Response::new(said(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-failcore", HeaderValue::from_static("refused"));
    response
}
