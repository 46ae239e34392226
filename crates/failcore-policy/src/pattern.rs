//! Patterns over paths and names: `*`, `?`, `[..]` within a component, `**` for any number of components, `{a,b}`.
//!
//! A backslash takes the next character as it is; whatever `~` and `${VAR}` bring in is escaped that way, so
//! that a home directory named `a*b` is no pattern.

use std::fmt;

use failcore_model::{AbsPath, PathError, Text};
use serde::{Deserialize, Serialize};

/// Alternatives that one pattern may come to; more is a mistake, or an attempt to make loading slow.
const MAX_ALTERNATIVES: usize = 256;

/// A path pattern in absolute form, without alternatives.
///
/// It stands for what it matches and for everything below that.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Pattern {
    text: Text,
    parts: Vec<Part>,
}

/// One component of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// Exactly these bytes.
    Literal(Box<[u8]>),
    /// One component that this glob matches.
    Glob(Glob),
    /// Any number of components, none included.
    Deep,
}

/// Why some text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Not a path that the kernel would take.
    #[error(transparent)]
    Path(#[from] PathError),
    /// `**` beside other characters.
    #[error("`**` stands for whole components: write `**/` or `/**`")]
    Deep,
    /// `..` after a wildcard, where it cannot be folded.
    #[error("`..` cannot follow a wildcard")]
    Parent,
    /// An opening bracket or brace without its end.
    #[error("`{0}` is never closed; write `\\\\{0}` for the character itself")]
    Unclosed(char),
    /// `[z-a]`, `[]`.
    #[error("`[..]` holds no character or a range that runs backwards")]
    Class,
    /// Too many alternatives.
    #[error("the braces come to more than {MAX_ALTERNATIVES} patterns")]
    TooMany,
}

impl Pattern {
    /// The one path, where the pattern has no wildcard.
    pub fn literal(&self) -> Option<AbsPath> {
        let mut path = Vec::new();
        for part in &self.parts {
            let Part::Literal(name) = part else { return None };
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() { Some(AbsPath::root()) } else { AbsPath::new(&path).ok() }
    }

    /// What it begins with up to its first wildcard; nothing, where that is the root.
    pub fn root(&self) -> Option<AbsPath> {
        let literal = |part: &Part| match part {
            Part::Literal(name) => Some([b"/", &name[..]].concat()),
            Part::Glob(_) | Part::Deep => None,
        };
        let path: Vec<u8> = self.parts.iter().map_while(literal).flatten().collect();
        AbsPath::new(&path).ok()
    }

    /// A pattern for exactly this path.
    pub fn of(path: &AbsPath) -> Self {
        let parts: Vec<_> = path.components().map(|c| Part::Literal(c.into())).collect();
        Self { text: escape(path.as_bytes()).into(), parts }
    }

    /// The components.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether it begins with `**`, and so means the same wherever a directory is moved.
    pub fn floats(&self) -> bool {
        self.parts.first() == Some(&Part::Deep)
    }

    /// Reads a pattern without braces. `**` at its start means anywhere; otherwise it must begin with `/`.
    ///
    /// # Errors
    /// [`PatternError`] says what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, PatternError> {
        let anywhere = text == b"**" || text.starts_with(b"**/");
        if text.contains(&0) {
            return Err(PathError::Nul.into());
        }
        if text.first() != Some(&b'/') && !anywhere {
            return Err(PathError::Relative.into());
        }
        let mut parts: Vec<Part> = Vec::new();
        for component in split(text) {
            match component {
                b"" | b"." => {}
                b".." => match parts.pop() {
                    None | Some(Part::Literal(_)) => {}
                    Some(_) => return Err(PatternError::Parent),
                },
                b"**" if parts.last() == Some(&Part::Deep) => {}
                b"**" => parts.push(Part::Deep),
                _ => parts.push(part(component)?),
            }
        }
        // `**` at the end means all below, not the directory itself.
        if parts.last() == Some(&Part::Deep) {
            parts.push(Part::Glob(Glob::parse(b"*")?));
        }
        let text = parts.iter().fold(Vec::new(), |mut text, part| {
            match part {
                Part::Literal(name) => {
                    text.push(b'/');
                    text.extend(escape(name));
                }
                Part::Glob(glob) => {
                    text.push(b'/');
                    text.extend_from_slice(glob.text());
                }
                Part::Deep if text.is_empty() => text.extend_from_slice(b"**"),
                Part::Deep => text.extend_from_slice(b"/**"),
            }
            text
        });
        let text = if text.is_empty() { b"/".to_vec() } else { text };
        Ok(Self { text: text.into(), parts })
    }

    /// Whether `path`, or a directory above it, is matched; the specification of what the compiled index does.
    pub fn covers(&self, path: &AbsPath) -> bool {
        let components: Vec<&[u8]> = path.components().collect();
        (0..=components.len()).any(|n| matches(&self.parts, &components[..n]))
    }
}

pub(crate) fn matches(parts: &[Part], components: &[&[u8]]) -> bool {
    match (parts, components) {
        ([], []) => true,
        ([Part::Deep, rest @ ..], _) => {
            matches(rest, components) || (!components.is_empty() && matches(parts, &components[1..]))
        }
        ([Part::Literal(name), rest @ ..], [first, more @ ..]) => **name == **first && matches(rest, more),
        ([Part::Glob(glob), rest @ ..], [first, more @ ..]) => glob.matches(first) && matches(rest, more),
        _ => false,
    }
}

pub(crate) fn part(component: &[u8]) -> Result<Part, PatternError> {
    let glob = Glob::parse(component)?;
    Ok(match glob.literal() {
        Some(name) => {
            if name.len() > 255 {
                return Err(PathError::TooLong.into());
            }
            Part::Literal(name.into())
        }
        None if component.windows(2).any(|w| w == b"**") => return Err(PatternError::Deep),
        None => Part::Glob(glob),
    })
}

/// Splits at slashes that no backslash precedes.
pub(crate) fn split(text: &[u8]) -> Vec<&[u8]> {
    let (mut out, mut start, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            b'/' => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    out.push(&text[start..]);
    out
}

/// Takes every special character as itself.
pub(crate) fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if b"*?[]{}\\~$".contains(byte) {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out
}

/// Writes out the alternatives in braces, which may nest and hold slashes.
///
/// # Errors
/// An unclosed brace, or too many alternatives.
pub(crate) fn alternatives(text: &[u8]) -> Result<Vec<Vec<u8>>, PatternError> {
    let mut done = Vec::new();
    let mut todo = vec![text.to_vec()];
    while let Some(text) = todo.pop() {
        let Some((open, commas, close)) = brace(&text)? else {
            done.push(text);
            continue;
        };
        let mut start = open + 1;
        for end in commas.into_iter().chain([close]) {
            todo.push([&text[..open], &text[start..end], &text[close + 1..]].concat());
            start = end + 1;
        }
        if done.len() + todo.len() > MAX_ALTERNATIVES {
            return Err(PatternError::TooMany);
        }
    }
    done.sort();
    done.dedup();
    Ok(done)
}

/// The first brace: its place, its own commas, its end.
fn brace(text: &[u8]) -> Result<Option<(usize, Vec<usize>, usize)>, PatternError> {
    let (mut open, mut depth, mut commas, mut at) = (0, 0usize, Vec::new(), 0);
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            b'{' => {
                if depth == 0 {
                    open = at;
                }
                depth += 1;
            }
            b',' if depth == 1 => commas.push(at),
            b'}' if depth == 1 => return Ok(Some((open, commas, at))),
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    if depth > 0 { Err(PatternError::Unclosed('{')) } else { Ok(None) }
}

/// A glob over one component or a whole name, as `LC_*`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Glob {
    text: Text,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Token {
    Byte(u8),
    One,
    Star,
    Class { not: bool, ranges: Vec<(u32, u32)> },
}

impl Token {
    fn byte(&self) -> Option<u8> {
        if let Self::Byte(byte) = self { Some(*byte) } else { None }
    }
}

impl Glob {
    /// Reads `*`, `?`, `[..]`, `[!..]` and `\x`.
    ///
    /// # Errors
    /// [`PatternError::Unclosed`], [`PatternError::Class`].
    pub fn parse(text: &[u8]) -> Result<Self, PatternError> {
        let (mut tokens, mut rest) = (Vec::new(), text);
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match first {
                b'*' if tokens.last() == Some(&Token::Star) => {}
                b'*' => tokens.push(Token::Star),
                b'?' => tokens.push(Token::One),
                b'[' => {
                    let (class, after) = class(rest)?;
                    tokens.push(class);
                    rest = after;
                }
                b'\\' if !rest.is_empty() => {
                    tokens.push(Token::Byte(rest[0]));
                    rest = &rest[1..];
                }
                byte => tokens.push(Token::Byte(*byte)),
            }
        }
        Ok(Self { text: text.into(), tokens })
    }

    /// Takes an escaped name, which cannot fail.
    pub(crate) fn literally(escaped: &[u8]) -> Self {
        let mut bytes = escaped.iter();
        let next = |b: &u8, bytes: &mut std::slice::Iter<'_, u8>| {
            if *b == b'\\' { bytes.next().copied().unwrap_or(*b) } else { *b }
        };
        let mut tokens = Vec::new();
        while let Some(byte) = bytes.next() {
            tokens.push(Token::Byte(next(byte, &mut bytes)));
        }
        Self { text: escaped.into(), tokens }
    }

    /// The pattern as written.
    pub fn text(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The one name it matches, where it has no wildcard.
    pub fn literal(&self) -> Option<Vec<u8>> {
        self.tokens.iter().map(Token::byte).collect()
    }

    /// The bytes that every match begins with.
    pub(crate) fn head(&self) -> Vec<u8> {
        self.tokens.iter().map_while(Token::byte).collect()
    }

    /// The bytes that every match ends in.
    pub(crate) fn tail(&self) -> Vec<u8> {
        let mut tail: Vec<u8> = self.tokens.iter().rev().map_while(Token::byte).collect();
        tail.reverse();
        tail
    }

    /// The longest run of bytes that every match contains.
    pub(crate) fn needle(&self) -> Vec<u8> {
        let runs = self.tokens.split(|token| token.byte().is_none());
        runs.max_by_key(|run| run.len()).unwrap_or_default().iter().filter_map(Token::byte).collect()
    }

    /// Whether the whole of `name` is matched; characters are UTF-8, or single bytes where it is not.
    pub fn matches(&self, name: &[u8]) -> bool {
        // Most globs end in a suffix that most names do not have.
        let mut ends = self.tokens.iter().rev().zip(name.iter().rev());
        let differs = |(token, byte): (&Token, &u8)| match token {
            Token::Byte(b) => Some(b != byte),
            _ => None,
        };
        if ends.by_ref().map_while(differs).any(|differs| differs) {
            return false;
        }
        // The last star seen, and where in `name` its match would end next: linear but for one factor.
        let (mut token, mut at, mut retry) = (0, 0, None);
        loop {
            let step = match self.tokens.get(token) {
                Some(Token::Star) => {
                    retry = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                Some(Token::Byte(byte)) if name.get(at) == Some(byte) => Some(1),
                Some(Token::One) if at < name.len() => Some(character(&name[at..]).1),
                Some(Token::Class { not, ranges }) if at < name.len() => {
                    let (c, width) = character(&name[at..]);
                    (ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *not).then_some(width)
                }
                None if at == name.len() => return true,
                _ => None,
            };
            match (step, retry) {
                (Some(width), _) => {
                    token += 1;
                    at += width;
                }
                (None, Some((after, from))) if from < name.len() => {
                    let next = from + character(&name[from..]).1;
                    retry = Some((after, next));
                    (token, at) = (after, next);
                }
                _ => return false,
            }
        }
    }
}

/// The first character and its width. A byte that is no UTF-8 stands for itself, beyond every character.
fn character(bytes: &[u8]) -> (u32, usize) {
    let width = match bytes[0] {
        0..=0x7f => return (u32::from(bytes[0]), 1),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let text = bytes.get(..width).and_then(|b| std::str::from_utf8(b).ok());
    match text.and_then(|t| t.chars().next()) {
        Some(c) => (c.into(), width),
        None => (0x11_0000 + u32::from(bytes[0]), 1),
    }
}

fn class(mut rest: &[u8]) -> Result<(Token, &[u8]), PatternError> {
    let not = matches!(rest.first(), Some(b'!' | b'^'));
    if not {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        let next = |rest: &mut &[u8]| -> Result<u32, PatternError> {
            if rest.first() == Some(&b'\\') {
                *rest = &rest[1..];
            }
            if rest.is_empty() {
                return Err(PatternError::Unclosed('['));
            }
            let (c, width) = character(rest);
            *rest = &rest[width..];
            Ok(c)
        };
        match rest.first() {
            None => return Err(PatternError::Unclosed('[')),
            Some(b']') if ranges.is_empty() => return Err(PatternError::Class),
            Some(b']') => return Ok((Token::Class { not, ranges }, &rest[1..])),
            Some(_) => {
                let low = next(&mut rest)?;
                let high = match rest {
                    [b'-', after, ..] if *after != b']' => {
                        rest = &rest[1..];
                        next(&mut rest)?
                    }
                    _ => low,
                };
                if high < low {
                    return Err(PatternError::Class);
                }
                ranges.push((low, high));
            }
        }
    }
}

impl TryFrom<Text> for Pattern {
    type Error = PatternError;

    fn try_from(text: Text) -> Result<Self, PatternError> {
        Self::parse(text.as_bytes())
    }
}

impl From<Pattern> for Text {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

impl TryFrom<Text> for Glob {
    type Error = PatternError;

    fn try_from(text: Text) -> Result<Self, PatternError> {
        Self::parse(text.as_bytes())
    }
}

impl From<Glob> for Text {
    fn from(glob: Glob) -> Self {
        glob.text
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let pattern = Pattern::parse(pattern.as_bytes()).unwrap();
        for (paths, expected) in [(yes, true), (no, false)] {
            for path in paths {
                let path = AbsPath::new(path.as_bytes()).unwrap();
                assert_eq!(pattern.covers(&path), expected, "{pattern} on {path}");
            }
        }
    }

    #[test]
    fn what_patterns_cover() {
        check("/a/b", &["/a/b", "/a/b/c/d"], &["/a", "/a/bc", "/b"]);
        check("/", &["/", "/a"], &[]);
        check("/a/*/c", &["/a/b/c", "/a/.x/c/d"], &["/a/c", "/a/b/b/c"]);
        check("**/.env", &["/.env", "/a/b/.env", "/a/.env/x"], &["/a/.envrc", "/a/x.env"]);
        check("/a/**/z", &["/a/z", "/a/b/c/z"], &["/z", "/a/zz"]);
        check("/a/**", &["/a/b", "/a/b/c"], &["/a"]);
        check("/a/?.t[xy]t", &["/a/é.txt", "/a/b.tyt"], &["/a/bb.txt", "/a/b.tzt"]);
        check("/a/[!a-c]", &["/a/d", "/a/-"], &["/a/a", "/a/c"]);
        check("/a/\\*", &["/a/*"], &["/a/b"]);
        check("/a/./b/../c", &["/a/c"], &["/a/b"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_characters() {
        let glob = Glob::parse(b"a?c").unwrap();
        assert!(glob.matches(b"a\xffc"));
        assert!(!glob.matches(b"a\xff\xfec"));
        assert!(Glob::parse(b"[!x]").unwrap().matches(b"\xe9"));
    }

    #[test]
    fn braces_are_written_out() {
        let all = |text: &str| -> Vec<String> {
            let alternatives = alternatives(text.as_bytes()).unwrap();
            alternatives.into_iter().map(|a| String::from_utf8(a).unwrap()).collect()
        };
        assert_eq!(all("/a/{b,c/{d,e}}.x"), ["/a/b.x", "/a/c/d.x", "/a/c/e.x"]);
        assert_eq!(all("/a/\\{b,c}"), ["/a/\\{b,c}"]);
        assert_eq!(alternatives(b"/{a"), Err(PatternError::Unclosed('{')));
        assert_eq!(alternatives("/{a,b}".repeat(9).as_bytes()), Err(PatternError::TooMany));
    }

    #[test]
    fn what_is_no_pattern() {
        let parse = |text: &str| Pattern::parse(text.as_bytes()).unwrap_err();
        assert_eq!(parse("a"), PathError::Relative.into());
        assert_eq!(parse("/a**"), PatternError::Deep);
        assert_eq!(parse("/*/../a"), PatternError::Parent);
        assert_eq!(parse("/[a"), PatternError::Unclosed('['));
        assert_eq!(parse("/[b-a]"), PatternError::Class);
        assert_eq!(parse("/a\0"), PathError::Nul.into());
    }

    proptest::proptest! {
        #[test]
        fn an_escaped_name_matches_itself_only(name in "[a-c*?{}\\[\\]\\\\~$]{1,8}", other in "[a-c*?]{1,8}") {
            let glob = Glob::parse(&escape(name.as_bytes())).unwrap();
            proptest::prop_assert!(glob.matches(name.as_bytes()));
            proptest::prop_assert_eq!(glob.matches(other.as_bytes()), name == other);
        }

        #[test]
        fn printing_and_reading_are_inverse(text in "(/|/\\*\\*/|\\*\\*/)([a-b*?.]{1,3}/){0,4}[a-b*?]{1,2}") {
            if let Ok(pattern) = Pattern::parse(text.as_bytes()) {
                let again = Pattern::try_from(Text::from(pattern.clone())).unwrap();
                proptest::prop_assert_eq!(again, pattern);
            }
        }
    }
}
