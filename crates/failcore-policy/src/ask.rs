//! Requests in words, as `[[test]]` rows and `explain` write them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use failcore_model::{
    AbsPath, Action, Context, Endpoint, Family, FileRef, Host, Lane, NativeObject, Request, Rights,
    SignalTarget, SocketKind, Subject, Text, Transport, UnixAddr, Verb, url_path,
};
use smallvec::SmallVec;

use crate::command;
use crate::environment::{Environment, Reals, absolute, is_directory, real};
use crate::error::Wrong;
use crate::host;
use crate::http::is_method;
use crate::rule::Object;

/// Stands for the address of any name: what a row asks is whether the name is granted.
const SOME_PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

/// Text that is no request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct AskError {
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

/// Reads a request in words: a verb and its resource, `fs.read ./work/.env`, `net.connect api.example.com:443`,
/// `process.exec git status`.
///
/// `fs.open` takes its rights before the path, `fs.open read+create ./a`; two-path verbs take ` -> ` between them;
/// a name stands for a pinned public address. Relative paths are relative to `dir`; files count as existing, and what is
/// moved as a directory unless it is there and none.
///
/// # Errors
/// [`AskError`] says what is wrong with it.
pub fn ask(text: &str, dir: &AbsPath, env: &Environment) -> Result<Request, AskError> {
    request(text, dir, env).map_err(|wrong| AskError { message: wrong.message, help: wrong.help })
}

pub(crate) fn request(text: &str, dir: &AbsPath, env: &Environment) -> Result<Request, Wrong> {
    let (verb, resource) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
    let verb: Verb = verb.parse().map_err(|_| {
        let known: Vec<&str> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
        Wrong::new(format!("`{verb}` is no verb")).meant(verb, &known)
    })?;
    let words = Words { text: resource.trim(), dir, env };
    // What `failcore run` uses unless told otherwise.
    let mut context = Context { lane: Lane::Kernel, ..Context::default() };
    let action = words.action(verb, &mut context)?;
    Ok(Request { action, subject: Subject::default(), context })
}

/// The same request, made inside a tool's scope.
pub(crate) fn by_tool(mut request: Request, tool: &str) -> Request {
    request.subject.claimed.scope.push(Text::from(tool));
    request
}

struct Words<'a> {
    text: &'a str,
    dir: &'a AbsPath,
    env: &'a Environment,
}

impl Words<'_> {
    fn action(&self, verb: Verb, context: &mut Context) -> Result<Action, Wrong> {
        if self.text.is_empty() {
            return Err(Wrong::new(format!("`{verb}` names no resource")));
        }
        Ok(match verb {
            Verb::FsOpen => {
                let (rights, path) = self.text.split_once(' ').ok_or_else(|| {
                    Wrong::new("`fs.open` takes rights and a path").help("as `fs.open read+create ./a`")
                })?;
                let rights = rights.split('+').map(|name| {
                    Rights::from_right_name(name).ok_or_else(|| {
                        Wrong::new(format!("`{name}` is no right")).help("read, create, modify, delete, attr")
                    })
                });
                let rights = rights.collect::<Result<Vec<_>, _>>()?.into_iter().collect();
                Action::Open { file: self.file(path)?, rights }
            }
            Verb::FsRead => Action::Read(self.file(self.text)?),
            Verb::FsCreate => Action::Create(self.new_name(self.text)?),
            Verb::FsModify => Action::Modify(self.file(self.text)?),
            Verb::FsDelete => Action::Delete(self.name(self.text)?),
            Verb::FsAttr => Action::Attr(self.file(self.text)?),
            Verb::FsRename => {
                let (from, to) = self.two()?;
                let from = self.name(from)?;
                let dir = is_directory(&from.path);
                Action::Rename { from: FileRef { dir, ..from }, to: self.new_name(to)? }
            }
            Verb::FsLink => {
                let (from, to) = self.two()?;
                Action::Link { from: self.file(from)?, to: self.new_name(to)? }
            }
            Verb::FsSymlink => {
                let (at, target) = self.two()?;
                Action::Symlink { target: target.into(), at: self.new_name(at)? }
            }
            Verb::NetResolve => match Host::parse(self.text) {
                Ok(Host::Name(name)) => Action::Resolve(name),
                Ok(Host::Addr(addr)) => {
                    return Err(Wrong::new(format!(
                        "`{}` is the address {addr}, and addresses are not looked up",
                        self.text
                    )));
                }
                Err(error) => return Err(Wrong::new(format!("`{}` is no host: {error}", self.text))),
            },
            Verb::NetConnect => Action::Connect(self.endpoint(context)?),
            Verb::NetSend => Action::Send(self.endpoint(context)?),
            Verb::NetBind => Action::Bind(self.endpoint(context)?),
            Verb::NetListen => Action::Listen(self.endpoint(context)?),
            Verb::NetSocket => match host::socket(self.text)? {
                Object::Socket { family: Some(family), kind, protocol } => Action::Socket {
                    family: Family::from_number(family),
                    kind: SocketKind::from_number(kind.unwrap_or(1)),
                    protocol: protocol.unwrap_or(0),
                },
                _ => return Err(Wrong::new("a socket has one family")),
            },
            Verb::NetHttp => self.http()?,
            Verb::IpcConnect => {
                Action::IpcConnect(self.unix(self.text.strip_prefix("unix:").unwrap_or(self.text))?)
            }
            Verb::ProcessExec => self.exec()?,
            Verb::ProcessSignal => {
                let word = self.text.rsplit(' ').next().unwrap_or_default();
                let to = match word {
                    "self" | "own" => SignalTarget::Own,
                    "child" | "children" => SignalTarget::Child,
                    "run" => SignalTarget::Run,
                    "outside" => SignalTarget::Outside,
                    _ => {
                        return Err(Wrong::new(format!("`{word}` is nobody to signal"))
                            .help("self, children, run or outside"));
                    }
                };
                Action::Signal { to, pid: 0, signal: 15 }
            }
            Verb::ProcessTrace => Action::Trace { pid: self.number()? },
            Verb::ProcessLimit => Action::Limit { pid: self.number()? },
            Verb::NativeLoad if self.text == "ctypes" => Action::Load(NativeObject::Ffi),
            Verb::NativeLoad => Action::Load(NativeObject::Library(self.file(self.text)?)),
            Verb::EnvRead => Action::EnvRead(self.text.into()),
            Verb::KernelCall => Action::KernelCall(self.text.into()),
            Verb::Unmapped => Action::Unmapped(self.text.into()),
        })
    }

    fn two(&self) -> Result<(&str, &str), Wrong> {
        let both = self.text.split_once(" -> ").map(|(a, b)| (a.trim(), b.trim()));
        both.ok_or_else(|| Wrong::new("two paths are needed").help("write `./a -> ./b`"))
    }

    fn number(&self) -> Result<i32, Wrong> {
        self.text.parse().map_err(|_| Wrong::new(format!("`{}` is no process id", self.text)))
    }

    /// A file as it would be found: symbolic links followed as far as the path exists.
    fn file(&self, text: &str) -> Result<FileRef, Wrong> {
        Ok(FileRef { asked: text.into(), ..FileRef::at(Reals::default().as_far(&self.path(text)?)) })
    }

    /// A name itself, as what removes or moves it finds it: a link in the last place is not followed.
    fn name(&self, text: &str) -> Result<FileRef, Wrong> {
        let path = self.path(text)?;
        let (Some(dir), Some(name), false) = (path.parent(), path.file_name(), text.ends_with('/')) else {
            return self.file(text);
        };
        let real = Reals::default()
            .as_far(&dir)
            .join(name)
            .map_err(|error| Wrong::new(format!("`{text}`: {error}")))?;
        Ok(FileRef { asked: text.into(), ..FileRef::at(real) })
    }

    fn new_name(&self, text: &str) -> Result<FileRef, Wrong> {
        Ok(FileRef { exists: false, ..self.name(text)? })
    }

    fn path(&self, text: &str) -> Result<AbsPath, Wrong> {
        let spelt = match text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            Some(rest) => {
                let home = self.env.home.as_ref().ok_or_else(|| Wrong::new("no home directory is known"))?;
                [home.as_bytes(), rest.as_bytes()].concat()
            }
            None if text.starts_with('/') => text.into(),
            None => [self.dir.as_bytes(), b"/", text.as_bytes()].concat(),
        };
        AbsPath::lexical(&spelt).map_err(|error| Wrong::new(format!("`{text}`: {error}")))
    }

    fn unix(&self, text: &str) -> Result<UnixAddr, Wrong> {
        Ok(match text.strip_prefix('@') {
            Some(name) => UnixAddr::Abstract(name.into()),
            None => UnixAddr::Path(self.file(text)?),
        })
    }

    fn endpoint(&self, context: &mut Context) -> Result<Endpoint, Wrong> {
        if let Some(path) = self.text.strip_prefix("unix:") {
            return Ok(Endpoint::Unix(self.unix(path)?));
        }
        let (transport, rest) = match self.text.split_once(':') {
            Some(("udp", rest)) => (Transport::Udp, rest),
            Some(("other", rest)) => (Transport::Other, rest),
            Some(("tcp", rest)) => (Transport::Tcp, rest),
            _ => (Transport::Tcp, self.text),
        };
        let wrong =
            || Wrong::new(format!("`{rest}` is no address with a port")).help("as `api.example.com:443`");
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let ip =
            match Host::parse(host).map_err(|error| Wrong::new(format!("`{host}` is no host: {error}")))? {
                Host::Addr(addr) => addr,
                Host::Name(name) => {
                    let local = name.as_str() == "localhost";
                    context.names = SmallVec::from_iter([name]);
                    if local { Ipv4Addr::LOCALHOST.into() } else { SOME_PUBLIC }
                }
            };
        Ok(Endpoint::Inet { transport, addr: SocketAddr::new(ip, port) })
    }

    fn http(&self) -> Result<Action, Wrong> {
        let wrong = || {
            Wrong::new(format!("`{}` is no HTTP request", self.text)).help("as `GET api.example.com/repos/x`")
        };
        let (method, rest) = self.text.split_once(' ').ok_or_else(wrong)?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = host.split_once(':').unwrap_or((host, "443"));
        let Ok(Host::Name(host)) = Host::parse(host) else { return Err(wrong()) };
        // Whatever query follows is not looked at.
        let path = path.split('?').next().filter(|path| !path.is_empty()).unwrap_or("/");
        let path = url_path(path).map_err(|error| Wrong::new(format!("`{path}`: {error}")))?;
        let method = method.to_ascii_uppercase();
        if !is_method(&method) {
            return Err(wrong());
        }
        Ok(Action::Http { method, host, port: port.parse().map_err(|_| wrong())?, path })
    }

    fn exec(&self) -> Result<Action, Wrong> {
        let words = command::words(self.text)?;
        let program = words.first().ok_or_else(|| Wrong::new("an empty command names no program"))?;
        let found = if program.contains('/') || program.starts_with('~') {
            self.file(program)?
        } else {
            let at = self.env.look_up(program.as_ref());
            let at = at.ok_or_else(|| {
                Wrong::new(format!("there is no `{program}` on PATH")).help("write its path")
            })?;
            let image = real(&at).or_else(|| absolute(at.as_bytes())).unwrap_or(at);
            FileRef { asked: program.into(), ..FileRef::at(image) }
        };
        Ok(Action::Exec { image: found, argv: words.iter().map(Text::from).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_or_removed_is_the_name_itself() {
        let held = tempfile::tempdir().unwrap();
        let dir = absolute(held.path().canonicalize().unwrap().as_os_str().as_encoded_bytes()).unwrap();
        let at = |name: &str| dir.join(name.as_bytes()).unwrap();
        std::fs::create_dir(at("d").as_path()).unwrap();
        std::fs::write(at("f").as_path(), "x").unwrap();
        std::os::unix::fs::symlink("d", at("l").as_path()).unwrap();
        let moved = |text: &str| match ask(text, &dir, &Environment::default()).unwrap().action {
            Action::Rename { from, .. } => (from.path, from.dir),
            Action::Delete(file) | Action::Read(file) => (file.path, file.dir),
            other => panic!("{other:?}"),
        };
        assert_eq!(moved("fs.rename ./d -> ./x"), (at("d"), Some(true)));
        assert_eq!(moved("fs.rename ./f -> ./x"), (at("f"), Some(false)));
        assert_eq!(moved("fs.rename ./l -> ./x"), (at("l"), Some(false)));
        assert_eq!(moved("fs.rename ./nothing -> ./x"), (at("nothing"), None));
        assert_eq!(moved("fs.delete ./l"), (at("l"), None));
        assert_eq!(moved("fs.delete ./l/"), (at("d"), None));
        assert_eq!(moved("fs.read ./l"), (at("d"), None));
    }
}
