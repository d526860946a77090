//! Calls that another process makes for a thread of this one.
//!
//! A thread that is in the kernel hears no signal, and its process does not end before it does. One
//! that waits for another process' answer hears them all: so that process may hang, and this one
//! ends when it has to.

use std::fmt::Write as _;

use hearth_host::waits;

/// Those who make calls for threads of this process.
pub trait Elsewhere: Send + Sync + 'static {
    /// The process that works for this thread at the moment.
    fn of_thread(&self, tid: i32) -> Option<i32>;

    /// It takes too long: what can be broken off without leaving anything half-way may be. It is not
    /// killed: what it has begun, it ends.
    fn give_up(&self, tid: i32);
}

/// What a helper waits for, for people.
#[must_use]
pub fn wait_of(pid: i32) -> String {
    let mut said = format!("helper process {pid}: ");
    let waits = match waits::of_process(pid) {
        Ok(waits) => waits,
        Err(error) => return said + &format!("what it waits for is unknown: {error}"),
    };
    if waits.is_empty() {
        said.push_str("it hears signals");
    }
    for (number, wait) in waits.iter().enumerate() {
        let comma = if number > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        write!(said, "{comma}{wait}").ok();
    }
    said
}
