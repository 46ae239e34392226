//! Taking secrets out of records before they are written.
//!
//! Most records hold none, so a record is first searched, as the bytes it will be written as, for any sign of one;
//! only then are its strings looked at one by one, decoded, so that no escape hides a secret.

use std::borrow::Cow;
use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

use failcore_model::Request;
use hmac::{Hmac, Mac};
use memchr::memmem::{self, Finder};
use sha2::Sha256;

use crate::shapes::{self, SHAPES};
use crate::{SigningKey, TraceError};

/// Replaces secrets by `[redacted:NAME:digest]`, the digest keyed, so that equal secrets still compare equal.
///
/// # Security
/// Known shapes are found, not secrets as such: see `docs/trace.md` for the list. The digest is 48 bits of
/// HMAC-SHA-256 under a key derived from the user's signing key: without it, guesses cannot be tried.
#[derive(Clone, Default)]
pub struct Redactor {
    key: [u8; 32],
    values: Vec<Value>,
}

/// The value of a listed environment variable.
#[derive(Clone)]
struct Value {
    name: String,
    bytes: Vec<u8>,
    /// The same as it stands in JSON, where it is text.
    json: Option<Finder<'static>>,
}

/// Shortest value of a listed variable that is looked for: shorter ones would be found everywhere.
const MIN_VALUE: usize = 6;
/// The same for variables that were only guessed to hold a secret from their names.
const MIN_GUESSED: usize = 12;

impl Redactor {
    /// Takes out the value of environment variable `name` too, wherever it occurs; values of fewer than six bytes
    /// are left.
    pub fn with_env(mut self, name: &str, value: &[u8]) -> Self {
        if value.len() >= MIN_VALUE {
            let name = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let quoted = std::str::from_utf8(value).ok().and_then(|text| serde_json::to_string(text).ok());
            let json = quoted.map(|text| Finder::new(&text.as_bytes()[1..text.len() - 1]).into_owned());
            self.values.push(Value { name, bytes: value.into(), json });
        }
        self
    }

    /// Takes out the values of those variables whose names say that they hold a secret, such as `OPENAI_API_KEY`,
    /// `DB_PASSWORD` or `GITHUB_TOKEN`, where they have at least twelve bytes.
    pub fn with_secrets_of(self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        environment.into_iter().fold(self, |redactor, (name, value)| match name.to_str() {
            Some(name) if value.len() >= MIN_GUESSED && shapes::names_a_secret(name) => {
                redactor.with_env(name, value.as_bytes())
            }
            _ => redactor,
        })
    }

    /// Takes out what [`Redactor::with_secrets_of`] does, and the values of those variables that are `listed`.
    pub fn of_environment(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        listed: impl Fn(&[u8]) -> bool,
    ) -> Self {
        let (listed, others): (Vec<_>, Vec<_>) =
            environment.into_iter().partition(|(name, _)| listed(name.as_bytes()));
        listed.into_iter().fold(Self::default().with_secrets_of(others), |redactor, (name, value)| {
            redactor.with_env(&name.to_string_lossy(), value.as_bytes())
        })
    }

    /// Whether there is a secret in `bytes`.
    ///
    /// A file of source code says where its secrets come from (`api_key=os.environ["KEY"]`), which is none.
    pub fn finds(&self, bytes: &[u8]) -> bool {
        self.find(bytes).iter().any(|(name, at)| !shapes::is_code(name, bytes, at))
    }

    /// The same, with digests keyed for one user.
    pub(crate) fn keyed(mut self, key: &SigningKey) -> Self {
        self.key = key.derive(b"failcore redaction 1");
        self
    }

    /// Redacts the JSON of an event that stands in `line` from `body` on.
    pub(crate) fn redact_body(&self, line: &mut Vec<u8>, body: usize) -> Result<(), TraceError> {
        let json = &line[body..];
        let listed = |value: &Value| value.json.as_ref().is_some_and(|value| value.find(json).is_some());
        if !shapes::any_sign(json) && !self.values.iter().any(listed) {
            return Ok(());
        }
        let Some(redacted) = self.redact_json(&line[body..]) else { return Ok(()) };
        // A marker is longer than some secrets: what had a limit may be over it now.
        serde_json::from_slice::<failcore_model::Event>(&redacted)
            .map_err(|e| TraceError::Unredactable(e.to_string()))?;
        line.truncate(body);
        line.extend_from_slice(&redacted);
        Ok(())
    }

    /// The JSON with its secrets taken out; `None` where there are none.
    fn redact_json(&self, json: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut copied = 0;
        let mut key: &[u8] = b"";
        // Whether the string before was an option that takes a secret, such as `--password`.
        let mut announced = false;
        for token in strings(json) {
            let raw = &json[token.clone()];
            if json.get(token.end) == Some(&b':') {
                (key, announced) = (&raw[1..raw.len() - 1], false);
                continue;
            }
            let Ok(text) = serde_json::from_slice::<Cow<'_, str>>(raw) else { continue };
            let bytes = if key == b"hex" { unhex(&text) } else { Some(Cow::Borrowed(text.as_bytes())) };
            let Some(bytes) = bytes else { continue };
            let whole = std::mem::replace(&mut announced, shapes::announces(&bytes));
            let found = if whole { vec![("option", 0..bytes.len())] } else { self.find(&bytes) };
            if found.is_empty() {
                continue;
            }
            let clean = self.replace(&bytes, found, matches!(key, b"host" | b"names"));
            out.extend_from_slice(&json[copied..token.start]);
            copied = token.end;
            let text = if key == b"hex" { Cow::Owned(hex(&clean)) } else { String::from_utf8_lossy(&clean) };
            // Strings always serialise into memory.
            serde_json::to_writer(&mut out, &text).ok()?;
        }
        (copied > 0).then(|| {
            out.extend_from_slice(&json[copied..]);
            out
        })
    }

    /// Where the secrets are, in order and apart, with the name of their shape.
    fn find(&self, bytes: &[u8]) -> Vec<(&str, Range<usize>)> {
        let mut found: Vec<(&str, Range<usize>)> = Vec::new();
        for Value { name, bytes: value, .. } in &self.values {
            let places = memmem::find_iter(bytes, value);
            found.extend(places.map(|at| (name.as_str(), at..at + value.len())));
        }
        if SHAPES.any.is_match(bytes) {
            for shape in &SHAPES.each {
                let secrets =
                    shape.pattern.captures_iter(bytes).filter_map(|m| m.get(1).or_else(|| m.get(0)));
                found.extend(secrets.map(|secret| (shape.name, secret.range())));
            }
        }
        // The longest of those that overlap, and nothing of an earlier redaction.
        found.sort_by_key(|(_, range)| (range.start, usize::MAX - range.end));
        let mut end = 0;
        found.retain(|(_, range)| {
            let keep = range.start >= end && !bytes[range.clone()].starts_with(MARK.as_bytes());
            end = if keep { range.end } else { end };
            keep
        });
        found
    }

    fn replace(&self, bytes: &[u8], found: Vec<(&str, Range<usize>)>, host: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut copied = 0;
        for (name, range) in found {
            out.extend_from_slice(&bytes[copied..range.start]);
            let digest = hex(&hmac(&self.key, &bytes[range.clone()])[..6]);
            let marker = match host {
                // A host name has no brackets.
                true => format!("{HOST_MARK}{name}-{digest}"),
                false => format!("{MARK}{name}:{digest}]"),
            };
            out.extend_from_slice(marker.as_bytes());
            copied = range.end;
        }
        out.extend_from_slice(&bytes[copied..]);
        out
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.values.iter().map(|value| value.name.as_str()).collect();
        f.debug_struct("Redactor").field("values_of", &names).finish_non_exhaustive()
    }
}

/// A text with `[redacted:NAME]` in place of the secrets in it that have a known shape: for what is not a trace and is
/// read on other machines, where a keyed digest would mean nothing.
pub fn without_secrets(text: &str) -> String {
    let found = Redactor::default();
    let found = found.find(text.as_bytes());
    let (mut out, mut copied) = (String::with_capacity(text.len()), 0);
    for (name, Range { start, end }) in found {
        // Patterns match whole characters; where one should not, nothing is taken out but all.
        let Some(before) = text.get(copied..start).filter(|_| text.is_char_boundary(end)) else {
            return format!("{MARK}{name}]");
        };
        out.push_str(before);
        out.push_str(MARK);
        out.push_str(name);
        out.push(']');
        copied = end;
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    out
}

const MARK: &str = "[redacted:";
const HOST_MARK: &str = "redacted-";

/// What both have in common.
static SIGN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("redacted"));

/// Whether something was taken out of this text before it was written.
pub fn is_redacted(text: &[u8]) -> bool {
    if SIGN.find(text).is_none() {
        return false;
    }
    let digest = |rest: &[u8]| rest.len() == 12 && rest.iter().all(u8::is_ascii_hexdigit);
    let marker = memmem::find_iter(text, MARK).any(|at| {
        let rest = &text[at + MARK.len()..];
        let end = memchr::memchr(b']', rest).unwrap_or(0);
        rest[..end].rsplit(|b| *b == b':').next().is_some_and(digest)
    });
    marker
        || text.split(|b| *b == b'.').any(|label| {
            memmem::find(label, HOST_MARK.as_bytes()).is_some()
                && label
                    .rsplit(|b| *b == b'-')
                    .next()
                    .is_some_and(|rest| rest.len() >= 12 && digest(&rest[..12]))
        })
}

/// The first part of a request that was redacted when it was recorded, by its name in the record. A decision that
/// depends on it cannot be made again.
pub fn redacted_field(request: &Request) -> Option<&'static str> {
    use failcore_model::{Action, Endpoint, FileRef, NativeObject, UnixAddr};
    let file = |file: &FileRef| is_redacted(file.path.as_bytes()).then_some("path");
    let unix = |addr: &UnixAddr| match addr {
        UnixAddr::Path(at) => file(at),
        UnixAddr::Abstract(name) => is_redacted(name.as_bytes()).then_some("abstract"),
        UnixAddr::Unnamed => None,
    };
    let action = match &request.action {
        Action::Open { file: at, .. }
        | Action::Read(at)
        | Action::Create(at)
        | Action::Modify(at)
        | Action::Delete(at)
        | Action::Attr(at)
        | Action::Symlink { at, .. }
        | Action::Load(NativeObject::Library(at)) => file(at),
        Action::Rename { from, to } | Action::Link { from, to } => file(from).or_else(|| file(to)),
        Action::Resolve(host) => is_redacted(host.as_str().as_bytes()).then_some("host"),
        Action::Connect(at) | Action::Send(at) | Action::Bind(at) | Action::Listen(at) => match at {
            Endpoint::Unix(addr) => unix(addr),
            Endpoint::Inet { .. } | Endpoint::Other { .. } => None,
        },
        Action::IpcConnect(addr) => unix(addr),
        Action::Http { host, .. } if is_redacted(host.as_str().as_bytes()) => Some("host"),
        Action::Http { path, .. } => is_redacted(path.as_bytes()).then_some("url_path"),
        Action::Exec { image, argv } => {
            file(image).or_else(|| argv.iter().any(|arg| is_redacted(arg.as_bytes())).then_some("argv"))
        }
        Action::EnvRead(name) | Action::KernelCall(name) | Action::Unmapped(name) => {
            is_redacted(name.as_bytes()).then_some("name")
        }
        Action::Socket { .. }
        | Action::Signal { .. }
        | Action::Trace { .. }
        | Action::Limit { .. }
        | Action::Load(NativeObject::Ffi) => None,
    };
    let names =
        || request.context.names.iter().any(|name| is_redacted(name.as_str().as_bytes())).then_some("names");
    let scope =
        || request.subject.claimed.scope.iter().any(|tool| is_redacted(tool.as_bytes())).then_some("scope");
    action.or_else(names).or_else(scope)
}

/// The string literals of a JSON text, quotes included.
fn strings(json: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + memchr::memchr(b'"', json.get(at..)?)?;
        let mut end = start + 1;
        loop {
            end += memchr::memchr2(b'"', b'\\', json.get(end..)?)?;
            if json[end] == b'"' {
                break;
            }
            end += 2;
        }
        at = end + 1;
        Some(start..at)
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn unhex(text: &str) -> Option<Cow<'static, [u8]>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    Some(digits?.chunks(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect::<Vec<u8>>().into())
}

pub(crate) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
    mac.update(message);
    mac.finalize().into_bytes().into()
}
