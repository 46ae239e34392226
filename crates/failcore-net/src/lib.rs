//! Enforcement at the network edge: resolve once, pin, carry or refuse.
//!
//! A name is judged, looked up once through the system's own resolver or the owner's, its answers are filtered by address class
//! and pinned; a connect is then judged by the socket address that the kernel will use, with the names pinned to
//! it. So a name that leads elsewhere at the second look leads nowhere.
//!
//! Nothing here decides: the caller brings the judgement, and [`Pins`] answers the gate's question which names an
//! address was reached by.

mod answers;
mod as_asked;
mod askers;
mod broker;
mod hosts;
mod judged;
mod pins;
mod question;
mod resolver;
mod upstream;

pub use answers::{Chain, NoChain};
pub use broker::BrokerServer;
pub use failcore_gate::SockAddr;
pub use hosts::Hosts;
pub use pins::Pins;
pub use question::{About, NoQuestion, Question, Reply};
pub use resolver::{Answer, Found, LookupError, ResolveError, Resolver, getaddrinfo};
pub use upstream::{Upstream, UpstreamError};
