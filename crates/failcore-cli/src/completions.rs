//! `failcore completions` and `failcore man`: what is generated from the command line's own definition.

use std::path::Path;

use clap::CommandFactory;
use serde::Serialize;

use crate::args::{Cli, Completions, Man};
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::ui::{Ui, count};

/// Prints the completions of a shell.
pub(crate) fn completions(args: &Completions, ui: &mut Ui) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "failcore", &mut script);
    if ui.is_json() {
        let script = String::from_utf8_lossy(&script).into_owned();
        ui.json(&Script { shell: args.shell.to_string(), script })?;
    } else {
        ui.with(|out| out.write_all(&script))?;
    }
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct Script {
    shell: String,
    script: String,
}

/// Writes one manual page a command.
pub(crate) fn man(args: &Man, ui: &mut Ui) -> Result<Exit, Failure> {
    std::fs::create_dir_all(&args.dir).map_err(|error| Problem::io("make", &args.dir, error))?;
    let mut pages = Vec::new();
    write_pages(Cli::command().name("failcore"), &args.dir, &mut pages)?;
    if ui.is_json() {
        ui.json(&Pages { pages })?;
    } else {
        ui.note(format_args!("{} written to {}", count(pages.len(), "page"), args.dir.display()));
    }
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct Pages {
    pages: Vec<String>,
}

fn write_pages(command: clap::Command, dir: &Path, pages: &mut Vec<String>) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        let bin = format!("{} {}", name.replace('-', " "), child.get_name());
        write_pages(child.clone().name(format!("{name}-{}", child.get_name())).bin_name(bin), dir, pages)?;
    }
    let mut page = Vec::new();
    let file = dir.join(format!("{name}.1"));
    clap_mangen::Man::new(command)
        .render(&mut page)
        .and_then(|()| std::fs::write(&file, page))
        .map_err(|error| Problem::io("write", &file, error))?;
    pages.push(format!("{name}.1"));
    Ok(())
}
