//! One tree over components for paths, host labels and names, in which literals, globs and `**` stand side by side.
//!
//! Walking it costs what the path costs, not what the rules cost: literals are one hash look-up each, globs are
//! tried only where they stand, and of those that stand together only the few that the ends of the component allow.
//! Patterns are few steps apart from each other only where they share their beginning.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::candidates::Candidates;
use crate::pattern::{Glob, Part};

/// Positions followed at once without allocation; policies with more `**` than this still decide, more slowly.
const USUAL: usize = 24;

/// A set of patterns over components, each with values.
#[derive(Debug, Clone)]
pub(crate) struct Trie<T> {
    nodes: Vec<Node<T>>,
}

#[derive(Debug, Clone)]
struct Node<T> {
    literals: FxHashMap<Box<[u8]>, u32>,
    globs: Vec<(Glob, u32)>,
    /// Which of them can match, where there are too many to try each.
    candidates: Option<Candidates>,
    /// The position after `**`, entered without consuming a component.
    deep: Option<u32>,
    /// Whether it is such a position: every component leaves one there.
    stays: bool,
    /// Values of the patterns that end here.
    here: Vec<T>,
}

/// A component, and another name it goes by (`/proc/1234` is `/proc/self` to that process).
pub(crate) type Step<'a> = (&'a [u8], Option<&'a [u8]>);

type Positions = SmallVec<[u32; USUAL]>;

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::new(false)] }
    }
}

impl<T> Node<T> {
    fn new(stays: bool) -> Self {
        Self {
            literals: FxHashMap::default(),
            globs: Vec::new(),
            candidates: None,
            deep: None,
            stays,
            here: Vec::new(),
        }
    }
}

impl<T> Trie<T> {
    /// Adds a value under a pattern.
    pub(crate) fn insert(&mut self, parts: &[Part], value: T) {
        let at = parts.iter().fold(0, |at, part| self.child(at, part));
        self.nodes[at as usize].here.push(value);
    }

    /// Adds a value under one component that may be a glob.
    pub(crate) fn insert_name(&mut self, name: &Glob, value: T) {
        let part = match name.literal() {
            Some(literal) => Part::Literal(literal.into()),
            None => Part::Glob(name.clone()),
        };
        self.insert(&[part], value);
    }

    fn child(&mut self, at: u32, part: &Part) -> u32 {
        let next = self.nodes.len() as u32;
        let node = &mut self.nodes[at as usize];
        let found = match part {
            Part::Literal(name) => *node.literals.entry(name.clone()).or_insert(next),
            Part::Deep => *node.deep.get_or_insert(next),
            Part::Glob(glob) => match node.globs.iter().find(|(known, _)| known == glob) {
                Some((_, child)) => *child,
                None => {
                    node.globs.push((glob.clone(), next));
                    next
                }
            },
        };
        if found == next {
            self.nodes.push(Node::new(*part == Part::Deep));
        }
        found
    }

    /// Prepares places with many globs; call once after the last insertion.
    pub(crate) fn finish(&mut self) {
        for node in &mut self.nodes {
            node.candidates = Candidates::among(node.globs.iter().map(|(glob, _)| glob));
        }
    }

    /// Calls `visit` with the values of every pattern that matches the whole or its beginning, saying which.
    pub(crate) fn walk<'a>(&self, steps: impl Iterator<Item = Step<'a>>, mut visit: impl FnMut(&T, bool)) {
        self.positions(steps, |values, whole| values.iter().for_each(|value| visit(value, whole)));
    }

    /// The values of patterns that could match something below, other than by a leading `**` alone.
    pub(crate) fn below<'a>(&self, steps: impl Iterator<Item = Step<'a>>, mut visit: impl FnMut(&T)) {
        let floating = self.nodes[0].deep;
        let mut todo = self.positions(steps, |_, _| {});
        todo.retain(|at| Some(*at) != floating);
        while let Some(node) = todo.pop().and_then(|at| self.nodes.get(at as usize)) {
            // A position after `**` is also entered through its parent: once is enough.
            let children =
                node.literals.values().chain(node.globs.iter().map(|(_, child)| child)).chain(&node.deep);
            for child in children.filter(|child| Some(**child) != floating) {
                self.nodes[*child as usize].here.iter().for_each(&mut visit);
                todo.push(*child);
            }
        }
    }

    /// Follows the steps and returns the positions they end at.
    fn positions<'a>(
        &self,
        mut steps: impl Iterator<Item = Step<'a>>,
        mut visit: impl FnMut(&[T], bool),
    ) -> Positions {
        let mut ahead = steps.next();
        let (mut one, mut other) = (Positions::new(), Positions::new());
        let (mut now, mut next) = (&mut one, &mut other);
        self.enter(now, 0);
        visit(&self.nodes[0].here, ahead.is_none());
        while let Some((name, alias)) = ahead {
            ahead = steps.next();
            next.clear();
            for at in now.iter() {
                let node = &self.nodes[*at as usize];
                if node.stays && !next.contains(at) {
                    next.push(*at);
                }
                self.advance(node, name, next);
                if let Some(alias) = alias {
                    self.advance(node, alias, next);
                }
            }
            for at in next.iter() {
                let here = &self.nodes[*at as usize].here;
                if !here.is_empty() {
                    visit(here, ahead.is_none());
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        std::mem::take(now)
    }

    fn enter(&self, positions: &mut Positions, at: u32) {
        positions.push(at);
        // Only a position after `**` can be reached in two ways, and there is none after another.
        if let Some(deep) = self.nodes[at as usize].deep
            && !positions.contains(&deep)
        {
            positions.push(deep);
        }
    }

    fn advance(&self, node: &Node<T>, name: &[u8], next: &mut Positions) {
        if let Some(child) = node.literals.get(name) {
            self.enter(next, *child);
        }
        if node.globs.is_empty() {
            return;
        }
        let mut attempt = |n: usize| {
            if let Some((glob, child)) = node.globs.get(n)
                && glob.matches(name)
                && !next.contains(child)
            {
                self.enter(next, *child);
            }
        };
        match &node.candidates {
            None => (0..node.globs.len()).for_each(attempt),
            Some(candidates) => candidates.of(name, |n| attempt(n as usize)),
        }
    }
}
