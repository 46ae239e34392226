//! The keys, in one table: what is shown of them, and what each does.

use ratatui::crossterm::event::KeyCode;

use super::position::{Goal, Move, Way};

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Go(Move),
    Ask(Asked),
    /// Only what was refused, or all again.
    Denials,
    /// The details, by so many lines.
    Scroll(Way),
    Help,
    Quit,
}

/// What is typed in a line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Number,
    Search,
    Filter,
}

/// Keys that do the same.
pub(super) struct Binding {
    keys: &'static [KeyCode],
    /// How they are written.
    pub(super) name: &'static str,
    /// What they do.
    pub(super) what: &'static str,
    order: Order,
}

const fn to(goal: Goal, way: Way) -> Order {
    Order::Go(Move::To(goal, way))
}

/// Every key there is.
pub(super) const BINDINGS: &[Binding] = &[
    bind(&[KeyCode::Down, KeyCode::Char('j')], "↓ j", "next record", to(Goal::Shown, Way::Forward)),
    bind(&[KeyCode::Up, KeyCode::Char('k')], "↑ k", "previous record", to(Goal::Shown, Way::Back)),
    bind(&[KeyCode::Right, KeyCode::Char('l')], "→ l", "next operation", to(Goal::Operation, Way::Forward)),
    bind(&[KeyCode::Left, KeyCode::Char('h')], "← h", "previous operation", to(Goal::Operation, Way::Back)),
    bind(
        &[KeyCode::Tab, KeyCode::Char('s')],
        "Tab s",
        "next step: where a tool begins",
        to(Goal::Step, Way::Forward),
    ),
    bind(&[KeyCode::BackTab, KeyCode::Char('S')], "Shift-Tab S", "previous step", to(Goal::Step, Way::Back)),
    bind(&[KeyCode::Char('d')], "d", "next refusal", to(Goal::Denial, Way::Forward)),
    bind(&[KeyCode::Char('D')], "D", "previous refusal", to(Goal::Denial, Way::Back)),
    bind(
        &[KeyCode::PageDown, KeyCode::Char(' ')],
        "PgDn Space",
        "a page on",
        Order::Go(Move::Page(Way::Forward)),
    ),
    bind(&[KeyCode::PageUp, KeyCode::Char('b')], "PgUp b", "a page back", Order::Go(Move::Page(Way::Back))),
    bind(&[KeyCode::Home, KeyCode::Char('g')], "Home g", "first record", Order::Go(Move::First)),
    bind(&[KeyCode::End, KeyCode::Char('G')], "End G", "last record", Order::Go(Move::Last)),
    bind(&[KeyCode::Char(':')], ":", "go to a number", Order::Ask(Asked::Number)),
    bind(&[KeyCode::Char('/')], "/", "search", Order::Ask(Asked::Search)),
    bind(&[KeyCode::Char('n')], "n", "next match", to(Goal::Match, Way::Forward)),
    bind(&[KeyCode::Char('N')], "N", "previous match", to(Goal::Match, Way::Back)),
    bind(&[KeyCode::Char('f')], "f", "refusals only, or all again", Order::Denials),
    bind(&[KeyCode::Char('F')], "F", "filter", Order::Ask(Asked::Filter)),
    bind(&[KeyCode::Char('J')], "J", "details down", Order::Scroll(Way::Forward)),
    bind(&[KeyCode::Char('K')], "K", "details up", Order::Scroll(Way::Back)),
    bind(&[KeyCode::Char('?')], "?", "the keys, or back", Order::Help),
    bind(&[KeyCode::Char('q')], "q", "quit", Order::Quit),
];

const fn bind(keys: &'static [KeyCode], name: &'static str, what: &'static str, order: Order) -> Binding {
    Binding { keys, name, what, order }
}

/// What a key asks for, if anything.
pub(super) fn order(key: KeyCode) -> Option<Order> {
    BINDINGS.iter().find(|binding| binding.keys.contains(&key)).map(|binding| binding.order)
}

/// The most useful keys in one line, as far as they fit: the last are how to see the others, and how to leave.
pub(super) const SHORT: &str =
    "↓↑ record  →← operation  Tab step  d D refusal  : number  / search  f refusals only  ? keys  q quit";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_key_stands_twice() {
        let keys: Vec<&KeyCode> = BINDINGS.iter().flat_map(|binding| binding.keys).collect();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
        assert_eq!(order(KeyCode::Char('q')), Some(Order::Quit));
        assert_eq!(order(KeyCode::F(1)), None);
    }

    #[test]
    fn the_page_on_traces_lists_every_key() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/trace.md");
        let page = std::fs::read_to_string(page).unwrap();
        let written = page.split("<!-- keys -->").nth(1).unwrap().split("<!-- /keys -->").next().unwrap();
        let rows: Vec<&str> = written.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = BINDINGS
            .iter()
            .map(|Binding { name, what, .. }| {
                let names: Vec<String> = name.split(' ').map(|name| format!("`{name}`")).collect();
                format!("| {} | {what} |", names.join(" "))
            })
            .collect();
        assert_eq!(rows, expected);
    }
}
