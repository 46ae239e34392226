//! The record: encoding, Merkle log, append, read, verify, prove, redact.
