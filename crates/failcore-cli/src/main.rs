//! The `failcore` command.
//!
//! `main` parses, hands over to one file a command and turns what comes back into an exit code. A command returns
//! an answer to [`ui::Ui`] and an [`exit::Exit`]; it never prints for itself.

mod args;
mod bisect;
mod check;
mod completions;
mod control;
mod diff;
mod doctor;
mod exit;
mod explain;
mod failure;
mod init;
mod install;
mod interpreter;
mod outside;
mod policy;
mod replay;
mod rerun;
mod run;
mod step;
mod trace;
mod trust;
mod ui;

use std::process::ExitCode;

use failcore_model::Answer;

use args::{Cli, Command, Face};
use exit::Exit;
use failure::{Failure, Problem};
use ui::Ui;

fn main() -> ExitCode {
    let done = match Cli::of_ours() {
        Ok(cli) => {
            let mut ui = Ui::new(&cli.face);
            dispatch(&cli.command, &mut ui).and_then(|exit| ui.flush().map(|()| exit))
        }
        Err(error) => Err(misread(&error)),
    };
    done.unwrap_or_else(|failure| {
        ui::report(&failure);
        failure.exit
    })
    .into()
}

/// A command line that makes no sense, where errors are to be JSON; else it is said as clap says it, and so is help.
fn misread(error: &clap::Error) -> Failure {
    let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if !error.use_stderr() || !json {
        error.exit();
    }
    Ui::new(&Face { json, ..Face::default() });
    let text = error.render().to_string();
    let (what, usage) = text.split_once("\n\n").unwrap_or((&text, ""));
    let what = what.strip_prefix("error: ").unwrap_or(what).to_owned();
    Problem::Nonsense { what, help: usage.trim().to_owned() }.into()
}

fn dispatch(command: &Command, ui: &mut Ui) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => run::run(args, ui),
        Command::Ps => control::ps(ui),
        Command::Pause(args) => control::pause(args, ui),
        Command::Resume(args) => control::resume(args, ui),
        Command::Stop(args) => control::stop(args, ui),
        Command::Tail(args) => control::tail(args, ui),
        Command::Approve(args) => control::answer(args, Answer::Approved, ui),
        Command::Deny(args) => control::answer(args, Answer::Denied, ui),
        Command::Check(args) => check::run(args, ui),
        Command::Explain(args) => explain::run(args, ui),
        Command::Policy(args) => policy::run(args, ui),
        Command::Init(args) => init::run(args, ui),
        Command::Trust(args) => trust::run(args, ui),
        Command::Trace(args) => trace::run(args, ui),
        Command::Step(args) => step::run(args, ui),
        Command::Replay(args) => replay::run(args, ui),
        Command::Diff(args) => diff::run(args, ui),
        Command::Bisect(args) => bisect::run(args, ui),
        Command::Doctor(args) => doctor::run(args, ui),
        Command::Completions(args) => completions::completions(args, ui),
        Command::Outside => outside::run(),
        Command::Man(args) => completions::man(args, ui),
    }
}
