//! Image sources to verified, safely unpacked volumes.
