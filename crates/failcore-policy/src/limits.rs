//! What a session may use up.

use serde::{Deserialize, Serialize};

/// Budgets of a session; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Nanoseconds the session may last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_time: Option<u64>,
    /// Bytes of memory, sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes alive at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Connections made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Bytes written, sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes: Option<u64>,
    /// Operations allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
}

impl Limits {
    /// The names of the limits, as written in a policy.
    pub const NAMES: [&str; 6] =
        ["wall_time", "memory", "processes", "connections", "write_bytes", "operations"];

    /// The limit of that name.
    pub fn named(&self, name: &str) -> Option<u64> {
        match name {
            "wall_time" => self.wall_time,
            "memory" => self.memory,
            "processes" => self.processes,
            "connections" => self.connections,
            "write_bytes" => self.write_bytes,
            "operations" => self.operations,
            _ => None,
        }
    }

    /// One limit alone.
    pub(crate) fn only(name: &str, most: u64) -> Self {
        let most_if = |this| (name == this).then_some(most);
        Self {
            wall_time: most_if("wall_time"),
            memory: most_if("memory"),
            processes: most_if("processes"),
            connections: most_if("connections"),
            write_bytes: most_if("write_bytes"),
            operations: most_if("operations"),
        }
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The smaller of both, limit by limit: a parent's limit stands whatever a child says.
    #[must_use]
    pub fn tightened_by(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            wall_time: least(self.wall_time, other.wall_time),
            memory: least(self.memory, other.memory),
            processes: least(self.processes, other.processes),
            connections: least(self.connections, other.connections),
            write_bytes: least(self.write_bytes, other.write_bytes),
            operations: least(self.operations, other.operations),
        }
    }
}

/// Budgets of single messages on carried connections, which stand under `[net]`.
pub(crate) const MESSAGE_BUDGETS: [&str; 2] = ["request_bytes", "response_bytes"];

/// Nanoseconds of a text such as `30m`, `1h30m`, `500ms`.
pub fn duration(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 5] = [
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ];
    let (mut rest, mut sum) = (text.trim(), 0u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, unit, after) = measure(rest)?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(number.checked_mul(*factor)?)?;
        rest = after;
    }
    i64::try_from(sum).ok().map(i64::unsigned_abs)
}

/// Bytes of a text such as `2GiB`, `500MB`, `4096`.
pub(crate) fn size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("B", 1),
        ("kB", 1_000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("TB", 1_000_000_000_000),
        ("TiB", 1 << 40),
    ];
    let (number, unit, after) = measure(text.trim())?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let bytes = number.checked_mul(*factor).filter(|_| after.is_empty())?;
    i64::try_from(bytes).ok().map(i64::unsigned_abs)
}

/// A number, the letters after it, and what follows.
fn measure(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (unit, after) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, after.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("30m"), Some(1_800_000_000_000));
        assert_eq!(duration("1h 30m"), Some(5_400_000_000_000));
        assert_eq!(duration("500ms"), Some(500_000_000));
        for wrong in ["", "30", "m", "3y", "30m!", "-1s", "99999999999d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("2GiB"), Some(2 << 30));
        assert_eq!(size("10 MB"), Some(10_000_000));
        assert_eq!(size("4096"), Some(4096));
        for wrong in ["", "GiB", "2gib", "2GiB2", "99999999TiB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
