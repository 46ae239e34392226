//! Enforcement at the network edge: resolve once, pin, carry or refuse.
//!
//! A name is judged, looked up once through the system's own resolver, its answers are filtered by address class
//! and pinned; a connect is then judged by the socket address that the kernel will use, with the names pinned to
//! it. So a name that leads elsewhere at the second look leads nowhere.
//!
//! Nothing here decides: the caller brings the judgement, and [`Pins`] answers the gate's question which names an
//! address was reached by.

mod pins;
mod resolver;

pub use failcore_gate::SockAddr;
pub use pins::Pins;
pub use resolver::{Answer, LookupError, ResolveError, Resolver};
