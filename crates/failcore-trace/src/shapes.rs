//! The shapes that secrets have: of tokens by their issuers' prefixes, of headers, URLs and assignments.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, packed};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// One shape; what it takes out is its first group, or all of it where it has none.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) pattern: Regex,
}

pub(crate) struct Shapes {
    /// Whether any of them is there.
    pub(crate) any: RegexSet,
    pub(crate) each: Vec<Shape>,
}

/// The shape of fields that hold secrets.
const HEADER: &str = "header";
/// The shape of `password=…` and the like.
const ASSIGNMENT: &str = "assignment";

/// Names and patterns. Prefixes as their issuers document them.
const PATTERNS: &[(&str, &str)] = &[
    // OpenAI, Anthropic, OpenRouter and those that follow them; Stripe. `task-` and `disk-` are none.
    ("secret-key", r"\bsk-[A-Za-z0-9_-]{20,}"),
    ("secret-key", r"sk-(?:proj|ant|or|svcacct|admin)-[A-Za-z0-9_-]{20,}"),
    ("secret-key", r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("google", r"AIza[A-Za-z0-9_-]{35}"),
    ("huggingface", r"hf_[A-Za-z0-9]{30,}"),
    // https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/
    ("github", r"gh[pousr]_[A-Za-z0-9]{36,}"),
    ("github", r"github_pat_[A-Za-z0-9_]{22,}"),
    ("gitlab", r"glpat-[A-Za-z0-9_-]{20,}"),
    ("npm", r"npm_[A-Za-z0-9]{36}"),
    ("pypi", r"pypi-[A-Za-z0-9_-]{50,}"),
    // https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
    ("aws", r"(?:AKIA|ASIA)[A-Z0-9]{16}"),
    ("slack", r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    // RFC 7519: header and claims are base64url of `{"`.
    ("jwt", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    // RFC 7468.
    (
        "private-key",
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)",
    ),
    // RFC 6750.
    ("bearer", r"(?i)\bbearer\s+([A-Za-z0-9._~+/-]{16,}=*)"),
    (
        HEADER,
        r#"(?i)\b(?:(?:proxy-)?authorization|(?:x-)?api-key|x-auth-token|x-amz-security-token|(?:set-)?cookie)\s*:\s*([^\r\n"']+)"#,
    ),
    // RFC 3986 §3.2.1.
    ("url-password", r#"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@:"']*:([^\s/?#@"']+)@"#),
    (
        ASSIGNMENT,
        r#"(?i)\b[A-Z0-9_-]*(?:api_?key|access_?key|secret_?key|token|secret|password|passwd|credentials?|signature)=["']?([^\s"'&;]{6,})"#,
    ),
];

/// What a record with a secret holds somewhere, as it stands in JSON, in any letter case. The password of a URL, whose
/// only sign is common, is looked for apart.
const SIGNS: &[&str] = &[
    "sk-",
    "sk_",
    "rk_",
    "aiza",
    "hf_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "npm_",
    "pypi-",
    "akia",
    "asia",
    "xox",
    "eyj",
    "private key",
    "bearer",
    "authorization",
    "api-key",
    "auth-token",
    "security-token",
    "cookie",
    "key=",
    "token=",
    "secret=",
    "password=",
    "passwd=",
    "credential=",
    "credentials=",
    "signature=",
    "token\"",
    "secret\"",
    "password\"",
    "passwd\"",
    "key\"",
    // Bytes that are not UTF-8 stand there in hexadecimal.
    "{\"hex\":",
];

// Bytes, not characters: a word ends where a letter beyond ASCII begins. The patterns are constants that a test compiles.
pub(crate) static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let each = PATTERNS
        .iter()
        .filter_map(|(name, pattern)| {
            Some(Shape { name, pattern: RegexBuilder::new(pattern).unicode(false).build().ok()? })
        })
        .collect();
    let any = RegexSetBuilder::new(PATTERNS.iter().map(|(_, pattern)| pattern))
        .unicode(false)
        .build()
        .unwrap_or_else(|_| RegexSet::empty());
    Shapes { any, each }
});

/// Finds any sign in text whose letters were made small by [`fold`].
enum Signs {
    /// Vectorised; not there on every machine.
    Packed(packed::Searcher),
    Any(AhoCorasick),
    /// Everything may be one.
    None,
}

static FINDER: LazyLock<Signs> = LazyLock::new(|| {
    let folded = || SIGNS.iter().map(|sign| sign.bytes().map(fold).collect::<Vec<u8>>());
    match packed::Config::new().builder().extend(folded()).build() {
        Some(packed) => Signs::Packed(packed),
        None => AhoCorasick::new(folded()).map_or(Signs::None, Signs::Any),
    }
});

/// Small letters for capital ones; what else becomes equal only costs a closer look.
fn fold(byte: u8) -> u8 {
    byte | 0x20
}

/// A name without digits, what is called or looked up by it, or the same as an argument before others.
static CODE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[A-Za-z_]+(?:\.[A-Za-z_]+)*(?:[\[(].*|[),:\]}]+)$").ok());

/// Whether what stands at `at` in a text and has this shape says in some programming language where a value comes from,
/// rather than being one.
pub(crate) fn is_code(shape: &str, text: &[u8], at: &Range<usize>) -> bool {
    if shape == HEADER {
        return text[at.clone()].iter().any(|byte| b"${<".contains(byte));
    }
    if shape != ASSIGNMENT {
        return false;
    }
    let quoted = at.start.checked_sub(1).is_some_and(|before| matches!(text[before], b'"' | b'\''));
    !quoted && CODE.as_ref().is_some_and(|code| code.is_match(&text[at.clone()]))
}

static OPTION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i-u)\A--?(?:[a-z0-9]+[-_])*(?:api-?key|token|secret|password|passwd|key)\z").ok()
});

/// Whether a text may hold a secret: cheap, and never wrongly no.
pub(crate) fn any_sign(json: &[u8]) -> bool {
    const WINDOW: usize = 1024;
    const OVERLAP: usize = 32;
    let mut window = [0u8; WINDOW];
    let mut start = 0;
    loop {
        let part = &json[start..json.len().min(start + WINDOW)];
        for (small, byte) in window.iter_mut().zip(part) {
            *small = fold(*byte);
        }
        if FINDER.is_match(&window[..part.len()]) {
            return true;
        }
        if start + part.len() == json.len() {
            break;
        }
        start += WINDOW - OVERLAP;
    }
    memchr::memchr(b'@', json).is_some() && memchr::memmem::find(json, b"://").is_some()
}

/// Whether a command's argument says that the next one is a secret, as `--password` does.
pub(crate) fn announces(argument: &[u8]) -> bool {
    argument.starts_with(b"-") && OPTION.as_ref().is_none_or(|option| option.is_match(argument))
}

/// Whether an environment variable of this name holds a secret.
pub(crate) fn names_a_secret(variable: &str) -> bool {
    const ENDS: [&str; 9] = [
        "API_KEY",
        "APIKEY",
        "ACCESS_KEY",
        "SECRET_KEY",
        "PRIVATE_KEY",
        "TOKEN",
        "SECRET",
        "PASSWORD",
        "PASSWD",
    ];
    let upper = variable.to_ascii_uppercase();
    ENDS.iter().any(|end| upper.ends_with(end))
}

impl Signs {
    fn is_match(&self, folded: &[u8]) -> bool {
        match self {
            Self::Packed(packed) => packed.find(folded).is_some(),
            Self::Any(any) => any.is_match(folded),
            Self::None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(SHAPES.each.len(), PATTERNS.len());
        assert_eq!(SHAPES.any.len(), PATTERNS.len());
        assert!(!matches!(*FINDER, Signs::None) && OPTION.is_some());
        assert!(SIGNS.iter().all(|sign| sign.len() <= 32));
    }

    #[test]
    fn code_says_where_a_secret_comes_from_and_holds_none() {
        let redactor = crate::Redactor::default();
        for code in [
            r#"Client(api_key=os.environ["OPENAI_API_KEY"])"#,
            "login(user, password=password, token=token)",
            "secret = read(secret_key=settings.SECRET_KEY)",
            "auth(token=get_token(name), x=1)",
            "-H 'Authorization: Bearer $TOKEN'",
            r#"f"Authorization: Bearer {key}""#,
        ] {
            assert!(!redactor.finds(code.as_bytes()), "{code}");
        }
        for secret in [
            r#"Client(api_key="hunter2hunter2")"#,
            "PASSWORD=correcthorse\n",
            "token=abcdef123456)",
            "Authorization: Basic dXNlcjpwYXNz",
            "password=x9(7]qqqqq",
        ] {
            assert!(redactor.finds(secret.as_bytes()), "{secret}");
        }
    }

    #[test]
    fn a_sign_is_seen_wherever_it_stands() {
        for at in 0..2100 {
            let mut text = vec![b'.'; 2200];
            text[at..at + 14].copy_from_slice(b"Security-Token");
            assert!(any_sign(&text), "at {at}");
        }
        assert!(!any_sign(&[b'.'; 5000]));
        assert!(any_sign(b"postgres://user:x@db"));
    }
}
