//! Loads the gate into every CPython before its interpreter initialises, and into nothing else.
