//! What of the payloads that a program reads is kept while it is recorded: `[record]`.

use failcore_model::AbsPath;
use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;

/// Which payloads a recording keeps; of the rest it has the hash alone. Decides nothing about what the program may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Payloads {
    /// The longest file that is kept, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_file: Option<u64>,
    /// What all that is kept may come to, in bytes; a run whose recording would need more is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total: Option<u64>,
    /// What is kept; absent, whatever the recorder keeps by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keep: Option<Vec<Pattern>>,
    /// What is not, whatever else says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hash_only: Vec<Pattern>,
}

impl Payloads {
    /// Whether the file at `path` is among those that are kept; `None` where nothing is said of which are.
    pub fn keeps(&self, path: &AbsPath) -> Option<bool> {
        self.keep.as_deref().map(|keep| any(keep, path))
    }

    /// Whether the contents of the file at `path` are not kept, whatever else says so.
    pub fn only_hashes(&self, path: &AbsPath) -> bool {
        any(&self.hash_only, path)
    }

    /// What is kept, as patterns; `None` where nothing is said.
    pub fn kept(&self) -> Option<&[Pattern]> {
        self.keep.as_deref()
    }

    /// What is not kept, as patterns.
    pub fn hash_only(&self) -> &[Pattern] {
        &self.hash_only
    }

    /// Takes in what another file says: what is kept adds up, what is not stands, and of limits the smallest.
    pub(crate) fn add(&mut self, other: Self) {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        self.max_file = least(self.max_file, other.max_file);
        self.max_total = least(self.max_total, other.max_total);
        if let Some(keep) = other.keep {
            self.keep.get_or_insert_default().extend(keep);
        }
        self.hash_only.extend(other.hash_only);
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn any(patterns: &[Pattern], path: &AbsPath) -> bool {
    patterns.iter().any(|pattern| pattern.covers(path))
}
