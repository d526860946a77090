//! PID 1 and agent in the guest, one static binary.

fn main() {}
