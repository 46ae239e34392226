//! The one way out: answers in words or JSON on the standard output, everything else on the standard error.

use std::fmt::{self, Display};
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use failcore_model::Text;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::args::{Color, Face};
use crate::failure::Failure;

/// Allowed, found, in order.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Refused, broken.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Worth a look.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// Headings, the words that matter.
pub(crate) const STRONG: Style = Style::new().bold();
/// What may be skipped.
pub(crate) const FAINT: Style = Style::new().dimmed();

/// An answer with its two faces: words for people, JSON for programs.
pub(crate) trait Answer: Serialize {
    /// Writes it for people.
    fn tell(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Where answers, notes and progress go.
pub(crate) struct Ui {
    out: BufWriter<AutoStream<StdoutLock<'static>>>,
    json: bool,
    quiet: bool,
    gone: bool,
}

impl Ui {
    /// Sets colours up for the whole process and takes the standard output.
    pub(crate) fn new(face: &Face) -> Self {
        let choice = match face.color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        let coloured = match AutoStream::choice(&io::stderr()) {
            anstream::ColorChoice::Never => false,
            _ => choice != anstream::ColorChoice::Never,
        };
        let (json, width) = (face.json, terminal_width());
        // The only call of this function: an error here would mean that a handler is already set.
        drop(miette::set_hook(Box::new(move |_| {
            if json {
                return Box::new(miette::JSONReportHandler::new());
            }
            Box::new(miette::MietteHandlerOpts::new().color(coloured).unicode(true).width(width).build())
        })));
        Self {
            out: BufWriter::new(AutoStream::auto(io::stdout().lock())),
            json,
            quiet: face.quiet,
            gone: false,
        }
    }

    /// Whether answers are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether the standard output takes colours.
    pub(crate) fn is_coloured(&self) -> bool {
        AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
    }

    /// Whether nobody reads any more (`| head`): the work may stop, which is no error.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Shows an answer.
    pub(crate) fn answer(&mut self, answer: &impl Answer) -> Result<(), Failure> {
        if self.json {
            return self.json(answer);
        }
        self.with(|out| answer.tell(out))
    }

    /// Writes one line of JSON.
    pub(crate) fn json(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Failure> {
        self.with(|out| {
            serde_json::to_writer(&mut *out, value)?;
            out.write_all(b"\n")
        })
    }

    /// Writes to the standard output; a reader that went away is noticed and no error.
    pub(crate) fn with(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.gone {
            return Ok(());
        }
        let done = write(&mut self.out);
        self.settle(done)
    }

    /// Hands on what is buffered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if self.gone {
            return Ok(());
        }
        let done = self.out.flush();
        self.settle(done)
    }

    fn settle(&mut self, done: io::Result<()>) -> Result<(), Failure> {
        match done {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            Err(source) => Err(crate::failure::Problem::System { what: "write the answer", source }.into()),
            Ok(()) => Ok(()),
        }
    }

    /// Says something that is no answer, on the standard error, unless asked to be quiet.
    pub(crate) fn note(&self, text: impl Display) {
        self.notes().note(text);
    }

    /// The same for other threads.
    pub(crate) fn notes(&self) -> Notes {
        Notes { json: self.json, quiet: self.quiet }
    }

    /// A progress bar on the standard error, where that is a terminal and somebody wants to see it.
    pub(crate) fn progress(&self, what: &'static str, total: Option<u64>) -> ProgressBar {
        let draw = if self.quiet || self.json || !io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let template = match total {
            Some(_) => "{msg} {wide_bar} {percent}% {eta}",
            None => "{msg} {spinner} {pos} ({per_sec})",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(total, draw).with_style(style).with_message(what)
    }
}

/// Says what is no answer, as [`Ui::note`] does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notes {
    json: bool,
    quiet: bool,
}

impl Notes {
    /// Says it.
    pub(crate) fn note(self, text: impl Display) {
        if self.quiet {
            return;
        }
        if self.json {
            json_note(&serde_json::json!({ "note": text.to_string() }));
        } else {
            note(text);
        }
    }
}

/// Says something on the standard error, marked as ours so that it is not taken for the program's.
fn note(text: impl Display) {
    // Nobody to hear it is no reason to stop.
    let line = format!("{FAINT}failcore:{FAINT:#} {text}\n");
    // At once, so that nothing of the program's comes between.
    drop(anstream::stderr().write_all(line.as_bytes()));
}

/// Says something on the standard error as a line of JSON.
pub(crate) fn json_note(value: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(value) {
        drop(io::stderr().write_all(format!("{line}\n").as_bytes()));
    }
}

/// Shows an error on the standard error.
pub(crate) fn report(failure: &Failure) {
    drop(writeln!(anstream::stderr(), "{:?}", failure.report));
}

/// Where errors are wrapped: not at all in a file or pipe, which is searched by line.
fn terminal_width() -> usize {
    rustix::termios::tcgetwinsize(io::stderr())
        .map_or(usize::from(u16::MAX), |size| usize::from(size.ws_col).clamp(40, 120))
}

/// A value in a style; padding counts the value alone.
pub(crate) struct Styled<T>(pub(crate) Style, pub(crate) T);

impl<T: Display> Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.1.fmt(f)?;
        write!(f, "{:#}", self.0)
    }
}

/// Columns as wide as their widest cell, two spaces apart; the last one is not padded.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Vec<(Style, String)>>,
}

impl Table {
    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [(Style, String); N]) {
        self.rows.push(cells.into());
    }

    /// Writes it, each line after `indent`.
    pub(crate) fn write(&self, out: &mut dyn Write, indent: &str) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|(_, text): &(Style, String)| text.width())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            write!(out, "{indent}")?;
            let last = row.iter().rposition(|(_, text)| !text.is_empty()).unwrap_or(0);
            for (column, (style, text)) in row.iter().enumerate().take(last + 1) {
                let padding = if column == last { 0 } else { widths[column] + 2 - text.width() };
                write!(out, "{}{:padding$}", Styled(*style, text), "")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// A call site in short: the file's own name and the line.
pub(crate) fn place(site: &Text) -> Text {
    let name = site.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    Text::from(name)
}

/// A number with its noun: `1 record`, `2 records`, `3 processes`.
pub(crate) fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number: u64 = number.try_into().unwrap_or(u64::MAX);
    let plural = match noun.ends_with('s') {
        _ if number == 1 => "",
        true => "es",
        false => "s",
    };
    format!("{number} {noun}{plural}")
}

/// A sentence as part of another: no capital, no stop.
pub(crate) fn clause(sentence: &str) -> String {
    let mut chars = sentence.trim_end_matches('.').chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_whatever_their_style_and_width() {
        let mut table = Table::default();
        table.row([(GOOD, "日本".into()), (FAINT, "a".into())]);
        table.row([(BAD, "x".into()), (FAINT, String::new())]);
        let mut out = Vec::new();
        table.write(&mut out, "  ").unwrap();
        let plain = anstream::adapter::strip_bytes(&out).into_vec();
        assert_eq!(String::from_utf8(plain).unwrap(), "  日本  a\n  x\n");
    }

    #[test]
    fn nouns_follow_their_number() {
        assert_eq!(count(1usize, "record"), "1 record");
        assert_eq!(count(0usize, "record"), "0 records");
        assert_eq!(count(2usize, "process"), "2 processes");
    }
}
