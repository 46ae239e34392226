//! What is printed elsewhere, as lines of a screen.
//!
//! # Security
//! All text of a trace that gets to the screen goes through here. Control characters come out escaped: what an agent
//! wrote into a name cannot move the cursor, colour what others said or talk to the terminal.

use std::io::Write;

use anstream::adapter::WinconBytes;
use anstyle::{AnsiColor, Color, Effects};
use failcore_model::Text;
use ratatui::style::{self, Modifier};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthChar;

/// The longest line that is shown, in characters; arguments of programs can be megabytes.
const LONGEST: usize = 4000;

/// What `write` prints, line by line.
pub(super) fn printed(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    // Memory takes everything.
    drop(write(&mut out));
    let mut lines = vec![Line::default()];
    for (style, text) in WinconBytes::new().extract_next(&out) {
        for (nth, part) in text.split('\n').enumerate() {
            if nth > 0 {
                lines.push(Line::default());
            }
            if let Some(line) = lines.last_mut().filter(|_| !part.is_empty()) {
                line.spans.push(Span::styled(escaped(part), converted(style)));
            }
        }
    }
    if lines.last().is_some_and(|line| line.spans.is_empty()) {
        lines.pop();
    }
    lines
}

/// Text in a style.
pub(super) fn styled(style: anstyle::Style, text: &str) -> Span<'static> {
    Span::styled(escaped(text), converted(style))
}

/// Text without control characters, and not without end.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = Text::from(text.replace('\t', "    ").as_str()).to_string();
    if let Some((end, _)) = escaped.char_indices().nth(LONGEST) {
        let more = escaped[end..].chars().count();
        escaped.truncate(end);
        escaped += &format!(" … and {more} more characters");
    }
    escaped
}

fn converted(style: anstyle::Style) -> style::Style {
    let mut converted = style::Style::new();
    if let Some(Color::Ansi(colour)) = style.get_fg_color() {
        converted = converted.fg(match colour {
            AnsiColor::Green => style::Color::Green,
            AnsiColor::Red => style::Color::Red,
            AnsiColor::Yellow => style::Color::Yellow,
            _ => style::Color::Reset,
        });
    }
    for (effect, modifier) in [(Effects::BOLD, Modifier::BOLD), (Effects::DIMMED, Modifier::DIM)] {
        if style.get_effects().contains(effect) {
            converted = converted.add_modifier(modifier);
        }
    }
    converted
}

/// A line as lines of at most so many columns, those after the first indented by two.
pub(super) fn wrapped(line: Line<'static>, width: u16) -> Vec<Line<'static>> {
    let width = usize::from(width.max(4));
    if line.width() <= width {
        return vec![line];
    }
    let mut lines = vec![Line::default()];
    let mut taken = 0;
    for span in line.spans {
        let mut text = String::new();
        for c in span.content.chars() {
            let wide = c.width().unwrap_or(0);
            if taken + wide > width {
                lines
                    .last_mut()
                    .unwrap_or(&mut Line::default())
                    .spans
                    .push(Span::styled(std::mem::take(&mut text), span.style));
                lines.push(Line::from("  "));
                taken = 2;
            }
            taken += wide;
            text.push(c);
        }
        if let Some(line) = lines.last_mut() {
            line.spans.push(Span::styled(text, span.style));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::{BAD, Styled};

    fn plain(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn styles_are_kept_and_lines_parted() {
        let lines = printed(|out| write!(out, "a {}\n\nc", Styled(BAD, "bad\nworse")));
        assert_eq!(plain(&lines), ["a bad", "worse", "", "c"]);
        assert_eq!(lines[0].spans[0].style, style::Style::new());
        let bad = style::Style::new().fg(style::Color::Red).add_modifier(Modifier::BOLD);
        assert_eq!((lines[0].spans[1].style, lines[1].spans[0].style), (bad, bad));
    }

    #[test]
    fn no_control_character_gets_through() {
        let hostile = "\x1b]0;title\x07 \x1b[2J\x1b[31m \u{9b}31m \r\x08\x7f\t\x0c\u{85}";
        for lines in [printed(|out| write!(out, "{hostile}")), vec![Line::from(styled(BAD, hostile))]] {
            let text = plain(&lines).concat();
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
        assert_eq!(escaped("a\x1b[31mb"), "a\\u{1b}[31mb");
    }

    #[test]
    fn what_is_long_is_cut_and_what_is_wide_is_wrapped() {
        assert!(escaped(&"x".repeat(LONGEST + 7)).ends_with("x … and 7 more characters"));
        let line = Line::from(vec![Span::raw("abcdef"), Span::raw("日本語ghi")]);
        assert_eq!(plain(&wrapped(line.clone(), 8)), ["abcdef日", "  本語gh", "  i"]);
        assert_eq!(plain(&wrapped(line.clone(), 80)), ["abcdef日本語ghi"]);
        assert!(wrapped(line, 0).iter().all(|line| line.width() <= 4));
    }
}
