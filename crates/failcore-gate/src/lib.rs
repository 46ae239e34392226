//! The reference monitor: completes a request, decides it, records the decision and mints the grant.
//!
//! This is the only place where deciding and recording meet. An enforcement point hands an [`Action`] to
//! [`Gate::check`]; it gets back a [`Grant`], which functions that act for the agent demand, or a
//! [`Denial`] to render. What a gate needs from the outside it takes through ports: [`Sink`] (the trace),
//! [`Names`] (pinned host names), [`Meter`] (counters) and [`Approver`] (a person). [`Broker`] is the port by which
//! one enforcement point hands connections to another.
//!
//! [`Action`]: failcore_model::Action
//! [`Denial`]: failcore_model::Denial

pub mod compare;
pub mod coverage;
pub mod expected;
mod gate;
mod ports;
pub mod replay;
pub mod resolve;
mod sockaddr;

pub use gate::{Actor, Builder, Gate, Grant, now};
pub use ports::{
    Appearance, Approver, Broker, DNS_PORT, Meter, Names, Naming, NoNames, Nobody, Outside, Passage, Relay,
    Sender, Sink, SinkError, Uncounted, Witness,
};
pub use sockaddr::SockAddr;
