//! The `failcore` command.
//!
//! `main` parses, hands over to one file a command and turns what comes back into an exit code. A command returns
//! an answer to [`ui::Ui`] and an [`exit::Exit`]; it never prints for itself.

mod args;
mod check;
mod completions;
mod control;
mod doctor;
mod exit;
mod explain;
mod failure;
mod init;
mod install;
mod interpreter;
mod policy;
mod replay;
mod run;
mod trace;
mod trust;
mod ui;

use std::process::ExitCode;

use clap::Parser;
use failcore_model::Answer;

use args::{Cli, Command};
use exit::Exit;
use failure::Failure;
use ui::Ui;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut ui = Ui::new(&cli.face);
    let done = dispatch(&cli.command, &mut ui).and_then(|exit| ui.flush().map(|()| exit));
    done.unwrap_or_else(|failure| {
        ui::report(&failure);
        failure.exit
    })
    .into()
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
        Command::Replay(args) => replay::run(args, ui),
        Command::Doctor(args) => doctor::run(args, ui),
        Command::Completions(args) => completions::completions(args, ui),
        Command::Man(args) => completions::man(args, ui),
    }
}
