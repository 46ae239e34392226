//! What a path in a policy stands for on this machine.

use super::{Expansion, wrong_pattern};
use crate::environment::absolute;
use crate::error::Wrong;
use crate::pattern::{Part, Pattern, alternatives, escape};
use crate::presets;

impl Expansion<'_> {
    /// The pattern, and the same with the symbolic links of its literal part followed, where that differs.
    pub(super) fn with_real(&self, pattern: Pattern) -> impl Iterator<Item = Pattern> + use<> {
        let literal = pattern.parts().iter().take_while(|part| matches!(part, Part::Literal(_))).count();
        let prefix = pattern.parts()[..literal].iter().fold(Vec::new(), |mut path, part| {
            if let Part::Literal(name) = part {
                path.push(b'/');
                path.extend_from_slice(name);
            }
            path
        });
        let real = absolute(&prefix).and_then(|prefix| {
            let real = self.reals.as_far(&prefix);
            if real == prefix {
                return None;
            }
            let rest = pattern.parts()[literal..].iter().fold(escape(real.as_bytes()), |mut text, part| {
                text.push(b'/');
                match part {
                    Part::Literal(name) => text.extend(escape(name)),
                    Part::Glob(glob) => text.extend_from_slice(glob.text()),
                    Part::Deep => text.extend_from_slice(b"**"),
                }
                text
            });
            Pattern::parse(&rest).ok()
        });
        std::iter::once(pattern).chain(real)
    }

    /// What a path entry stands for: as written, and with the symbolic links of its literal part followed.
    pub(super) fn paths(&self, text: &str) -> Result<Vec<Pattern>, Wrong> {
        let mut patterns: Vec<Pattern> = Vec::new();
        for pattern in self.written(text)?.into_iter().flat_map(|written| self.with_real(written)) {
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        Ok(patterns)
    }

    /// The patterns of an entry as written: variables filled in, braces written out, made absolute.
    pub(super) fn written(&self, text: &str) -> Result<Vec<Pattern>, Wrong> {
        if text.is_empty() {
            return Err(Wrong::new("an empty path names nothing").help("the policy's own directory is `.`"));
        }
        let mut patterns = Vec::new();
        for text in self.filled(text)? {
            for text in alternatives(&text).map_err(wrong_pattern)? {
                let anywhere = text == b"**" || text.starts_with(b"**/");
                let absolute = if text.starts_with(b"/") || anywhere {
                    text
                } else {
                    [&escape(self.dir.as_bytes()), &b"/"[..], &text].concat()
                };
                patterns.push(Pattern::parse(&absolute).map_err(wrong_pattern)?);
            }
        }
        Ok(patterns)
    }

    /// `~` and `${VAR}` filled in and escaped. In a preset a variable may have several values, or none.
    fn filled(&self, text: &str) -> Result<Vec<Vec<u8>>, Wrong> {
        let (mut texts, mut rest) = (vec![Vec::new()], text);
        let push = |texts: &mut Vec<Vec<u8>>, bytes: &[u8]| texts.iter_mut().for_each(|t| t.extend(bytes));
        if rest == "~" || rest.starts_with("~/") {
            let home = match &self.env.home {
                Some(home) => escape(home.as_bytes()),
                None if self.shipped => return Ok(Vec::new()),
                None => return Err(Wrong::new("`~` has no meaning here: no home directory is known")),
            };
            push(&mut texts, &home);
            rest = &rest[1..];
        } else if rest.starts_with('~') {
            return Err(Wrong::new(format!("`{text}` names another user's home directory"))
                .help("write its path; for a name that starts with `~`, write `./~…`"));
        }
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('\\') {
                push(&mut texts, &rest.as_bytes()[..at + 2]);
                rest = &rest[at + 2..];
                continue;
            }
            push(&mut texts, &rest.as_bytes()[..at]);
            let Some((name, after)) = rest[at + 2..].split_once('}') else {
                return Err(Wrong::new(format!("`{text}` opens `${{` and never closes it")));
            };
            let values: Vec<Vec<u8>> = if self.shipped {
                presets::variable(name, self.env).iter().map(|path| escape(path.as_bytes())).collect()
            } else {
                match self.env.vars.get(name) {
                    Some(value) if !value.is_empty() => vec![escape(value.as_bytes())],
                    _ => {
                        return Err(Wrong::new(format!("the environment variable `{name}` is not set"))
                            .help("a path must not depend on whether a variable is there; set it or write the path"));
                    }
                }
            };
            texts = texts
                .iter()
                .flat_map(|text| values.iter().map(move |value| [&text[..], value].concat()))
                .collect();
            rest = after;
        }
        push(&mut texts, rest.as_bytes());
        Ok(texts)
    }
}
