//! The daemon: the loop's executor, the HTTP API, wiring.

fn main() {}
