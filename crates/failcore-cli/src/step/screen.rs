//! What is on the screen: what is known of the trace, the records around the present one, all about that one, and the keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Paragraph};

use super::keys::{BINDINGS, SHORT};
use super::styled::wrapped;

/// The least lines that the list and the details get.
const LIST: u16 = 3;

/// What is to be drawn.
#[derive(Default)]
pub(super) struct View {
    /// What is known of the trace, one line each.
    pub(super) head: Vec<Line<'static>>,
    /// The records around the present one, which is the `at`th of them.
    pub(super) list: Vec<Line<'static>>,
    pub(super) at: usize,
    /// All about the present one, and how many lines of that are scrolled away.
    pub(super) details: Vec<Line<'static>>,
    pub(super) scrolled: usize,
    /// Where one is, and what is being done.
    pub(super) state: Line<'static>,
    /// What is being typed: what for, and so far.
    pub(super) typed: Option<(&'static str, String)>,
    /// Whether the keys are explained.
    pub(super) help: bool,
    pub(super) coloured: bool,
}

/// The parts of the screen: head, list, state, details, keys.
fn parts(area: Rect, head: u16) -> [Rect; 5] {
    let list = (area.height.saturating_sub(head + 2) * 2 / 5).max(LIST);
    Layout::vertical([
        Constraint::Length(head),
        Constraint::Length(list),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area)
}

/// How many records the list shows at once on a screen of this size.
pub(super) fn page(area: Rect, head: usize) -> usize {
    usize::from(parts(area, head as u16)[1].height)
}

/// Draws it. Scrolling stops where the details end.
pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let area = frame.area();
    let [head, list, state, details, keys] = parts(area, view.head.len() as u16);
    frame.render_widget(Paragraph::new(std::mem::take(&mut view.head)), head);

    let marked = |(nth, line): (usize, Line<'static>)| match nth == view.at {
        true => {
            let mut spans = vec![Span::from("▶ ").bold()];
            spans.extend(line.spans);
            Line::from(spans).style(Style::new().add_modifier(Modifier::REVERSED))
        }
        false => {
            let mut spans = vec![Span::from("  ")];
            spans.extend(line.spans);
            Line::from(spans)
        }
    };
    let rows: Vec<Line<'static>> =
        std::mem::take(&mut view.list).into_iter().enumerate().map(marked).collect();
    frame.render_widget(Paragraph::new(rows), list);

    let rule = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new("─".repeat(area.width.into())).style(rule), state);
    let state = Rect { x: state.x.saturating_add(2).min(area.right()), ..state };
    let width = (view.state.width() as u16).min(area.right() - state.x);
    frame.render_widget(Paragraph::new(std::mem::take(&mut view.state)), Rect { width, ..state });

    let all: Vec<Line<'static>> = if view.help {
        let name = |name: &str| Span::from(format!("  {name:<12}")).bold();
        let lines = BINDINGS.iter().map(|binding| Line::from(vec![name(binding.name), binding.what.into()]));
        lines.chain(EXPLAINED.iter().map(|line| Line::from(*line))).collect()
    } else {
        std::mem::take(&mut view.details)
    };
    let all: Vec<Line<'static>> = all.into_iter().flat_map(|line| wrapped(line, details.width)).collect();
    let height = usize::from(details.height);
    view.scrolled = view.scrolled.min(all.len().saturating_sub(height));
    let below = all.len().saturating_sub(view.scrolled + height);
    let shown: Vec<Line<'static>> = all.into_iter().skip(view.scrolled).take(height).collect();
    frame.render_widget(Paragraph::new(shown), details);
    if below > 0 && details.height > 1 {
        let more = Line::from(format!(" J: {below} more ")).dim();
        let width = (more.width() as u16).min(details.width);
        let at = Rect { x: details.right() - width, y: details.bottom() - 1, width, height: 1 };
        frame.render_widget(Clear, at);
        frame.render_widget(Paragraph::new(more), at);
    }

    match &view.typed {
        Some((what, typed)) => {
            let line = Line::from(vec![Span::from(*what).bold(), Span::from(" "), Span::from(typed.clone())]);
            let end = (line.width() as u16).min(keys.width.saturating_sub(1));
            let hidden = (line.width() as u16).saturating_sub(end);
            frame.render_widget(Paragraph::new(line).scroll((0, hidden)), keys);
            if keys.height > 0 {
                frame.set_cursor_position((keys.x + end, keys.y));
            }
        }
        None => frame.render_widget(Paragraph::new(Line::from(short(keys.width)).dim()), keys),
    }
    if !view.coloured {
        for cell in &mut frame.buffer_mut().content {
            (cell.fg, cell.bg) = Default::default();
        }
    }
}

/// What the keys cannot say of themselves.
const EXPLAINED: &[&str] = &[
    "",
    "  search and filter take text, and the conditions of `failcore trace show`:",
    "    --denied   --verb 'net.*'   --tool NAME   --path DIR",
    "  Text is looked for in what is shown of a record; case matters where there is a capital letter.",
    "  An empty filter shows all again. Esc ends a search, a line that is typed, and this page.",
];

/// The short list of keys, without those in the middle that do not fit.
fn short(width: u16) -> String {
    let mut keys: Vec<&str> = SHORT.split("  ").collect();
    let all = |keys: &[&str]| keys.join("  ");
    while all(&keys).chars().count() > width.into() && keys.len() > 2 {
        keys.remove(keys.len() - 3);
    }
    all(&keys)
}
