//! Enforcement at the network edge: resolve once, pin, carry or refuse.
