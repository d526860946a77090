//! Desired state, status, journal, leases and events in SQLite.
