//! The `failcore` command.

fn main() {}
