#![no_main]

use hearth_dm::thin::{PoolStatus, ThinStatus};

libfuzzer_sys::fuzz_target!(|said: &str| {
    drop(said.parse::<PoolStatus>());
    drop(said.parse::<ThinStatus>());
});
