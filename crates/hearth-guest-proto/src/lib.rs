//! The channel between host and guest: frames, streams, messages.
