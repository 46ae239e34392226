//! Enforcement by Linux, and the memory shared between an agent and its parent.
