//! The command line: every command, option and help text. Completions and man pages are made from it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use failcore_model::Verb;

/// Runs AI agents and other untrusted programs under a policy, records what they do, explains and replays it.
#[derive(Debug, Parser)]
#[command(name = "failcore", version, after_help = crate::exit::TABLE, disable_help_subcommand = true)]
#[command(max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) face: Face,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The same where a program is to run: what all other commands take and say need not be made first, which is most of the
/// time that a command line takes.
#[derive(Debug, Parser)]
#[command(name = "failcore", disable_help_subcommand = true)]
struct Runner {
    #[command(flatten)]
    face: Face,
    #[command(subcommand)]
    command: RunOnly,
}

#[derive(Debug, Subcommand)]
enum RunOnly {
    Run(Run),
}

impl Cli {
    /// Reads our own command line.
    pub(crate) fn of_ours() -> Result<Self, clap::Error> {
        let first = std::env::args_os().skip(1).find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
        // Where it is not understood, or asks for help, all of us answers.
        if first.is_some_and(|first| first == "run")
            && let Ok(Runner { face, command: RunOnly::Run(run) }) = Runner::try_parse()
        {
            return Ok(Self { face, command: Command::Run(run) });
        }
        Self::try_parse()
    }
}

/// How answers are shown.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Face {
    /// Answer in JSON: one object, or one a line where there are many
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// Say nothing beside the answer and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program under a policy
    Run(Run),
    /// List the runs that are under way
    Ps,
    /// Hold a run still: nothing of it runs and nothing is done for it
    Pause(Named),
    /// Let a paused run go on
    Resume(Named),
    /// End a run and everything it started, at once
    Stop(Stop),
    /// Show the records of a run as they are written, until it ends
    Tail(Tail),
    /// Allow what a run asks leave for; without a number, list what it asks
    Approve(Asked),
    /// Refuse what a run asks leave for; without a number, list what it asks
    Deny(Asked),
    /// Check a policy: errors, rules without effect, and what each lane holds
    Check(Check),
    /// Say what a policy answers to one request, and why
    Explain(Explain),
    /// Show, compare or describe policies
    #[command(subcommand)]
    Policy(Policy),
    /// Write a commented policy to start from
    Init(Init),
    /// Trust a failcore.toml, so that `run` uses it without -p
    Trust(Trust),
    /// Read and verify traces
    #[command(subcommand)]
    Trace(Trace),
    /// Go through a trace at a terminal: by record, operation, tool and refusal
    ///
    /// Of each record it shows what was asked for, what was decided, by which rule in which line, what would permit it, what
    /// came of it, what was read, and which tools were at work. `?` lists the keys.
    Step(Step),
    /// Run a recorded program again, or decide traces again under another policy
    Replay(Replay),
    /// Say where two runs part
    Diff(Diff),
    /// Find the first operation of a trace that two policies decide otherwise
    Bisect(Bisect),
    /// Say what this machine can hold, and why not
    Doctor(Doctor),
    /// Print the completions of a shell
    Completions(Completions),
    /// Write the manual pages
    Man(Man),
    /// Make connections for a program that is run again; started by `replay` alone
    #[command(hide = true)]
    Outside,
}

/// The policy a program runs under is the file given with -p; else the nearest failcore.toml from the working
/// directory upwards, if you trusted its present contents (`failcore trust`); else what Python, or an ordinary
/// program, itself needs, and the script. The command that you name may start, unless the policy denies it.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
#[command(after_help = "\
Examples:
  failcore run -- python agent.py
  failcore run -p agent.toml --agent researcher -- .venv/bin/python -m my_agent
  failcore run -p build.toml -- make test")]
pub(crate) struct Run {
    /// The policy
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) policy: Option<PathBuf>,
    /// Where the trace goes: a directory that does not exist yet
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) trace: Option<PathBuf>,
    /// What enforces the policy
    #[arg(long, value_name = "LANE", default_value = "auto")]
    pub(crate) lane: LaneChoice,
    /// Where the program starts; here where not given
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) cwd: Option<PathBuf>,
    /// What the program reads as its standard input
    #[arg(long, value_name = "WHAT", default_value = "inherit")]
    pub(crate) stdin: Stdin,
    /// The agent's name, for the trace
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// Your own label for this run, for the trace
    #[arg(long = "run", value_name = "LABEL")]
    pub(crate) label: Option<String>,
    /// How long a question for leave (`approve = true`) waits for an answer, here or by `failcore approve`
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    pub(crate) patience: Duration,
    /// Keep what the program learns from outside, so that `failcore replay` can run it again with nothing outside
    #[arg(long)]
    pub(crate) record: bool,
    /// Keep what interpreters, programs and libraries hold too, not only their hashes
    #[arg(long, requires = "record")]
    pub(crate) self_contained: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// A run under way is named by its session id, by a unique beginning of that, or by the label it was given with
/// `--run`.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The run
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  failcore stop 0198f3a2
  failcore stop --grace 5s nightly")]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Ask the program to end first (SIGTERM), and wait so long before it is made to
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    pub(crate) grace: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// The run; one that has ended is named as its trace is
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) rows: ShownRows,
}

#[derive(Debug, Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    pub(crate) named: Named,
    /// The number of the question
    #[arg(value_name = "ID")]
    pub(crate) id: Option<u64>,
}

fn time(text: &str) -> Result<Duration, String> {
    failcore_policy::duration(text)
        .map(Duration::from_nanos)
        .ok_or_else(|| "write it as `5s` or `1m30s`".into())
}

/// What enforces the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LaneChoice {
    /// The kernel lane; where this machine cannot hold it the run does not start, and says why
    Auto,
    /// A supervisor with seccomp and Landlock: binds the whole process tree, programs of any kind
    Kernel,
    /// The audit hook in the Python interpreter; native code in the same process can go round it
    Runtime,
}

/// The standard input of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stdin {
    /// Yours
    Inherit,
    /// Nothing
    Null,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The policy
    #[arg(value_name = "POLICY", value_hint = ValueHint::FilePath)]
    pub(crate) policy: PathBuf,
    /// List your rules with how well each lane holds them
    #[arg(long)]
    pub(crate) matrix: bool,
    /// End with exit code 3 where a rule does nothing
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  failcore explain agent.toml fs.read ./work/notes.txt
  failcore explain agent.toml fs.write ./work/notes.txt
  failcore explain agent.toml net.connect api.openai.com:443
  failcore explain agent.toml process.exec 'git push origin'")]
pub(crate) struct Explain {
    /// The policy: a file, or a preset such as `preset:python`
    #[arg(value_name = "POLICY", value_hint = ValueHint::FilePath)]
    pub(crate) policy: PathBuf,
    /// The verb, such as fs.read, net.connect or process.exec; or `capabilities.keep`
    #[arg(value_name = "VERB")]
    pub(crate) verb: String,
    /// On what: a path, host:port, a program with its arguments …
    #[arg(value_name = "RESOURCE")]
    pub(crate) resource: OsString,
    /// Judge it inside this tool scope; more than once for scopes within scopes, the outermost first
    #[arg(long, value_name = "NAME")]
    pub(crate) tool: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Print a policy as it is resolved: everything it extends and expands, in one file
    Show {
        /// The policy: a file, or a preset such as `preset:python`
        #[arg(value_name = "POLICY", value_hint = ValueHint::FilePath)]
        policy: PathBuf,
    },
    /// Compare the rules of two policies; exit code 3 where they differ
    Diff {
        /// The one before
        #[arg(value_name = "OLD", value_hint = ValueHint::FilePath)]
        old: PathBuf,
        /// The one after
        #[arg(value_name = "NEW", value_hint = ValueHint::FilePath)]
        new: PathBuf,
    },
    /// Print the JSON Schema of policy files
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to write it; nothing is ever overwritten
    #[arg(value_name = "FILE", default_value = "failcore.toml", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// The policy; the nearest failcore.toml from the working directory upwards where not given
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
    /// Take the trust back
    #[arg(long)]
    pub(crate) revoke: bool,
}

/// A trace is named by its directory, or by its session id or a unique beginning of it.
#[derive(Debug, Subcommand)]
pub(crate) enum Trace {
    /// List the traces of this user's runs, the newest first
    List,
    /// Show the records of a trace
    Show(Show),
    /// Show records as they are written, until the session closes
    Tail(Show),
    /// Check that a trace is whole, unchanged and closed
    Verify {
        /// The trace
        #[arg(value_name = "TRACE", value_hint = ValueHint::DirPath)]
        trace: PathBuf,
        /// Trust only this public key (a file), not the one that lies in the trace
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        key: Option<PathBuf>,
    },
    /// Export one record with a proof that verifies alone
    Prove {
        /// The trace
        #[arg(value_name = "TRACE", value_hint = ValueHint::DirPath)]
        trace: PathBuf,
        /// The record's number
        #[arg(value_name = "SEQ")]
        seq: u64,
    },
    /// Explain one record: the rule at its line, and what would permit what was refused
    Explain {
        /// The trace
        #[arg(value_name = "TRACE", value_hint = ValueHint::DirPath)]
        trace: PathBuf,
        /// The record's number
        #[arg(value_name = "SEQ")]
        seq: u64,
    },
    /// Write the records in another form to the standard output
    Export {
        /// The trace
        #[arg(value_name = "TRACE", value_hint = ValueHint::DirPath)]
        trace: PathBuf,
        /// The form
        #[arg(long, value_name = "FORM", default_value = "jsonl")]
        format: Format,
    },
}

/// The form of an export.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line, as in the trace itself, across all its segments
    Jsonl,
    /// One line an operation, comma separated
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The trace
    #[arg(value_name = "TRACE", value_hint = ValueHint::DirPath)]
    pub(crate) trace: PathBuf,
    #[command(flatten)]
    pub(crate) rows: ShownRows,
}

/// Which records are shown, and how.
#[derive(Debug, Args)]
pub(crate) struct ShownRows {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Show every record on a line of its own, repeats and absent files too
    #[arg(long, help_heading = "Filters")]
    pub(crate) all: bool,
}

/// Which records are shown; all conditions must hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct Filter {
    /// Only what was refused
    #[arg(long)]
    pub(crate) denied: bool,
    /// Only these verbs; `fs.*` for a family
    #[arg(long, value_name = "VERB", value_parser = verbs)]
    pub(crate) verb: Vec<Verbs>,
    /// Only what this tool scope did
    #[arg(long, value_name = "NAME")]
    pub(crate) tool: Option<String>,
    /// Only files at or below this path
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) path: Option<PathBuf>,
}

/// One verb, or all of a family.
#[derive(Debug, Clone)]
pub(crate) struct Verbs(pub(crate) Vec<Verb>);

fn verbs(text: &str) -> Result<Verbs, String> {
    let family = text.strip_suffix(".*").map(|family| format!("{family}."));
    let chosen: Vec<Verb> = Verb::ALL
        .iter()
        .copied()
        .filter(|verb| match &family {
            Some(family) => verb.as_str().starts_with(family.as_str()),
            None => verb.as_str() == text,
        })
        .collect();
    if chosen.is_empty() {
        let all: Vec<&str> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
        return Err(format!("no such verb; there are {}", all.join(", ")));
    }
    Ok(Verbs(chosen))
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  failcore step 0198f3a2
  failcore step 0198f3a2 1234
  failcore step 0198f3a2 --denied --tool web_search")]
pub(crate) struct Step {
    /// The trace
    #[arg(value_name = "TRACE", value_hint = ValueHint::DirPath)]
    pub(crate) trace: PathBuf,
    /// The number of the record to begin at
    #[arg(value_name = "SEQ")]
    pub(crate) seq: Option<u64>,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  failcore replay 0198f3a2
  failcore replay 0198f3a2 -- python agent.py
  failcore replay 0198f3a2 -p stricter.toml
  failcore replay -p stricter.toml ~/.local/state/failcore/runs/*")]
pub(crate) struct Replay {
    /// The trace; with a policy, more than one are decided side by side and answered in this order
    #[arg(required = true, value_name = "TRACE", value_hint = ValueHint::DirPath)]
    pub(crate) traces: Vec<PathBuf>,
    /// Decide again what was decided, by this policy; without one, the recorded program is run again
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) policy: Option<PathBuf>,
    /// Where the trace of running it again goes: a directory that does not exist yet
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "policy")]
    pub(crate) trace: Option<PathBuf>,
    /// Run it no further than the first operation from this record on, or of this step or tool
    #[arg(long, value_name = "SEQ|STEP", conflicts_with = "policy")]
    pub(crate) until: Option<String>,
    /// Put another answer in place of the recorded one of this number: bytes of a file, a response or the standard input, addresses of a host, seconds of a clock, random bytes. `trace show --all` tells the numbers
    #[arg(long, value_name = "SEQ=TEXT|@FILE", conflicts_with = "policy", value_parser = Other::parse)]
    pub(crate) set: Vec<Other>,
    /// Let what this rule permits really happen: its connections are made, its files are those of the machine; by its name (`policy.toml#net.connect[0]`, or `net.connect[0]`)
    #[arg(long, value_name = "RULE", conflicts_with = "policy")]
    pub(crate) live: Vec<String>,
    /// The program to run in place of the recorded one, and its arguments
    #[arg(last = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    #[arg(conflicts_with = "policy")]
    pub(crate) command: Vec<OsString>,
}

/// Something in place of what a record tells of.
#[derive(Debug, Clone)]
pub(crate) struct Other {
    /// The record's number.
    pub(crate) seq: u64,
    /// What it is to be.
    pub(crate) bytes: Vec<u8>,
}

impl Other {
    fn parse(text: &str) -> Result<Self, String> {
        let (seq, value) = text.split_once('=').ok_or("it has no `=`")?;
        let seq = seq.parse().map_err(|_| format!("`{seq}` is no record's number"))?;
        let bytes = match value.strip_prefix('@') {
            Some(file) => std::fs::read(file).map_err(|error| format!("{file}: {error}"))?,
            None => value.as_bytes().to_vec(),
        };
        Ok(Self { seq, bytes })
    }
}

/// Operations are matched by tool, verb and resource and by which of its kind each is, whatever order they came in.
/// Process ids, session ids, names of temporary files and ports that the kernel chose count as equal.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  failcore diff 0198f3a2 0198f3b7")]
pub(crate) struct Diff {
    /// One trace
    #[arg(value_name = "FIRST", value_hint = ValueHint::DirPath)]
    pub(crate) first: PathBuf,
    /// Another
    #[arg(value_name = "SECOND", value_hint = ValueHint::DirPath)]
    pub(crate) second: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  failcore bisect 0198f3a2 --good agent.toml --bad new.toml")]
pub(crate) struct Bisect {
    /// The trace
    #[arg(value_name = "TRACE", value_hint = ValueHint::DirPath)]
    pub(crate) trace: PathBuf,
    /// One policy
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) good: PathBuf,
    /// The other
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) bad: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Exit with 126 unless this machine holds the lane
    #[arg(long, value_name = "LANE")]
    pub(crate) lane: Option<LaneChoice>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory they go to
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_program_belongs_to_it() {
        let cli = Cli::parse_from(["failcore", "run", "python", "--json", "-q", "a.py"]);
        let Command::Run(run) = cli.command else { panic!("not a run") };
        assert_eq!(run.command, ["python", "--json", "-q", "a.py"]);
        assert!(!cli.face.json && !cli.face.quiet);
    }

    #[test]
    fn a_family_is_all_its_verbs() {
        assert!(verbs("net.*").unwrap().0.contains(&Verb::NetConnect));
        assert_eq!(verbs("fs.read").unwrap().0, [Verb::FsRead]);
        assert!(verbs("fs.reed").unwrap_err().contains("fs.read"));
    }
}
