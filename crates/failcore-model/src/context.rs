//! Every other fact a decision may look at, filled by the gate.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{HostName, Timestamp};

/// Facts beside subject and action. What is not here cannot change a decision.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Which enforcement point asks.
    pub lane: Lane,
    /// When it was decided, by the deciding process's clock.
    pub time: Timestamp,
    /// Names that our own resolution pinned to the address of the action and that are still valid.
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    #[schemars(with = "Vec<HostName>")]
    pub names: SmallVec<[HostName; 1]>,
    /// Addresses that the host of the action resolved to at this moment.
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    #[schemars(with = "Vec<IpAddr>")]
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// Counters of the session before this operation.
    #[serde(default, skip_serializing_if = "Counters::is_zero")]
    pub counters: Counters,
}

/// How an operation reached the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The audit hook in the interpreter: advisory.
    #[default]
    Runtime,
    /// The supervisor with Landlock and seccomp.
    Kernel,
    /// eBPF programs.
    Bpf,
    /// The network broker.
    Broker,
    /// A trace being replayed.
    Replay,
}

impl Lane {
    /// The lane's name in options and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Kernel => "kernel",
            Self::Bpf => "bpf",
            Self::Broker => "broker",
            Self::Replay => "replay",
        }
    }
}

/// What the session has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Counters {
    /// Nanoseconds since the session was opened.
    #[serde(skip_serializing_if = "zero")]
    pub wall_ns: u64,
    /// Operations allowed.
    #[serde(skip_serializing_if = "zero")]
    pub operations: u64,
    /// Connections allowed.
    #[serde(skip_serializing_if = "zero")]
    pub connections: u64,
    /// Processes alive.
    #[serde(skip_serializing_if = "zero")]
    pub processes: u64,
    /// Bytes written, sampled.
    #[serde(skip_serializing_if = "zero")]
    pub write_bytes: u64,
    /// Bytes of memory in use, sampled.
    #[serde(skip_serializing_if = "zero")]
    pub memory: u64,
}

impl Counters {
    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn zero(n: &u64) -> bool {
    *n == 0
}
