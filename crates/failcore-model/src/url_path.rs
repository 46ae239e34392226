//! The path of an HTTP request in the one form that rules see.

/// Reads the path of a request target, without its query, into its normal form: percent-encoded characters that need no
/// encoding are decoded, the others keep it, in capitals (RFC 3986 section 6.2.2).
///
/// ```
/// use failcore_model::url_path;
/// assert_eq!(url_path("/r%65pos/a%20b%c3%a9").unwrap(), "/repos/a%20b%C3%A9");
/// assert!(url_path("/a/%2e%2e/b").is_err());
/// ```
///
/// # Errors
/// [`UrlPathError`] for what two programs would read differently.
///
/// # Security
/// The path is written by the agent, and read again by a server that nobody here knows: what some server takes for another
/// path than this one is refused and not repaired.
pub fn url_path(raw: &str) -> Result<String, UrlPathError> {
    if !raw.starts_with('/') {
        return Err(UrlPathError::Relative);
    }
    let mut normal = String::with_capacity(raw.len());
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            if !first.is_ascii_graphic() || matches!(first, b'\\' | b'?' | b'#') {
                return Err(UrlPathError::Character);
            }
            normal.push(char::from(*first));
            decoded.push(*first);
            continue;
        }
        let byte = escaped(rest).ok_or(UrlPathError::Escape)?;
        match byte {
            b'/' | b'\\' => return Err(UrlPathError::Slash),
            0..0x20 | 0x7f => return Err(UrlPathError::Control),
            b'-' | b'.' | b'_' | b'~' => normal.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => normal.push(char::from(byte)),
            _ => normal.push_str(&format!("%{byte:02X}")),
        }
        decoded.push(byte);
        rest = &rest[2..];
    }
    // Also where the digits are encoded themselves: `%252%65`.
    if (0..decoded.len()).any(|at| decoded[at] == b'%' && escaped(&decoded[at + 1..]).is_some()) {
        return Err(UrlPathError::Twice);
    }
    // Overlong forms of a dot or a slash are no UTF-8, and some decoders take them all the same.
    if std::str::from_utf8(&decoded).is_err() {
        return Err(UrlPathError::Text);
    }
    let mut segments = decoded[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // Some servers cut parameters off before they look for dots.
        match segment.split(|byte| *byte == b';').next() {
            Some(b"." | b"..") => return Err(UrlPathError::Dots),
            Some(b"") if segments.peek().is_some() || !segment.is_empty() => return Err(UrlPathError::Empty),
            _ => {}
        }
    }
    Ok(normal)
}

/// The byte that two hexadecimal digits stand for.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// Why a path is none that everybody reads alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlPathError {
    /// It does not begin with a slash.
    #[error("it does not begin with `/`")]
    Relative,
    /// A space, a backslash, a control character, what is not ASCII.
    #[error("it has a character that must be percent-encoded, or must not be there")]
    Character,
    /// `%` without two hexadecimal digits.
    #[error("`%` is followed by no two hexadecimal digits")]
    Escape,
    /// `%2F`, `%5C`.
    #[error("it has an encoded slash, of which some programs make a slash")]
    Slash,
    /// `%00`, `%0D` and the like.
    #[error("it has an encoded control character")]
    Control,
    /// `%252e`.
    #[error("it is encoded twice")]
    Twice,
    /// No UTF-8 once decoded.
    #[error("it is no UTF-8 once decoded")]
    Text,
    /// A segment `.` or `..`, encoded or not, with parameters or without.
    #[error("it has a segment `.` or `..`")]
    Dots,
    /// `//`.
    #[error("it has an empty segment")]
    Empty,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_form_for_all_spellings() {
        for (raw, normal) in [
            ("/", "/"),
            ("/repos/", "/repos/"),
            ("/a%7Eb%2d%5F%2E", "/a~b-_."),
            ("/%61%62", "/ab"),
            ("/a%20b%3f%23", "/a%20b%3F%23"),
            ("/100%25", "/100%25"),
            ("/100%25-", "/100%25-"),
            ("/a;v=1/b@c:d,e", "/a;v=1/b@c:d,e"),
            ("/%e2%82%ac", "/%E2%82%AC"),
            ("/.well-known/...", "/.well-known/..."),
        ] {
            assert_eq!(url_path(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn what_two_programs_read_differently_is_refused() {
        for (raw, why) in [
            ("", UrlPathError::Relative),
            ("*", UrlPathError::Relative),
            ("http://a.example/", UrlPathError::Relative),
            ("/a b", UrlPathError::Character),
            ("/a\\b", UrlPathError::Character),
            ("/\u{e9}", UrlPathError::Character),
            ("/a?b", UrlPathError::Character),
            ("/%", UrlPathError::Escape),
            ("/%2", UrlPathError::Escape),
            ("/%g0", UrlPathError::Escape),
            ("/%u002e", UrlPathError::Escape),
            ("/a%2fb", UrlPathError::Slash),
            ("/a%5Cb", UrlPathError::Slash),
            ("/a%00", UrlPathError::Control),
            ("/a%0d%0aX:%20y", UrlPathError::Control),
            ("/%252e%252e/", UrlPathError::Twice),
            ("/%252%65/", UrlPathError::Twice),
            ("/%25%32%65/", UrlPathError::Twice),
            ("/%c0%ae%c0%ae/", UrlPathError::Text),
            ("/%ff", UrlPathError::Text),
            ("/..", UrlPathError::Dots),
            ("/a/./b", UrlPathError::Dots),
            ("/a/%2e%2E/b", UrlPathError::Dots),
            ("/a/.%2e", UrlPathError::Dots),
            ("/a/..;x=1/b", UrlPathError::Dots),
            ("/a/..%3bx/b", UrlPathError::Dots),
            ("//", UrlPathError::Empty),
            ("/a//b", UrlPathError::Empty),
            ("/;x/b", UrlPathError::Empty),
        ] {
            assert_eq!(url_path(raw), Err(why), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_one(raw in "/[a-z%0-9./;]{0,20}") {
            if let Ok(normal) = url_path(&raw) {
                prop_assert_eq!(url_path(&normal), Ok(normal.clone()));
                let dots = normal.split('/').any(|segment| segment == "." || segment == "..");
                prop_assert!(!dots && !normal.contains("//"));
            }
        }
    }
}
