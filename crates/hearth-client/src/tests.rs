//! Tests against a small server.
