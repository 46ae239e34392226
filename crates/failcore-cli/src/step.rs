//! `failcore step`: goes through a trace at a terminal.
//!
//! `position` says where one is and what to look at, without reading anything; `walk` reads; `screen` draws; here the keys
//! are heard.

mod details;
mod keys;
mod payload;
mod position;
mod relations;
mod scopes;
mod screen;
mod styled;
mod terminal;
#[cfg(test)]
mod tests;
mod walk;
mod wanted;

use std::io::{self, IsTerminal};
use std::time::Duration;

use failcore_model::Event;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::text::Line;

use self::keys::{Asked, Order, order};
use self::position::{Goal, Move, Way};
use self::screen::{View, draw, page};
use self::styled::styled;
use self::terminal::Terminal;
use self::walk::Walk;
use self::wanted::Wanted;
use crate::args::{Filter, Step};
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::trace::{self, Believed};
use crate::ui::{FAINT, GOOD, STRONG, Ui, WARN};

/// How long is looked for something before the keys are heard again.
const SLICE: Duration = Duration::from_millis(30);
/// How often is seen whether a signal came.
const GLANCE: Duration = Duration::from_millis(100);

/// Shows the trace until somebody leaves.
pub(crate) fn run(args: &Step, ui: &mut Ui) -> Result<Exit, Failure> {
    if ui.is_json() || !io::stdout().is_terminal() {
        let what = if ui.is_json() {
            "`failcore step` answers nobody but a person"
        } else {
            "there is no terminal to step at"
        };
        return Err(Problem::Nonsense {
            what: what.into(),
            help: "`failcore trace show` prints the records, `failcore trace explain` tells all about one"
                .into(),
        }
        .into());
    }
    let dir = trace::locate(&args.trace)?;
    let bar = trace::looking(ui, "verifying");
    let begun = trace::believed(&dir).and_then(|believed| {
        bar.set_message("reading");
        Ok((believed, Walk::begin(&dir)?))
    });
    bar.finish_and_clear();
    let (believed, walk) = begun?;
    let mut stepper = Stepper::new(walk, &believed, args.filter.clone(), args.seq)?;
    stepper.coloured = ui.is_coloured();
    let failed = |source| Problem::System { what: "show anything at the terminal", source };
    let mut terminal = Terminal::take().map_err(failed)?;
    loop {
        if let Some(signal) = terminal.signal() {
            return Err(failed(terminal.end_by(signal)).into());
        }
        stepper.resize(terminal.size().map_err(failed)?);
        stepper.walk.work(SLICE);
        terminal.draw(|frame| stepper.draw(frame)).map_err(failed)?;
        if !event::poll(if stepper.walk.is_busy() { Duration::ZERO } else { GLANCE }).map_err(failed)? {
            continue;
        }
        // All that was typed meanwhile, so that nobody waits for screens that nobody sees.
        while event::poll(Duration::ZERO).map_err(failed)? {
            if let Input::Key(key) = event::read().map_err(failed)?
                && !stepper.key(key)
            {
                return Ok(Exit::Success);
            }
        }
    }
}

/// Somebody who goes through a trace.
struct Stepper {
    walk: Walk,
    head: Vec<Line<'static>>,
    /// The filter in words, where there is one.
    filter: Option<String>,
    typed: Option<(Asked, String)>,
    /// What there is to say about what was typed last.
    said: Option<String>,
    help: bool,
    scrolled: usize,
    /// How many lines a key scrolls.
    stride: usize,
    coloured: bool,
}

impl Stepper {
    fn new(mut walk: Walk, believed: &Believed, filter: Filter, seq: Option<u64>) -> Result<Self, Failure> {
        let mut head = Vec::new();
        if let Some(first) = walk.first() {
            let mut line = vec![styled(STRONG, &first.session)];
            if let Event::SessionOpened { command, .. } = &first.event {
                line.push(styled(anstyle::Style::new(), &format!("  {}", trace::command(command))));
            }
            head.push(Line::from(line));
        }
        let style = if matches!(believed, Believed::Whole(_)) { GOOD } else { WARN };
        head.push(styled(style, &believed.to_string()).into());
        let wanted = Wanted::new(filter)?;
        let filter = wanted.is_narrow().then(|| "as on the command line".to_owned());
        let mut stepper = Self {
            walk,
            head,
            filter,
            typed: None,
            said: None,
            help: false,
            scrolled: 0,
            stride: 1,
            coloured: true,
        };
        stepper.walk.filter(Some(wanted));
        match seq {
            Some(seq) => stepper.number(seq),
            None if stepper.filter.is_some() => stepper.walk.go(Move::First),
            None => {}
        }
        Ok(stepper)
    }

    /// Takes in how large the screen is.
    fn resize(&mut self, area: Rect) {
        let page = page(area, self.head.len());
        self.walk.set_page(page);
        self.stride = (usize::from(area.height) / 4).max(1);
    }

    /// Does what a key asks for; whether to go on.
    fn key(&mut self, key: KeyEvent) -> bool {
        let KeyEvent { code, modifiers, kind, .. } = key;
        if kind == KeyEventKind::Release {
            return true;
        }
        let at = self.walk.position().at();
        match (&self.typed, modifiers.contains(KeyModifiers::CONTROL)) {
            (_, true) => return code != KeyCode::Char('c'),
            (Some(_), _) => self.line(code),
            (None, _) if code == KeyCode::Esc => {
                self.walk.stay();
                self.said = None;
                self.help = false;
            }
            (None, _) => match order(code) {
                Some(Order::Quit) => return false,
                Some(order) => self.order(order),
                None => {}
            },
        }
        // What is near is there before the next key counts.
        self.walk.travel(SLICE);
        if self.walk.position().at() != at {
            self.scrolled = 0;
        }
        true
    }

    fn order(&mut self, order: Order) {
        self.said = None;
        match order {
            Order::Go(Move::To(Goal::Match, _)) if !self.walk.has_search() => {
                self.said = Some("nothing was searched for yet".into());
            }
            Order::Go(to) => {
                self.help = false;
                self.walk.go(to);
            }
            Order::Ask(asked) => self.typed = Some((asked, String::new())),
            Order::Denials => match self.filter {
                Some(_) => self.narrow(None),
                None => self.narrow(Some("--denied".into())),
            },
            Order::Scroll(Way::Forward) => self.scrolled += self.stride,
            Order::Scroll(Way::Back) => self.scrolled = self.scrolled.saturating_sub(self.stride),
            Order::Help => {
                self.help = !self.help;
                self.scrolled = 0;
            }
            Order::Quit => {}
        }
    }

    /// Takes a key in the line that is typed.
    fn line(&mut self, code: KeyCode) {
        let Some((asked, mut typed)) = self.typed.take() else { return };
        match code {
            KeyCode::Esc => return,
            KeyCode::Enter => return self.enter(asked, typed),
            KeyCode::Backspace if typed.is_empty() => return,
            KeyCode::Backspace => drop(typed.pop()),
            KeyCode::Char(c) if !c.is_control() => typed.push(c),
            _ => {}
        }
        self.typed = Some((asked, typed));
    }

    fn enter(&mut self, asked: Asked, typed: String) {
        self.help = false;
        match asked {
            Asked::Number => match typed.trim().parse() {
                Ok(seq) => self.number(seq),
                Err(_) => self.said = Some(format!("`{typed}` is no number")),
            },
            Asked::Search => {
                if !typed.trim().is_empty() {
                    match Wanted::typed(&typed) {
                        Ok(wanted) => self.walk.search(wanted),
                        Err(why) => return self.said = Some(why),
                    }
                }
                self.order(Order::Go(Move::To(Goal::Match, Way::Forward)));
            }
            Asked::Filter => self.narrow(Some(typed)),
        }
    }

    fn number(&mut self, seq: u64) {
        let last = self.walk.position().len() - 1;
        self.said = (seq > last).then(|| format!("there is no record {seq}: the last one is {last}"));
        self.walk.go(Move::Number(seq));
    }

    /// Sets the filter to what was typed, or none.
    fn narrow(&mut self, words: Option<String>) {
        let words = words.filter(|words| !words.trim().is_empty());
        match words.as_deref().map(Wanted::typed).transpose() {
            Ok(wanted) => {
                self.walk.filter(wanted);
                self.filter = words;
            }
            Err(why) => self.said = Some(why),
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let listed = self.walk.list();
        let here = self.walk.position().at();
        let at = listed.iter().position(|(seq, _)| *seq == here).unwrap_or_default();
        let mut view = View {
            head: self.head.clone(),
            list: listed.into_iter().map(|(_, line)| line).collect(),
            at,
            details: self.walk.details().to_vec(),
            scrolled: self.scrolled,
            state: self.state(),
            typed: self.typed.as_ref().map(|(asked, typed)| {
                let what = match asked {
                    Asked::Number => "go to record:",
                    Asked::Search => "search for:",
                    Asked::Filter => "show only:",
                };
                (what, styled::escaped(typed))
            }),
            help: self.help,
            coloured: self.coloured,
        };
        draw(frame, &mut view);
        self.scrolled = view.scrolled;
    }

    /// Where one is, and what is being done.
    fn state(&mut self) -> Line<'static> {
        let position = self.walk.position();
        let (at, last) = (position.at(), position.len() - 1);
        let goal = |goal| match goal {
            Goal::Shown => "record that the filter shows",
            Goal::Operation => "operation",
            Goal::Step => "step",
            Goal::Denial => "refusal",
            Goal::Match => "match",
        };
        let mut line = vec![styled(STRONG, &format!(" record {at} of 0 to {last} "))];
        if let Some((sought, so_far)) = position.seeks() {
            let text = format!(" looking for a {} at {so_far}; Esc ends it ", goal(sought));
            line.push(styled(WARN, &text));
        }
        if let Some((missed, way)) = position.missed() {
            let further = if way == Way::Forward { "further" } else { "earlier" };
            line.push(styled(WARN, &format!(" no {further} {} ", goal(missed))));
        }
        if let Some(said) = &self.said {
            line.push(styled(WARN, &format!(" {said} ")));
        }
        if let Some(filter) = &self.filter {
            let left_out = if self.walk.is_shown(at) { "" } else { ", which leaves this one out" };
            line.push(styled(FAINT, &format!(" filter: {filter}{left_out} ")));
        }
        line.into()
    }
}
