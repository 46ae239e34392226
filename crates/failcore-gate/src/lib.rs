//! The reference monitor: completes a request, decides it, records the decision and mints the grant.
//!
//! This is the only place where deciding and recording meet. An enforcement point hands an [`Action`] to
//! [`Gate::check`]; it gets back a [`Grant`], which functions that act for the agent demand, or a
//! [`Denial`] to render. What a gate needs from the outside it takes through ports: [`Sink`] (the trace),
//! [`Names`] (pinned host names), [`Meter`] (counters) and [`Approver`] (a person).
//!
//! [`Action`]: failcore_model::Action
//! [`Denial`]: failcore_model::Denial

pub mod coverage;
mod gate;
mod ports;
pub mod replay;
pub mod resolve;
mod sockaddr;

pub use gate::{Actor, Builder, Gate, Grant};
pub use ports::{Approver, Meter, Names, NoNames, Nobody, Sink, SinkError, Uncounted};
pub use sockaddr::SockAddr;
