//! The same as `thin`, with each call to the kernel made by a helper at the other end of a socket.

#[path = "thin.rs"]
mod thin;
