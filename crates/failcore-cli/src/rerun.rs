//! `failcore replay` without a policy: runs a recorded program again, with nothing outside.
//!
//! The process enters a world of its own first: the files of the record, laid out in memory, and a network that nobody
//! else is in. There it does what `failcore run` does, under the recorded policy. So nothing that the program does reaches
//! anything, whatever it is, and the gate says where it does something that it did not do before.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, empty, stdin};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use failcore_gate::expected::{Expected, Until};
use failcore_kernel::World;
use failcore_model::AbsPath;
use failcore_policy::{Object, PolicySet, Rule};
use failcore_record::{BadRecording, Live, Objects, Recording, Unready};
use failcore_trace::TraceError;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};

use crate::args::{LaneChoice, Replay, Run, Stdin};
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::install::Installation;
use crate::interpreter::Program;
use crate::outside::Helper;
use crate::run::{self, Again, Owners, os};
use crate::ui::Ui;
use crate::{control, policy, trace};

/// How long a question for leave waits: as in a run of its own.
const PATIENCE: Duration = Duration::from_secs(120);
/// What helps where a recording is not what was recorded.
const ALTERED: &str = "only the trace's directory as it was left can be run again; nothing of it ran";

/// What helps where something is not in it.
const LISTED: &str = "`failcore trace show --all TRACE` lists all records with their numbers";

/// Runs the program of a record again; exit code 5 where it does something else.
pub(crate) fn run(args: &Replay, ui: &mut Ui) -> Result<Exit, Failure> {
    let [name] = &args.traces[..] else {
        return Err(Problem::Nonsense {
            what: "one program is run again at a time".into(),
            help: "name one trace; with `-p POLICY` many are decided again".into(),
        }
        .into());
    };
    let dir = trace::locate(name)?;
    let dir = dir.canonicalize().map_err(|error| Problem::io("find", &dir, error))?;
    if trace::believed(&dir)?.whole(ui.notes()).is_none() {
        let why = "it is not signed to its end, which may be missing".to_owned();
        return Err(Problem::trace(TraceError::Unverified(why)).into());
    }
    let not_again = |why: String, help| Problem::NotAgain { trace: dir.clone(), why, help };
    let others = args.set.iter().map(|other| (other.seq, other.bytes.clone())).collect();
    let recording = Recording::with(trace::read(&dir)?, others).map_err(|error| match error {
        BadRecording::Trace(error) => Problem::trace(error),
        BadRecording::None => not_again(error.to_string(), "record it: `failcore run --record -- CMD`"),
        BadRecording::Broken(_) => not_again(error.to_string(), "record it again, with room for all of it"),
        BadRecording::Nonsense { .. } => not_again(error.to_string(), ALTERED),
        BadRecording::NotSet { .. } => not_again(error.to_string(), LISTED),
    })?;
    let meanwhile: Vec<_> = recording.changed_by_others().map(|file| file.display().to_string()).collect();
    if !meanwhile.is_empty() {
        ui.note(format_args!(
            "others changed these while the program was recorded, which finds them as they were at first: {}",
            meanwhile.join(", ")
        ));
    }
    let mut expected = Expected::read(trace::read(&dir)?).map_err(Problem::trace)?;
    if let Some(until) = &args.until {
        let until = until.parse().map_or_else(|_| Until::Step(until.as_str().into()), Until::Seq);
        let up_to = expected.up_to(&until, trace::read(&dir)?).map_err(Problem::trace)?;
        expected = up_to.map_err(|error| not_again(error.to_string(), LISTED))?;
    }
    let policy = policy::recorded(&dir)?.without_identities();
    let installation = Installation::find();
    let own = std::env::current_exe().unwrap_or_default();

    let start = recording.start.clone();
    let state = failcore_trace::state_dir().map_err(Problem::trace)?;
    let target = args.trace.as_ref().map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
    let mut bound = vec![own.clone(), state];
    bound.extend(
        [&installation.hook, &installation.preload]
            .into_iter()
            .filter_map(|part| Some(part.as_ref().ok()?.parent()?.to_owned())),
    );
    bound.extend(control::paths());
    bound.extend(target.clone());
    for made in bound.iter().skip(1) {
        let made_now = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(made);
        made_now.map_err(|error| Problem::io("make", made, error))?;
    }
    let mut command: Vec<_> = vec![os(&start.program)];
    command.extend(start.args.iter().map(os));
    if !args.command.is_empty() {
        command.clone_from(&args.command);
    }
    // What is named on the command line is what is to be tried out: it is taken as it is now.
    let (own_files, links) =
        if args.command.is_empty() { (Vec::new(), Vec::new()) } else { files_of(&args.command)? };
    let named = own_files.iter().chain(links.iter().map(|(link, _)| link));
    let paths = named.filter_map(|path| AbsPath::new(path.as_os_str().as_encoded_bytes()).ok());
    let (live, owners) = live(&args.live, &policy, &not_again)?;
    let expected = expected.of_program(paths.collect()).but_for(live.rules.clone());
    let expected = Arc::new(expected);
    bound.extend(own_files);
    bound.extend(live.files.clone());
    let objects = Objects::open(&dir).map_err(|error| not_again(error.to_string(), ALTERED))?;
    // Who types is not waited for.
    let mut ours: Box<dyn Read> = match stdin() {
        terminal if terminal.is_terminal() => Box::new(empty()),
        stdin => Box::new(stdin),
    };
    let given = recording.stdin(&objects, &mut ours).map_err(|error| {
        let help = match error {
            Unready::Ungiven => "give it what it was given: `failcore replay TRACE < FILE`",
            _ => ALTERED,
        };
        not_again(error.to_string(), help)
    })?;
    enter(&recording, &objects, &bound, &links).map_err(|(why, help)| not_again(why, help))?;
    rustix::process::umask(Mode::from_raw_mode(start.umask));
    let cwd = PathBuf::from(os(&start.cwd));
    rustix::process::chdir(&cwd).map_err(|errno| Problem::io("enter", &cwd, errno.into()))?;
    let args = Run {
        policy: None,
        trace: target,
        lane: LaneChoice::Kernel,
        cwd: Some(cwd),
        stdin: Stdin::Null,
        agent: None,
        label: None,
        patience: PATIENCE,
        record: false,
        self_contained: false,
        command,
    };
    let replayed = Arc::new(recording.replayed(objects, Arc::clone(&expected)).but_for(live));
    let again = Again { start, policy, expected, replayed, given, shown: bound, installation, own, owners };
    run::again(&args, again, ui)
}

/// What really happens by the rules of these names, and what the owner has for it.
fn live(
    names: &[String],
    policy: &PolicySet,
    not_again: &impl Fn(String, &'static str) -> Problem,
) -> Result<(Live, Option<Owners>), Failure> {
    const NAMED: &str =
        "`failcore policy show` names the rules of a policy; the trace's is its `policy.toml`";
    let mut live = Live::default();
    if names.is_empty() {
        return Ok((live, None));
    }
    for name in names {
        let is = |rule: &&Rule| {
            let id = rule.id.to_string();
            id == *name || id.split_once('#').is_some_and(|(_, place)| place == name)
        };
        let mut found = policy.rules().filter(is).peekable();
        if found.peek().is_none() {
            return Err(not_again(format!("its policy has no rule `{name}`"), NAMED).into());
        }
        for rule in found {
            live.rules.insert(rule.id.clone());
            let files = rule.objects.iter().filter_map(|object| match object {
                Object::File { path, .. } | Object::Exec { image: path, .. } | Object::Library(path) => {
                    path.root()
                }
                _ => None,
            });
            live.files.extend(files.map(|file| file.as_path().to_owned()).filter(|file| file.exists()));
        }
    }
    // Before the world is entered, where all of it is out of reach.
    live.outside = Some(Arc::new(Helper::start()?));
    Ok((live, Some(Owners::gather(policy)?)))
}

/// Links, each with what it says.
type Links = Vec<(PathBuf, PathBuf)>;

/// The files that a program consists of, its own and its script, and the links by which they are named, the last one first.
fn files_of(command: &[OsString]) -> Result<(Vec<PathBuf>, Links), Problem> {
    let Program { file, script, .. } = Program::any(command)?;
    let (mut files, mut links) = (Vec::new(), Links::new());
    for file in [Some(file), script].into_iter().flatten() {
        let Ok(real) = file.canonicalize() else { continue };
        links.extend(links_of(&file));
        files.push(real);
    }
    links.reverse();
    Ok((files, links))
}

/// The links that are followed on the way to a file, in their order.
fn links_of(file: &Path) -> Links {
    /// As many as the kernel follows (path_resolution(7)).
    const MOST: usize = 40;
    let parts = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
    };
    let mut left = parts(&std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
    let (mut at, mut links) = (PathBuf::new(), Links::new());
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        // What is absolute stands instead of all before it.
        let next = at.join(part);
        match next.read_link() {
            Ok(target) if links.len() < MOST => {
                left.extend(parts(&target));
                links.push((next, target));
            }
            _ => at = next,
        }
    }
    links
}

/// Enters the world of a record.
fn enter(
    recording: &Recording,
    objects: &Objects,
    bound: &[PathBuf],
    links: &Links,
) -> Result<(), (String, &'static str)> {
    const NAMESPACES: &str =
        "it needs namespaces of its own: user_namespaces(7) says how machines let ordinary users make them";
    const CHANGED: &str = "bring back what it was; `failcore run --record --self-contained` keeps such files";
    const ROOM: &str =
        "the files of the record are laid out in memory, below the directory for temporary files";
    let place = tempfile::Builder::new().prefix("failcore-replay-").tempdir();
    let place = place.map_err(|error| (format!("no directory can be made: {error}"), ROOM))?;
    // From where it is taken away again, once it cannot be seen any more.
    let above = place.path().parent().unwrap_or(Path::new("/"));
    let above = openat(CWD, above, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let start = &recording.start;
    let world =
        World::begin(place.path(), start.uid, start.gid).map_err(|error| (error.to_string(), NAMESPACES))?;
    recording.lay_out(place.path(), objects, bound).map_err(|error| (error.to_string(), CHANGED))?;
    let root = place.keep();
    world.enter(bound, links).map_err(|error| (error.to_string(), NAMESPACES))?;
    if let (Ok(above), Some(name)) = (above, root.file_name()) {
        let _ = unlinkat(above, name, AtFlags::REMOVEDIR);
    }
    Ok(())
}
