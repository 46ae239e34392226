//! The rules, arranged for deciding.

use crate::pattern::Glob;
use crate::resolved::Resolved;
use crate::rule::{Effect, Object};

/// What `decide` looks things up in.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    env: Vec<Glob>,
    tools: Vec<Glob>,
}

impl Index {
    pub(crate) fn build(resolved: &Resolved) -> Self {
        let permits = resolved.rules.iter().filter(|r| r.effect == Effect::Permit && r.tool.is_none());
        let env = permits.flat_map(|rule| &rule.objects).filter_map(|object| match object {
            Object::Env(name) => Some(name.clone()),
            _ => None,
        });
        Self { env: env.collect(), tools: resolved.tools.iter().map(|tool| tool.name.clone()).collect() }
    }

    pub(crate) fn env_passes(&self, name: &[u8]) -> bool {
        self.env.iter().any(|glob| glob.matches(name))
    }

    pub(crate) fn tools_of(&self, tool: &[u8]) -> impl Iterator<Item = usize> {
        self.tools.iter().enumerate().filter(move |(_, glob)| glob.matches(tool)).map(|(n, _)| n)
    }
}
