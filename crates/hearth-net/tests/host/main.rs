//! The real network, in network namespaces of the tests' own. Needs root; says so else.

mod support;

mod contract;
mod filter;
mod foreign;
mod names;
mod ports;
mod rules;
