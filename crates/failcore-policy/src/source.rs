//! From a policy's text to rules.

use std::path::Path;

use failcore_model::{AbsPath, HostName, Rights, RuleId};

use crate::environment::{Environment, absolute};
use crate::error::{PolicyError, Problem};
use crate::pattern::{Glob, Pattern, escape};
use crate::resolved::Resolved;
use crate::rule::{Effect, HostPattern, Key, Object, Over, Rule, Way};

pub(crate) fn load(file: &Path, env: &Environment) -> Result<Resolved, PolicyError> {
    let read = || -> std::io::Result<_> {
        let real = std::fs::canonicalize(file)?;
        Ok((std::fs::read_to_string(&real)?, real))
    };
    let (text, real) = read().map_err(|error| PolicyError::file(file.into(), &error))?;
    let dir = real.parent().and_then(|dir| absolute(dir.as_os_str().as_encoded_bytes()));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    parse(&name, &text, &dir.unwrap_or_else(AbsPath::root), env)
}

pub(crate) fn parse(
    name: &str,
    text: &str,
    dir: &AbsPath,
    env: &Environment,
) -> Result<Resolved, PolicyError> {
    let wrong = |message: String| PolicyError::new(vec![Problem::plain(message)]);
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.message().into()))?;
    let mut resolved = Resolved::empty();
    resolved.name = table.get("name").and_then(|n| n.as_str()).map(str::to_owned);
    for key in [Key::FsRead, Key::FsWrite, Key::FsDeny, Key::NetConnect, Key::Env] {
        let Some((section, list)) = key.as_str().split_once('.') else { continue };
        let entries = table.get(section).and_then(|s| s.get(list)).and_then(|l| l.as_array());
        for (n, entry) in entries.into_iter().flatten().enumerate() {
            let text =
                entry.as_str().ok_or_else(|| wrong(format!("`{key}` holds something that is no text")))?;
            let object =
                object(key, text, dir, env).ok_or_else(|| wrong(format!("`{text}` is no {key} entry")))?;
            resolved.rules.push(Rule {
                id: RuleId::from(&format!("{name}#{key}[{n}]")),
                source: name.into(),
                line: 1,
                column: 1,
                text: text.into(),
                effect: if key == Key::FsDeny { Effect::Forbid } else { Effect::Permit },
                key,
                tool: None,
                reason: None,
                until: None,
                approve: false,
                audit: false,
                always: false,
                ids: Vec::new(),
                objects: vec![object],
            });
        }
    }
    Ok(resolved)
}

fn object(key: Key, text: &str, dir: &AbsPath, env: &Environment) -> Option<Object> {
    Some(match key {
        Key::Env => Object::Env(Glob::parse(text.as_bytes()).ok()?),
        Key::NetConnect => {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok()?;
            let host = HostPattern::Name(HostName::parse(host).ok()?);
            Object::Net { host, over: Over::Tcp, ports: (port, port), way: Way::Out }
        }
        _ => {
            let base =
                |base: &AbsPath, rest: &str| [&escape(base.as_bytes())[..], b"/", rest.as_bytes()].concat();
            let text = match text {
                home if home.starts_with("~/") => base(env.home.as_ref()?, &home[2..]),
                absolute if absolute.starts_with('/') || absolute.starts_with("**/") => text.into(),
                relative => base(dir, relative),
            };
            let rights = match key {
                Key::FsRead => Rights::READ,
                _ => Rights::WRITE,
            };
            Object::File { path: Pattern::parse(&text).ok()?, rights }
        }
    })
}
