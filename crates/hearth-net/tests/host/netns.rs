//! Tests that make network namespaces: their names put them into a group that does not
//! crowd the kernel's one lock for network devices.

mod contract;
mod filter;
mod foreign;
mod many;
mod names;
mod ports;
mod rules;
mod watch;
