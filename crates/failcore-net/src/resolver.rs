//! Look up, filter, pin: the one way from a judged name to addresses.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use failcore_gate::{Grant, SinkError, Witness};
use failcore_model::heard::{Asked, Said};
use failcore_model::{Action, Claims, HostName, IpClass, RuleId, Timestamp};
use hickory_proto::rr::RecordType;

use crate::Pins;
use crate::answers::Chain;
use crate::upstream::Upstream;

/// Looks names up, through the system's resolver (getaddrinfo(3): /etc/hosts, nsswitch.conf, DNS) or by asking name
/// servers of the owner's choice, and pins what may be connected to.
///
/// By the system's resolver the program and this process see the same names. The name is asked as it was judged: lower-case
/// A-labels without a final dot, so that the system's search list applies as it would have anyway.
///
/// # Security
/// The answer is data of whoever runs the name. An address that is not public is dropped unless the caller's
/// policy grants the address itself, so that a name cannot lead inside (DNS rebinding). The program is to get these
/// addresses and no others: a second look-up by the program would be an unjudged one.
pub struct Resolver {
    pins: Arc<Pins>,
    ttl: Duration,
    // Behind a trait, so that whoever asks the system alone links nothing of what asks name servers.
    source: Box<dyn Source>,
    /// Who sees what is answered, or answers.
    witness: Option<Arc<dyn Witness>>,
}

/// Which alias may be followed.
pub(crate) type May<'a> = dyn FnMut(&HostName) -> bool + 'a;

/// Who knows what a name leads to.
pub(crate) trait Source: Send + Sync {
    /// Addresses of both families. `may` says which names it may be an alias of.
    fn addresses(&self, name: &HostName, may: &mut May<'_>) -> Result<Found, LookupError>;

    /// Other records, as [`Source::addresses`]; nothing where it knows of none.
    fn records(&self, _: &HostName, _: RecordType, _: &mut May<'_>) -> Result<Option<Chain>, LookupError> {
        Ok(None)
    }

    /// What keeps us from each server that must prove who it is, now that none could be asked. Takes a while.
    fn obstacles(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A function that finds addresses, as the system's does.
struct Function<F>(F);

impl<F: Fn(&HostName) -> Result<Found, LookupError> + Send + Sync> Source for Function<F> {
    fn addresses(&self, name: &HostName, may: &mut May<'_>) -> Result<Found, LookupError> {
        let mut found = self.0(name)?;
        found.aliases.retain(|alias| alias != name);
        if found.aliases.iter().all(may) { Ok(found) } else { Err(LookupError::refused()) }
    }
}

/// What a look-up found, before anything is filtered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The addresses.
    pub addrs: Vec<IpAddr>,
    /// The names that the one looked up is an alias of, one after the other; judged by nobody. The system's resolver
    /// tells the last one alone.
    pub aliases: Vec<HostName>,
    /// Seconds that it may be kept, where that is known.
    pub ttl: Option<u32>,
}

/// What a name resolved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The addresses that may be tried, in the resolver's order (RFC 6724), none twice; all are pinned.
    pub addrs: Vec<IpAddr>,
    /// The addresses that were dropped, with the class that is why.
    pub dropped: Vec<(IpAddr, IpClass)>,
    /// When the pins end.
    pub until: Timestamp,
    /// Until when whoever asked may keep it; no longer than the pins.
    pub fresh: Timestamp,
}

/// Why a name gave no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The grant is for something else.
    #[error("the grant is not for resolving a name")]
    NotGranted,
    /// Every address was dropped.
    #[error("`{name}` resolves to {} only, which a host name does not grant", list(dropped))]
    NotPublic {
        /// The name.
        name: HostName,
        /// The addresses with the class of each.
        dropped: Vec<(IpAddr, IpClass)>,
    },
    /// Whoever was asked could not tell.
    #[error("`{name}` cannot be resolved: {source}")]
    Lookup {
        /// The name.
        name: HostName,
        /// What it says.
        source: LookupError,
    },
}

/// A failure of getaddrinfo(3), or what would be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LookupError {
    /// `EAI_*`, as in netdb.h; 0 where the failure has none.
    pub code: i32,
    /// `errno`, where the code is `EAI_SYSTEM`.
    pub errno: Option<i32>,
    message: String,
    unreachable: bool,
}

impl Resolver {
    /// How long a pin counts at most. getaddrinfo(3) tells no time to live, so it is one span for all then: long enough
    /// for a program that keeps addresses for its next connections, short enough that a name that moved is asked again.
    pub const TTL: Duration = Duration::from_secs(300);
    /// How long a pin counts at least, since a program connects to what it looked up a moment ago, and tries one
    /// address after the other.
    pub const LEAST: Duration = Duration::from_secs(60);
    /// Files by which the system's resolver finds what a name means: nsswitch.conf(5), hosts(5), resolv.conf(5),
    /// host.conf(5), gai.conf(5).
    ///
    /// # Security
    /// Who can write one of them says what every granted name leads to.
    pub const FILES: [&str; 5] =
        ["/etc/nsswitch.conf", "/etc/hosts", "/etc/resolv.conf", "/etc/host.conf", "/etc/gai.conf"];
    /// Addresses of one name that are taken, so that no name crowds the others out of the table.
    const MOST: usize = 256;

    /// A resolver that asks the system.
    pub fn system(pins: Arc<Pins>) -> Self {
        Self::new(pins, getaddrinfo)
    }

    /// A resolver that asks `lookup`.
    pub fn new(
        pins: Arc<Pins>,
        lookup: impl Fn(&HostName) -> Result<Found, LookupError> + Send + Sync + 'static,
    ) -> Self {
        Self::from(pins, Function(lookup))
    }

    /// A resolver that asks these name servers.
    pub fn asking(pins: Arc<Pins>, upstream: Upstream) -> Self {
        Self::from(pins, upstream)
    }

    fn from(pins: Arc<Pins>, source: impl Source + 'static) -> Self {
        Self { pins, ttl: Self::TTL, source: Box::new(source), witness: None }
    }

    /// Pins for this long at most, instead of [`Resolver::TTL`].
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl, ..self }
    }

    /// Has each answer seen by somebody who keeps it or knows it already. Of other records than addresses there are none
    /// then.
    #[must_use]
    pub fn witnessed(self, witness: Option<Arc<dyn Witness>>) -> Self {
        Self { witness, ..self }
    }

    /// The table that it pins to.
    pub fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// Resolves the name that was granted (`net.resolve`), filters the answer and pins what is left.
    ///
    /// `grants` says whether the policy grants an address that is not public by itself; it is asked for no other.
    /// Blocks as long as the system's resolver does: hold no lock meanwhile.
    ///
    /// # Errors
    /// [`ResolveError`]; nothing is pinned then.
    pub fn resolve(
        &self,
        grant: &Grant,
        now: Timestamp,
        grants: impl Fn(IpAddr) -> bool,
    ) -> Result<Answer, ResolveError> {
        let Action::Resolve(name) = grant.action() else { return Err(ResolveError::NotGranted) };
        self.admit(name, &self.look_up(grant, |_| true)?, now, grants)
    }

    /// Looks the name up that was granted, and leaves it to [`Resolver::admit`] what of the answer may be used.
    ///
    /// `may` says which names it may be an alias of; where name servers are asked, none is asked for before.
    ///
    /// # Errors
    /// [`ResolveError`], but for [`ResolveError::NotPublic`].
    pub fn look_up(
        &self,
        grant: &Grant,
        mut may: impl FnMut(&HostName) -> bool,
    ) -> Result<Found, ResolveError> {
        match grant.action() {
            Action::Resolve(name) => self.ask(name, grant.rules(), &mut may),
            _ => Err(ResolveError::NotGranted),
        }
    }

    fn ask(&self, name: &HostName, rules: &[RuleId], may: &mut May<'_>) -> Result<Found, ResolveError> {
        let found = match &self.witness {
            None => self.source.addresses(name, may),
            Some(witness) => match witness.outside(rules) {
                Some(outside) => outside
                    .addresses(name)
                    .map(|addrs| Found { addrs, ..Found::default() })
                    .map_err(|(code, message)| LookupError::new(code, message)),
                None => self.witness(witness.as_ref(), name, may),
            },
        };
        found.map_err(|source| ResolveError::Lookup { name: name.clone(), source })
    }

    fn witness(
        &self,
        witness: &dyn Witness,
        name: &HostName,
        may: &mut May<'_>,
    ) -> Result<Found, LookupError> {
        let lost = |error: SinkError| LookupError::again(error.to_string());
        let asked = Asked::Addresses { name: name.clone() };
        match witness.recalls(&asked, &Claims::default()).map_err(lost)? {
            Some((Said::Addresses { addrs, aliases, ttl }, _)) => {
                let allowed = aliases.iter().all(may);
                return if allowed { Ok(Found { addrs, aliases, ttl }) } else { Err(LookupError::refused()) };
            }
            Some((Said::NoAddresses { code, message }, _)) => return Err(LookupError::new(code, message)),
            _ => {}
        }
        let found = self.source.addresses(name, may);
        let said = match found.clone() {
            Ok(Found { addrs, aliases, ttl }) => Said::Addresses { addrs, aliases, ttl },
            Err(error) => Said::NoAddresses { code: error.code, message: error.message },
        };
        witness.hears(asked, said, None).map_err(lost)?;
        found
    }

    /// Looks up other records than addresses of the name that was granted, as [`Resolver::look_up`]; nothing where
    /// only the system's resolver could be asked.
    pub(crate) fn records(
        &self,
        grant: &Grant,
        kind: RecordType,
        mut may: impl FnMut(&HostName) -> bool,
    ) -> Result<Option<Chain>, ResolveError> {
        let Action::Resolve(name) = grant.action() else { return Err(ResolveError::NotGranted) };
        if self.witness.is_some() {
            return Ok(None);
        }
        let found = self.source.records(name, kind, &mut may);
        found.map_err(|source| ResolveError::Lookup { name: name.clone(), source })
    }

    /// What keeps us from whom we ask, where that can be told; takes a while.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        self.source.obstacles()
    }

    /// Filters and pins addresses that a judged name resolved to elsewhere, as where the program's own call of
    /// getaddrinfo(3) was made on its behalf.
    ///
    /// # Errors
    /// [`ResolveError::NotPublic`] where none is left, and EAI_NONAME where there was none to begin with.
    pub fn admit(
        &self,
        name: &HostName,
        found: &Found,
        now: Timestamp,
        grants: impl Fn(IpAddr) -> bool,
    ) -> Result<Answer, ResolveError> {
        let after = |span: Duration| now.plus(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        let told = found.ttl.map_or(self.ttl, |ttl| Duration::from_secs(ttl.into()));
        let pinned = told.max(Self::LEAST).min(self.ttl);
        let (until, fresh) = (after(pinned), after(told.min(pinned)));
        let mut answer = Answer { addrs: Vec::new(), dropped: Vec::new(), until, fresh };
        for &addr in found.addrs.iter().take(Self::MOST) {
            let class = IpClass::of(addr);
            if class.is_public() || grants(addr) {
                if !answer.addrs.contains(&addr) {
                    answer.addrs.push(addr);
                }
            } else if !answer.dropped.contains(&(addr, class)) {
                answer.dropped.push((addr, class));
            }
        }
        if answer.addrs.is_empty() {
            return Err(if answer.dropped.is_empty() {
                ResolveError::Lookup { name: name.clone(), source: LookupError::no_name() }
            } else {
                ResolveError::NotPublic { name: name.clone(), dropped: answer.dropped }
            });
        }
        self.pins.pin(name, &answer.addrs, pinned, now);
        Ok(answer)
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("pins", &self.pins).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl ResolveError {
    /// What getaddrinfo(3) would return for it: a refused name does not exist, since callers retry after
    /// EAI_AGAIN and some after EAI_FAIL.
    pub fn eai(&self) -> i32 {
        match self {
            Self::Lookup { source, .. } if source.code != 0 => source.code,
            _ => EAI_NONAME,
        }
    }
}

impl LookupError {
    /// A failure with its `EAI_*` code.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, errno: None, message: message.into(), unreachable: false }
    }

    pub(crate) fn no_name() -> Self {
        Self::new(EAI_NONAME, "the name has no address")
    }

    pub(crate) fn no_data() -> Self {
        Self::new(EAI_NODATA, "the name has none of what was asked for")
    }

    /// An alias may not be followed.
    pub(crate) fn refused() -> Self {
        Self::new(EAI_NONAME, "it is an alias of a name that is refused")
    }

    pub(crate) fn again(message: impl Into<String>) -> Self {
        Self::new(EAI_AGAIN, message)
    }

    /// No name server answered, or none proved who it is.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self { unreachable: true, ..Self::again(message) }
    }

    /// Whether nobody answered at all.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// Whether asking again would come to the same.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.code, EAI_NONAME | EAI_NODATA)
    }
}

/// netdb.h of glibc and musl.
pub(crate) const EAI_NONAME: i32 = -2;
const EAI_AGAIN: i32 = -3;
/// netdb.h of glibc; musl has it too.
pub(crate) const EAI_NODATA: i32 = -5;
/// SOCK_STREAM, so that each address comes once and not for every kind of socket.
const SOCK_STREAM: i32 = 1;
/// AI_CANONNAME of netdb.h, in glibc and musl.
const CANONICAL_NAME: i32 = 2;

/// The addresses of a name by the system's resolver (getaddrinfo(3)): judged, filtered and pinned by nobody.
///
/// # Errors
/// What that says.
pub fn getaddrinfo(name: &HostName) -> Result<Found, LookupError> {
    let hints =
        dns_lookup::AddrInfoHints { socktype: SOCK_STREAM, flags: CANONICAL_NAME, ..Default::default() };
    dns_lookup::getaddrinfo(Some(name.as_str()), None, Some(hints))
        .and_then(|list| {
            let mut found = Found::default();
            for info in list {
                let info = info?;
                found.addrs.push(info.sockaddr.ip());
                // What is no host name is not passed on.
                let canonical = info.canonname.and_then(|name| HostName::parse(&name).ok());
                if found.aliases.is_empty() {
                    found.aliases.extend(canonical);
                }
            }
            Ok(found)
        })
        .map_err(|error| {
            let code = error.error_num();
            let error = io::Error::from(error);
            LookupError { errno: error.raw_os_error(), ..LookupError::new(code, error.to_string()) }
        })
}

fn list(dropped: &[(IpAddr, IpClass)]) -> String {
    dropped.iter().map(|(addr, _)| addr.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use failcore_gate::Names;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn addrs(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn answering(texts: &[&str]) -> Resolver {
        let found = Found { addrs: addrs(texts), ..Found::default() };
        Resolver::new(Arc::default(), move |_| Ok(found.clone()))
    }

    fn resolve(resolver: &Resolver, grants: impl Fn(IpAddr) -> bool) -> Result<Answer, ResolveError> {
        ask(resolver, &name("a.example"), grants)
    }

    fn ask(
        resolver: &Resolver,
        name: &HostName,
        grants: impl Fn(IpAddr) -> bool,
    ) -> Result<Answer, ResolveError> {
        resolver.admit(name, &resolver.ask(name, &[], &mut |_| true)?, NOW, grants)
    }

    #[test]
    fn public_answers_are_kept_and_pinned_in_order() {
        let resolver = answering(&["9.9.9.9", "2606:4700::1111", "9.9.9.9", "1.1.1.1"]);
        let answer = resolve(&resolver, |_| panic!("asked about a public address")).unwrap();
        assert_eq!(answer.addrs, addrs(&["9.9.9.9", "2606:4700::1111", "1.1.1.1"]));
        for addr in answer.addrs {
            assert_eq!(resolver.pins().names(addr, NOW).as_slice(), [name("a.example")]);
        }
    }

    #[test]
    fn a_name_does_not_lead_inside() {
        let inside = [
            "127.0.0.1",
            "169.254.169.254",
            "10.0.0.1",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "168.63.129.16",
        ];
        let resolver = answering(&[&inside[..], &["9.9.9.9"]].concat());
        let answer = resolve(&resolver, |_| false).unwrap();
        assert_eq!(answer.addrs, addrs(&["9.9.9.9"]));
        assert_eq!(answer.dropped.len(), inside.len());
        for addr in addrs(&inside) {
            assert!(resolver.pins().names(addr, NOW).is_empty(), "{addr}");
        }
        let error = resolve(&answering(&["127.0.0.1", "10.0.0.1"]), |_| false).unwrap_err();
        assert_eq!(error.eai(), EAI_NONAME);
        assert_eq!(
            error.to_string(),
            "`a.example` resolves to 127.0.0.1, 10.0.0.1 only, which a host name does not grant"
        );
    }

    #[test]
    fn an_address_that_the_policy_grants_is_kept() {
        let resolver = answering(&["10.0.0.1", "10.0.0.2"]);
        let answer = resolve(&resolver, |addr| addr == IpAddr::from([10, 0, 0, 2])).unwrap();
        assert_eq!(answer.addrs, addrs(&["10.0.0.2"]));
        assert_eq!(answer.dropped, [(IpAddr::from([10, 0, 0, 1]), IpClass::Private)]);
    }

    #[test]
    fn the_time_that_is_told_counts_within_bounds() {
        for (told, fresh, pinned) in [
            (Some(0), 0, 60),
            (Some(59), 59, 60),
            (Some(120), 120, 120),
            (Some(86_400), 300, 300),
            (None, 300, 300),
        ] {
            let resolver = answering(&[]);
            let found = Found { addrs: addrs(&["9.9.9.9"]), ttl: told, ..Found::default() };
            let answer = resolver.admit(&name("a.example"), &found, NOW, |_| false).unwrap();
            let seconds = |until: Timestamp| (until.0 - NOW.0) / 1_000_000_000;
            assert_eq!((seconds(answer.fresh), seconds(answer.until)), (fresh, pinned), "{told:?}");
            let pinned_at = |time| !resolver.pins().names(answer.addrs[0], time).is_empty();
            assert!(pinned_at(Timestamp(answer.until.0 - 1)) && !pinned_at(answer.until));
        }
    }

    #[test]
    fn an_empty_answer_is_no_name() {
        assert_eq!(resolve(&answering(&[]), |_| true).unwrap_err().eai(), EAI_NONAME);
        let failing = Resolver::new(Arc::default(), |_| Err(LookupError::new(-3, "try again")));
        assert_eq!(resolve(&failing, |_| true).unwrap_err().eai(), -3);
    }

    /// Every machine has this name, in /etc/hosts or by RFC 6761.
    #[test]
    fn the_system_knows_localhost() {
        let resolver = Resolver::system(Arc::default());
        let ask = |grants: fn(IpAddr) -> bool| ask(&resolver, &name("localhost"), grants);
        let answer = ask(|addr| addr.is_loopback()).unwrap();
        assert!(answer.addrs.iter().all(IpAddr::is_loopback) && !answer.addrs.is_empty());
        assert!(matches!(ask(|_| false), Err(ResolveError::NotPublic { .. })));
    }
}
