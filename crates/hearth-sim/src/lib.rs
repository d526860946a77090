//! A simulated host behind the rooms' traits.
