//! The command line of Hearth.

fn main() {}
