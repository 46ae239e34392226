//! Enforcement by Linux, and the memory that an agent's process shares with its parent.
//!
//! In a `failcore run` the parent alone holds trace and key. An agent's process attaches once over a unix socket
//! and gets, as descriptors, the policy, a [`ring`] of its own to put records into, and a page of counters; it maps
//! them and closes every descriptor, so that nothing it could close, duplicate or exhaust stands between it and
//! the record. The parent drains the rings into the trace and grants each ring credit only for space that is
//! assured on disk: no credit, no operation.

mod alive;
mod attach;
mod attributes;
mod beside;
mod births;
mod brokered;
mod call;
mod callers;
mod calls;
mod carried;
mod cgroup;
mod chance;
mod directories;
mod duty;
mod exec;
mod features;
mod filter;
mod groups;
mod guardian;
mod inherited;
mod ipc;
mod island;
mod landlock;
mod launch;
mod likely;
mod lineage;
mod memory;
mod messages;
mod metadata;
mod mounts;
mod names;
mod notify;
mod observed;
mod open;
mod own;
mod page;
mod patience;
mod peer;
mod plan;
mod privileges;
pub mod probe;
mod processes;
mod receiver;
mod reception;
mod ring;
mod roster;
mod said;
mod server;
mod shared;
mod slots;
mod sockets;
mod standstill;
mod supervisor;
mod tasks;
mod unheard;
mod vdso;
mod voices;
mod walk;
mod wire;
mod workers;
mod world;

pub use attach::{AttachError, Attachment, Supervised};
pub use cgroup::{Cgroup, CgroupError};
pub use features::Features;
pub use inherited::close_on_exec;
pub use launch::{Launch, Parent, StartError, Supervisor};
pub use mounts::Mounts;
pub use page::{RunPage, Sampled};
pub use peer::Peer;
pub use plan::{Images, Plan, lower};
pub use privileges::lacking_capabilities;
pub use receiver::receiver;
pub use reception::{Reception, dial, wait_at_most};
pub use said::is_seen;
pub use server::{Door, Ledger, Served, Server, ServerError, Tally};
pub use slots::{Slot, Slots};
pub use tasks::{descends, ignored_signals};
pub use wire::{WireError, receive, send};
pub use world::{World, WorldError};

/// Environment variable with the path of the run's attach socket.
pub const SOCKET_VAR: &str = "FAILCORE_SOCKET";
/// Environment variable with the path of the shared object that holds the interpreter hook.
pub const HOOK_VAR: &str = "FAILCORE_HOOK";
