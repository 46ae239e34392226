//! Everything a run needs before its program starts; whatever fails here leaves nothing behind.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use failcore_gate::expected::Expected;
use failcore_kernel::{Cgroup, HOOK_VAR, Mounts, Plan, SOCKET_VAR, World};
use failcore_model::input::Start;
use failcore_model::{
    AbsPath, Action, Context, Coverage, Event, FileId, Lane, Request, RuleId, Subject, Text,
};
use failcore_net::Resolver;
use failcore_policy::{Environment, Mode, PolicySet, Python, Reads};
use failcore_record::{Given, Keeping, Replayed};
use failcore_trace::{Options, Redactor, SigningKey, TraceError, Writer};
use tempfile::TempDir;

use super::carried::{self, Carrying, Means, Owners};
use super::control::About;
use super::stdin::Kind;
use super::{io_problem, lane, text};
use crate::args::{Run, Stdin};
use crate::control;
use crate::failure::{Failure, Problem};
use crate::install::Installation;
use crate::interpreter::Program;
use crate::policy;
use crate::trust;
use crate::ui::Ui;

/// A run that can start.
pub(super) struct Prepared {
    pub(super) lane: Lane,
    pub(super) session: String,
    pub(super) agent: Option<Text>,
    pub(super) label: Option<Text>,
    pub(super) program: Program,
    pub(super) policy: Arc<PolicySet>,
    pub(super) hook: PathBuf,
    preload: PathBuf,
    command: Vec<Text>,
    /// Where the key lies that signs the trace.
    key: PathBuf,
    trace: PathBuf,
    /// Whether the trace's directory was made here.
    made: bool,
    mounts: Mounts,
    /// Where the program's processes attach; closed to them otherwise. Under a supervisor, which knows them, they need but
    /// a path that nobody else uses.
    door: Option<Private>,
    /// The program's private directory for temporary files.
    pub(super) tmp: Private,
    /// The environment that the program's is taken from.
    inherited: Vec<(OsString, OsString)>,
    /// Where the program starts.
    pub(super) cwd: Option<PathBuf>,
    /// Whether what it learns is kept.
    pub(super) keeping: Option<Keeping>,
    /// Whether somebody types what it reads, which is not kept.
    terminal: bool,
    /// Where it runs again: what it is expected to do.
    pub(super) expected: Option<Arc<Expected>>,
    /// And what it is told.
    pub(super) replayed: Option<Arc<Replayed>>,
    /// And what its standard input gives.
    pub(super) given: Option<Given>,
    /// And what of the machine is in its world.
    shown: Vec<PathBuf>,
    /// Where connections are carried.
    pub(super) means: Option<Means>,
}

impl Prepared {
    /// Chooses and completes all of it.
    pub(super) fn new(args: &Run, again: Option<Again>, ui: &Ui) -> Result<Self, Failure> {
        let lane = lane::choose(args.lane)?;
        if args.record && lane == Lane::Runtime {
            return Err(Problem::Nonsense {
                what: "only the kernel lane sees all that a program learns".into(),
                help: "record with `--lane kernel`; `failcore.replay` records the tools of a Python agent"
                    .into(),
            }
            .into());
        }
        let program = match lane {
            Lane::Runtime => Program::python(&args.command)?,
            _ => Program::any(&args.command)?,
        };
        let part = |found: Result<PathBuf, PathBuf>| {
            found.map_err(|sought| Problem::NotInstalled { what: sought.display().to_string() })
        };
        let (own, Installation { hook, preload }) = match &again {
            Some(again) => (again.own.clone(), again.installation.clone()),
            None => (std::env::current_exe().unwrap_or_default(), Installation::find()),
        };
        let (hook, preload) = (part(hook)?, part(preload)?);

        let session = failcore_trace::new_session_id();
        let trace = match &args.trace {
            Some(dir) => std::path::absolute(dir).map_err(io_problem("resolve", dir))?,
            None => failcore_trace::runs_dir().map_err(Problem::trace)?.join(&session),
        };
        let key = failcore_trace::key_path().map_err(Problem::trace)?;

        let tmp = match &again {
            Some(again) => Private::at(Path::new(&os(&again.start.tmp)))?,
            None => Private::new("tmp")?,
        };
        let door = (lane == Lane::Runtime).then(|| Private::new("run")).transpose()?;
        let mut links = Links::default();
        let mut env = policy::environment();
        if program.is_python {
            env.python = Python::find(program.file.as_os_str(), &env.path);
        }
        env.tmp = Some(links.real(tmp.path())?);
        let keeping = args.record.then(|| keeping(args, &env, &hook));
        let inherited = match &again {
            Some(again) => again.environment(),
            None => std::env::vars_os().collect(),
        };
        let (mut trust, mut owners) = (None, None);
        let (expected, replayed, given, shown, chosen) = match again {
            Some(again) => {
                trust = again.start.trust.as_ref().map(|dir| PathBuf::from(os(dir)));
                owners = again.owners.map(Box::new);
                let Again { expected, replayed, given, shown, policy, .. } = again;
                (Some(expected), Some(replayed), given, shown, (policy, None))
            }
            None => (None, None, None, Vec::new(), choose(args, &program, &env, ui)?),
        };
        let (policy, file) = chosen;
        let null = args.stdin == Stdin::Null || policy.stdin() == failcore_policy::Stdin::Null;
        let terminal = keeping.is_some() && !null && matches!(Kind::of_ours(), Kind::Terminal);
        if terminal {
            ui.note("the standard input is a terminal: what is typed there is not recorded, and a second run reads nothing");
        }
        if policy.reads() == Reads::Advisory {
            ui.note("`reads = \"advisory\"` is not used: every read is decided and recorded all the same");
        }
        if policy.mode() == Mode::Audit {
            ui.note("the policy only audits: what it would refuse is recorded and goes ahead");
        }

        lane::check_capabilities(lane, &policy)?;
        lane::check_upstream(lane, &policy)?;
        lane::check_carried(lane, &policy)?;
        let carrying = match (&expected, &keeping) {
            (Some(_), _) => Carrying::Played(trust, owners),
            (None, Some(_)) => Carrying::Recorded,
            (None, None) => Carrying::Policy,
        };
        let means = Means::gather(&policy, carrying)?;
        let state = failcore_trace::state_dir().map_err(Problem::trace)?;
        // A write there moves a process out of what holds the run.
        let mounts = Mounts::read();
        let gates_own = [&trace, &hook, &preload, &state, &own]
            .into_iter()
            .map(PathBuf::as_path)
            .chain(mounts.cgroups())
            .chain(file.as_deref())
            .chain(means.as_ref().and_then(Means::certificates))
            .filter(|file| !file.as_os_str().is_empty());
        // A link may be changed where it stands, and what it leads to there.
        let names = Resolver::FILES.map(Path::new);
        let gates_own: Vec<AbsPath> = gates_own
            .chain(names)
            .map(|path| links.real(path))
            .chain(names.map(spelt))
            .collect::<Result<_, _>>()?;
        // The command itself, and what brings the hook into a Python, may be started and read; a deny still stands.
        let mut policy = policy;
        if lane == Lane::Kernel {
            let args: Vec<Text> = program.args.iter().map(|arg| text(arg)).collect();
            policy = policy.permit_exec(&spelt(&program.file)?, &args);
            let certificates = means.as_ref().and_then(Means::certificates);
            for part in [hook.as_path(), &preload].into_iter().chain(certificates) {
                policy = policy.permit_read(&links.real(part)?);
            }
        }
        // Out of the program's reach, whatever the policy says; the control sockets of this run and of all others too.
        let attach = door.as_ref().map_or_else(|| attach(None, &tmp), |door| door.path().to_owned());
        let secrets = [key.clone(), attach].into_iter().chain(control::paths());
        let mut secrets = secrets.map(|path| links.real(&path)).collect::<Result<Vec<_>, _>>()?;
        for file in carried::secret_files(&policy) {
            secrets.extend([links.real(file.as_path())?, file]);
        }
        let policy = policy.protect(&gates_own).hide(&secrets);

        Ok(Self {
            lane,
            session,
            agent: args.agent.as_deref().map(Text::from),
            label: args.label.as_deref().map(Text::from),
            command: args.command.iter().map(|arg| text(arg)).collect(),
            program,
            policy: Arc::new(policy),
            hook,
            preload,
            key,
            trace,
            made: false,
            mounts,
            door,
            tmp,
            inherited,
            cwd: args.cwd.clone(),
            keeping,
            terminal,
            expected,
            replayed,
            given,
            shown,
            means,
        })
    }

    /// Completes the policy as it will be enforced, and what the kernel will hold of it; also makes the run's cgroup,
    /// where there can be one.
    pub(super) fn complete(&mut self) -> Result<Complete, Failure> {
        // The directory first, so that its identity is known to the policy that the trace keeps.
        if !self.trace.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.trace)
                .map_err(io_problem("make", &self.trace))?;
            self.made = true;
        }
        let identity = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some(FileId { dev: found.dev(), ino: found.ino() })
        };
        let mut identities: Vec<(RuleId, FileId)> = Vec::new();
        for (rule, path) in self.policy.literal_denies() {
            // Of what lies below it, too, where that is mounted elsewhere.
            let places = std::iter::once(path.as_path()).chain(self.mounts.elsewhere(path.as_path()));
            identities.extend(places.filter_map(identity).map(|found| (rule.clone(), found)));
        }
        let policy = std::mem::take(Arc::make_mut(&mut self.policy));
        self.policy = Arc::new(policy.with_identities(&identities));
        // It is there until this process ends, which then has not to give back each of its many pieces.
        std::mem::forget(Arc::clone(&self.policy));
        let redactor = Redactor::of_environment(std::env::vars_os(), |name| self.policy.redacts(name));
        let redactor = match &self.means {
            Some(means) => means.redact(redactor),
            None => redactor,
        };
        if let Some(keeping) = &mut self.keeping {
            keeping.secrets = redactor.clone();
            keeping.payloads = self.policy.payloads().clone();
        }
        let options = Options { redactor: Some(redactor), ..Options::default() };
        let (cgroup, plan, mut coverage) = lane::lower(self.lane, &self.session, &self.policy, &self.mounts);
        if self.keeping.is_some() {
            coverage.notes.push(
                "recorded: files, programs, the standard input, clocks, random numbers, names and TCP connections, TLS opened; \
                 not datagrams"
                    .into(),
            );
            if self.terminal {
                coverage.notes.push("not recorded: what is typed into the standard input, a terminal".into());
            }
        }
        if self.expected.is_some() {
            let live = self.replayed.as_ref().map(|replayed| replayed.live_rules()).unwrap_or_default();
            World::covers(&mut coverage, &self.shown, &live);
        }
        let start = self.keeping.is_some().then(|| self.start()).transpose()?;
        let trace = Opening {
            key: self.key.clone(),
            dir: self.trace.clone(),
            session: self.session.clone(),
            policy: Arc::clone(&self.policy),
            options,
            coverage,
            command: self.command.clone(),
            start,
        };
        Ok(Complete { trace, plan, cgroup })
    }

    /// How the program is started, for whoever runs it again.
    fn start(&self) -> Result<Start, Failure> {
        let cwd = match &self.cwd {
            Some(cwd) => cwd.canonicalize().map_err(io_problem("enter", cwd))?,
            None => std::env::current_dir()
                .map_err(|source| Problem::System { what: "find the working directory", source })?,
        };
        let env = self.inherited.iter().filter(|(name, _)| self.passes(name));
        // It is read by being set.
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        Ok(Start {
            program: text(self.program.file.as_os_str()),
            args: self.program.args.iter().map(|arg| text(arg)).collect(),
            env: env
                .map(|(name, value)| {
                    Text::from([name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat())
                })
                .collect(),
            cwd: text(cwd.as_os_str()),
            tmp: text(self.tmp.path().as_os_str()),
            trust: self.means.as_ref().and_then(Means::certificates).map(|dir| text(dir.as_os_str())),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask.as_raw_mode(),
        })
    }

    /// Where the trace is.
    pub(super) fn trace(&self) -> &Path {
        &self.trace
    }

    /// Takes back the trace of a program that never started, which may have been `begun`.
    pub(super) fn discard_trace(&self, begun: bool) {
        if self.made {
            drop(std::fs::remove_dir_all(&self.trace));
        } else if begun {
            failcore_trace::discard(&self.trace);
        }
    }

    /// Whether the program reads nothing from our standard input.
    pub(super) fn stdin_null(&self, args: &Run) -> bool {
        args.stdin == Stdin::Null || self.policy.stdin() == failcore_policy::Stdin::Null
    }

    /// What does not change about this run.
    pub(super) fn about(&self) -> About {
        About {
            session: self.session.clone(),
            agent: self.agent.clone(),
            label: self.label.clone(),
            lane: self.lane,
            policy: self.policy.name().map(str::to_owned),
            command: self.command.clone(),
            trace: self.trace.clone(),
            since: failcore_gate::now(),
        }
    }

    /// The socket where the program's processes attach.
    pub(super) fn socket(&self) -> PathBuf {
        attach(self.door.as_ref(), &self.tmp)
    }

    /// What of this environment reaches the program, and what the lane adds.
    pub(super) fn environment(&self) -> Vec<(OsString, OsString)> {
        let hidden = |name: &OsString| self.means.as_ref().is_some_and(|means| means.hides(name));
        let passed = |name: &OsString| self.passes(name) && !hidden(name);
        let (theirs, mut env): (Vec<_>, Vec<_>) = self
            .inherited
            .iter()
            .filter(|(name, _)| passed(name) && !name.as_encoded_bytes().starts_with(b"FAILCORE_"))
            .cloned()
            .partition(|(name, _)| name == "LD_PRELOAD");
        let mut preload = self.preload.clone().into_os_string();
        for (_, theirs) in theirs {
            preload.push(":");
            preload.push(theirs);
        }
        env.push(("LD_PRELOAD".into(), preload));
        env.push(("PYTHONDONTWRITEBYTECODE".into(), "1".into()));
        env.push(("TMPDIR".into(), self.tmp.path().into()));
        env.push((SOCKET_VAR.into(), self.socket().into()));
        env.push((HOOK_VAR.into(), self.hook.clone().into()));
        env.extend(self.means.iter().flat_map(Means::environment));
        env
    }
}

impl Prepared {
    /// Whether a variable reaches the program: the decision about reading it, made once for the whole run. Nothing is
    /// attempted yet, so nothing is recorded.
    fn passes(&self, name: &OsStr) -> bool {
        let request = Request {
            action: Action::EnvRead(text(name)),
            subject: Subject::default(),
            context: Context { time: SystemTime::now().into(), ..Context::default() },
        };
        self.policy.decide(&request).is_allow() || self.policy.mode() == Mode::Audit
    }
}

/// What a run starts with once its policy is complete.
pub(super) struct Complete {
    pub(super) trace: Opening,
    pub(super) plan: Plan,
    pub(super) cgroup: Option<Cgroup>,
}

/// A trace about to be begun.
pub(super) struct Opening {
    key: PathBuf,
    dir: PathBuf,
    session: String,
    policy: Arc<PolicySet>,
    options: Options,
    coverage: Coverage,
    command: Vec<Text>,
    /// How the program is started, where what it learns is kept.
    start: Option<Start>,
}

impl Opening {
    /// Begins it, with the policy and what is held of it; where that fails nothing is left of it.
    pub(super) fn begin(self) -> Result<Writer, TraceError> {
        // Made on the first run, and only where nothing else stands in its way.
        let key = SigningKey::load_or_create(&self.key)?;
        let mut writer =
            Writer::create_with(&self.dir, &self.session, &key, self.policy.resolved(), self.options)?;
        let opened = Event::SessionOpened {
            policy: self.policy.digest().to_owned(),
            coverage: Box::new(self.coverage),
            command: self.command,
        };
        let started = self.start.map(|start| Event::RecordingStarted { start: Box::new(start) });
        match writer.append_all(std::iter::once(&opened).chain(&started)) {
            Ok(_) => Ok(writer),
            Err(error) => {
                failcore_trace::discard(&self.dir);
                Err(error)
            }
        }
    }
}

/// A recorded program that is to run again, in a world of its own.
pub(crate) struct Again {
    pub(crate) start: Start,
    pub(crate) policy: PolicySet,
    pub(crate) expected: Arc<Expected>,
    pub(crate) replayed: Arc<Replayed>,
    /// What its standard input gives.
    pub(crate) given: Option<Given>,
    /// What of the machine is in its world.
    pub(crate) shown: Vec<PathBuf>,
    /// Where the parts of FailCore were before the world was entered.
    pub(crate) installation: Installation,
    pub(crate) own: PathBuf,
    /// What the owner has for connections that really are made.
    pub(crate) owners: Option<Owners>,
}

impl Again {
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let split = |line: &Text| {
            let at = line.as_bytes().iter().position(|byte| *byte == b'=')?;
            let (name, value) = line.as_bytes().split_at(at);
            Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(&value[1..]).to_owned()))
        };
        self.start.env.iter().filter_map(split).collect()
    }
}

/// Text of a path or an argument as the system takes it.
pub(crate) fn os(text: &Text) -> OsString {
    OsStr::from_bytes(text.as_bytes()).to_owned()
}

/// A directory for the program alone.
pub(super) struct Private {
    path: PathBuf,
    /// Gone with this.
    _made: Option<TempDir>,
}

impl Private {
    /// A new one, for a purpose.
    pub(super) fn new(purpose: &str) -> Result<Self, Failure> {
        let (dir, prefix) = (std::env::temp_dir(), format!("failcore-{purpose}-"));
        let made =
            tempfile::Builder::new().prefix(&prefix).tempdir().map_err(io_problem("write in", &dir))?;
        Ok(Self { path: made.path().to_owned(), _made: Some(made) })
    }

    /// The one that a recorded program had.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(io_problem("make", path))?;
        Ok(Self { path: path.to_owned(), _made: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What is kept of a recorded program's inputs.
fn keeping(args: &Run, env: &Environment, hook: &Path) -> Keeping {
    /// Where machines keep programs and libraries (hier(7)), and Nix.
    const TREES: [&str; 8] = ["/bin", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/sbin", "/usr"];
    let mut libraries: Vec<PathBuf> = TREES.map(PathBuf::from).into();
    libraries.extend(hook.parent().map(Path::to_owned));
    if let Some(python) = &env.python {
        let trees = [&python.prefix, &python.base_prefix, &python.base_exec_prefix];
        let bare = |tree: &&&AbsPath| tree.as_bytes() != b"/";
        libraries.extend(trees.iter().filter(bare).map(|tree| tree.as_path().to_owned()));
        libraries.extend(python.site_packages.iter().map(|tree| tree.as_path().to_owned()));
    }
    Keeping { libraries, self_contained: args.self_contained, ..Keeping::default() }
}

/// The policy of the run, and the file it came from.
fn choose(
    args: &Run,
    program: &Program,
    env: &Environment,
    ui: &Ui,
) -> Result<(PolicySet, Option<PathBuf>), Failure> {
    if let Some(named) = &args.policy {
        let is_file = !named.to_str().is_some_and(|name| name.starts_with("preset:"));
        return Ok((policy::load(named, env)?, is_file.then(|| named.clone())));
    }
    if let Some(found) = trust::nearest() {
        // Trusted before it is read and still so after: nobody changed it in between.
        if trust::is_trusted(&found)? {
            let set = PolicySet::load(&found, env)?;
            if trust::is_trusted(&found)? {
                ui.note(format_args!("policy {}", found.display()));
                return Ok((set, Some(found)));
            }
        }
        ui.note(format_args!(
            "{} is not used: you have not trusted it as it is now; read it, then `failcore trust`, or name it with -p",
            found.display()
        ));
    }
    if !program.is_python {
        ui.note(
            "no policy: the program may use what ordinary programs need; `failcore init` writes a policy",
        );
        return Ok((policy::preset("preset:native", env)?, None));
    }
    let mut set = policy::preset("preset:python", env)?;
    if let Some(script) = &program.script {
        set = set.permit_read(&Links::default().real(script)?);
    }
    ui.note("no policy: the program may use what Python needs and read its script; `failcore init` writes a policy");
    Ok((set, None))
}

/// Where a program's processes attach, given the directory made for that, if one was.
fn attach(door: Option<&Private>, tmp: &Private) -> PathBuf {
    door.map_or(tmp.path(), Private::path).join(".failcore-attach")
}

/// Where paths lead: each directory on the way is followed once.
#[derive(Default)]
struct Links(HashMap<PathBuf, PathBuf>);

impl Links {
    /// The path after symbolic links, as far as it exists.
    fn real(&mut self, path: &Path) -> Result<AbsPath, Failure> {
        let absolute = std::path::absolute(path).map_err(io_problem("resolve", path))?;
        spelt(&self.follow(&absolute).map_err(io_problem("resolve", path))?)
    }

    fn follow(&mut self, path: &Path) -> std::io::Result<PathBuf> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            // The root, or `..`, which is for the kernel to go.
            return path.canonicalize();
        };
        let dir = match self.0.get(above) {
            Some(known) => known.clone(),
            None => {
                let found = self.follow(above)?;
                self.0.insert(above.to_owned(), found.clone());
                found
            }
        };
        let here = dir.join(name);
        Ok(if here.is_symlink() { here.canonicalize().unwrap_or(here) } else { here })
    }
}

/// An absolute path as policies speak of it.
fn spelt(path: &Path) -> Result<AbsPath, Failure> {
    Ok(AbsPath::lexical(path.as_os_str().as_encoded_bytes()).map_err(|error| Problem::Nonsense {
        what: format!("`{}`: {error}", path.display()),
        help: "name another path".into(),
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("real/below")).unwrap();
        std::fs::write(base.join("real/file"), "").unwrap();
        std::os::unix::fs::symlink("real/below", base.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", base.join("dangling")).unwrap();
        let mut links = Links::default();
        for (path, leads) in [
            ("real/file", "real/file"),
            ("link", "real/below"),
            ("link/later/on", "real/below/later/on"),
            // Not where the spelling says.
            ("link/../file", "real/file"),
            ("dangling", "dangling"),
            ("dangling/x", "dangling/x"),
        ] {
            assert_eq!(links.real(&base.join(path)).unwrap().as_path(), base.join(leads), "{path}");
        }
        assert!(links.real(&base.join("nowhere/../file")).is_err());
    }
}
