//! The real network, in network namespaces of the tests' own. Needs root; says so else.

mod support;

mod contract;
