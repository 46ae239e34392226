//! Entries about HTTP requests: methods, a host, and a pattern over the path.

use failcore_model::{Text, url_path};
use serde::{Deserialize, Serialize};

use crate::error::Wrong;
use crate::host;
use crate::pattern::{Glob, Part, PatternError, alternatives, matches, part, split};
use crate::rule::{HostPattern, Object};

/// The port of a host that names none.
pub(crate) const HTTPS: u16 = 443;
/// Longest name of a method.
const MAX_METHOD: usize = 32;

/// A pattern over the path of a request in normal form (`failcore_model::url_path`).
///
/// It stands for what it matches and for nothing below; `**` at its end is all below, with the directory's own slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct UrlPattern {
    text: Text,
    parts: Vec<Part>,
}

impl UrlPattern {
    /// Reads a pattern without braces; it begins with `/`.
    ///
    /// # Errors
    /// [`PatternError`] says what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, PatternError> {
        let below = text.strip_prefix(b"/").ok_or(failcore_model::PathError::Relative)?;
        let mut parts = Vec::new();
        for component in split(below) {
            match component {
                b"**" if parts.last() == Some(&Part::Deep) => {}
                b"**" => parts.push(Part::Deep),
                _ => parts.push(part(component)?),
            }
        }
        // One segment or more, of which the last may be empty.
        if parts.last() == Some(&Part::Deep) {
            parts.push(Part::Glob(Glob::parse(b"*")?));
        }
        Ok(Self { text: text.into(), parts })
    }

    /// Whether a path in normal form is matched.
    pub fn matches(&self, path: &str) -> bool {
        let Some(below) = path.strip_prefix('/') else { return false };
        let segments: Vec<&[u8]> = below.as_bytes().split(|byte| *byte == b'/').collect();
        matches(&self.parts, &segments)
    }

    /// The one path it matches, where it has no wildcard.
    fn literal(&self) -> Option<String> {
        self.parts.iter().try_fold(String::new(), |path, part| match part {
            Part::Literal(name) => Some(path + "/" + std::str::from_utf8(name).ok()?),
            _ => None,
        })
    }
}

impl std::fmt::Display for UrlPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text.as_str().unwrap_or_default())
    }
}

impl TryFrom<Text> for UrlPattern {
    type Error = PatternError;

    fn try_from(text: Text) -> Result<Self, PatternError> {
        Self::parse(text.as_bytes())
    }
}

impl From<UrlPattern> for Text {
    fn from(pattern: UrlPattern) -> Self {
        pattern.text
    }
}

/// Reads `METHODS host[:port]/path`, as `GET,HEAD api.example.com/repos/**`; `*` is any method.
pub(crate) fn requests(text: &str) -> Result<Vec<Object>, Wrong> {
    let example = "as `GET api.example.com/repos/**`";
    let (methods, rest) = text
        .split_once(char::is_whitespace)
        .ok_or_else(|| Wrong::new(format!("`{text}` is no method and URL")).help(example))?;
    let methods = self::methods(methods)?;
    let rest = rest.trim();
    if rest.contains("://") {
        return Err(Wrong::new(format!("`{rest}` begins with a scheme"))
            .help("name host and path alone; whoever speaks TLS to the program is spoken TLS to"));
    }
    if rest.contains(['?', '#']) {
        return Err(Wrong::new(format!("`{rest}` goes on after the path"))
            .help("a rule speaks of the path; whatever query follows it is permitted with it"));
    }
    let Some(slash) = rest.find('/') else {
        return Err(Wrong::new(format!("`{rest}` has no path"))
            .help(format!("write `{rest}/**` for every path, or `{rest}/` for that one")));
    };
    let (host, path) = rest.split_at(slash);
    let (host, ports) = host::named(host, HTTPS)?;
    if matches!(host, HostPattern::Range(_) | HostPattern::Class(_)) {
        return Err(Wrong::new(format!("`{text}` is about an address"))
            .help("requests are judged by the name that they are for: name the host"));
    }
    let wrong = |error: PatternError| Wrong::new(error.to_string());
    let mut objects = Vec::new();
    for path in alternatives(path.as_bytes()).map_err(wrong)? {
        let path = UrlPattern::parse(&path).map_err(wrong)?;
        if let Some(literal) = path.literal() {
            match url_path(&literal) {
                Ok(normal) if normal == literal => {}
                Ok(normal) => {
                    return Err(Wrong::new(format!("`{literal}` is judged as `{normal}`"))
                        .help("write it so; a rule sees paths in their normal form"));
                }
                Err(error) => {
                    return Err(Wrong::new(format!("no request for `{literal}` is carried: {error}")));
                }
            }
        }
        objects.push(Object::Http { methods: methods.clone(), host: host.clone(), ports, path });
    }
    Ok(objects)
}

/// Headers that say how a message is to be read or passed on, which are the relay's.
const FRAMING: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "proxy-connection",
    "content-encoding",
];

/// Checks the name of a header, in small letters, that a credential sets.
pub(crate) fn check_header(name: &str) -> Result<(), Wrong> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(Wrong::new(format!("`{name}` is no header")).help("as `Authorization` or `X-Api-Key`"));
    }
    if FRAMING.contains(&name) {
        return Err(Wrong::new(format!("`{name}` says how a request is read, and holds no secret")));
    }
    Ok(())
}

/// The methods of an entry; nothing for any.
fn methods(text: &str) -> Result<Vec<String>, Wrong> {
    if text == "*" {
        return Ok(Vec::new());
    }
    let methods: Vec<String> = text.split(',').map(str::to_owned).collect();
    match methods.iter().find(|method| !is_method(method)) {
        None => Ok(methods),
        Some(method) => Err(Wrong::new(format!("`{method}` is no method"))
            .help("methods are written in capitals, as `GET,HEAD`; `*` is any")),
    }
}

/// Whether a word is a method: of capitals alone, since methods differ by case (RFC 9110 section 9.1) and some servers
/// do not know that.
pub(crate) fn is_method(word: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_';
    !word.is_empty() && word.len() <= MAX_METHOD && word.bytes().all(known) && word != "CONNECT"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match requests(text) {
            Ok(objects) => objects
                .iter()
                .map(|object| match object {
                    Object::Http { methods, host, ports: (low, high), path } => {
                        format!("{} {host:?} {low}-{high} {path}", methods.join(","))
                    }
                    other => format!("{other:?}"),
                })
                .collect::<Vec<_>>()
                .join(" | "),
            Err(wrong) => format!("wrong: {}", wrong.message),
        }
    }

    #[test]
    fn entries() {
        assert_eq!(read("GET api.test/repos/**"), "GET Name(api.test) 443-443 /repos/**");
        assert_eq!(
            read("GET,HEAD  *.api.test:8443/{a,b/c}"),
            "GET,HEAD Below(api.test) 8443-8443 /a | GET,HEAD Below(api.test) 8443-8443 /b/c"
        );
        assert_eq!(read("* localhost:80/"), " Localhost 80-80 /");
        assert_eq!(read("POST *:*/**"), "POST Any 0-65535 /**");
        for text in [
            "api.test/x",
            "get api.test/x",
            "GET, api.test/x",
            "CONNECT api.test/",
            "GET https://api.test/",
            "GET api.test",
            "GET api.test/a?b=c",
            "GET 10.0.0.1/",
            "GET [::1]/",
            "GET 10.0.0.0/8",
            "GET api.test/a/../b",
            "GET api.test/a//b",
            "GET api.test/%61",
            "GET api.test/a b",
            "GET api.test/a**",
            "GET *.com/",
        ] {
            assert!(read(text).starts_with("wrong: "), "{text}: {}", read(text));
        }
    }

    #[test]
    fn paths() {
        let cases = [
            ("/**", "/", true),
            ("/**", "/a/b/", true),
            ("/", "/", true),
            ("/", "/a", false),
            ("/repos/**", "/repos", false),
            ("/repos/**", "/repos/", true),
            ("/repos/**", "/repos/a/b", true),
            ("/repos/**", "/repository", false),
            ("/repos/*", "/repos/a", true),
            ("/repos/*", "/repos/a/b", false),
            ("/repos", "/repos", true),
            ("/repos", "/repos/", false),
            ("/repos", "/repos/a", false),
            ("/a/**/z", "/a/z", true),
            ("/a/**/z", "/a/b/c/z", true),
            ("/v[12]/*.json", "/v2/x.json", true),
            ("/v[12]/*.json", "/v3/x.json", false),
        ];
        for (pattern, path, expected) in cases {
            let parsed = UrlPattern::parse(pattern.as_bytes()).unwrap();
            assert_eq!(parsed.matches(path), expected, "{pattern} {path}");
        }
    }
}
