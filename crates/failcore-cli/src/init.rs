//! `failcore init`: a commented policy to start from.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::args::Init;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::ui::{Answer, STRONG, Styled, Ui};

/// The policy that is written.
pub(crate) const STARTER: &str = include_str!("starter.toml");

/// Writes the starter policy to a file that is not there yet.
pub(crate) fn run(args: &Init, ui: &mut Ui) -> Result<Exit, Failure> {
    let path = &args.file;
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            Problem::Exists { path: path.clone() }
        } else {
            Problem::io("make", path, error)
        }
    })?;
    file.write_all(STARTER.as_bytes()).map_err(|error| {
        // Half a policy would be taken for a whole one.
        drop(std::fs::remove_file(path));
        Problem::io("write", path, error)
    })?;
    ui.answer(&Written { file: path.clone() })?;
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct Written {
    file: PathBuf,
}

impl Answer for Written {
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let file = self.file.display();
        writeln!(out, "{file} written; read it, change it, then:")?;
        writeln!(out, "  {}", Styled(STRONG, format_args!("failcore check {file}")))?;
        writeln!(out, "  {}", Styled(STRONG, format_args!("failcore run -p {file} -- python agent.py")))
    }
}
