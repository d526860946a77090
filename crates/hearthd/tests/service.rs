//! The daemon as a service: what it tells a service manager, and the socket it may be given.

#[cfg(test)]
mod service {
    mod told;
}
