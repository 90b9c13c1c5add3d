//! The `walpurge` command.

fn main() {}
