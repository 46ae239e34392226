//! The decision point: policy text to a checked PolicySet, and decide.
