//! The daemon's engine with its real database and folders on the simulated host, in virtual time.

#[cfg(test)]
mod sim {
    mod bootstrap;
    mod breaker;
    mod chaos;
    mod converge;
    mod crash;
    mod day;
    mod deadlines;
    mod deaths;
    mod drift;
    mod failure;
    mod folders;
    mod health;
    mod history;
    mod hold;
    mod host_breaker;
    mod metrics;
    mod misbehaved;
    mod mode;
    #[path = "../common/openmetrics.rs"]
    mod openmetrics;
    mod orphans;
    mod pool;
    mod respec;
    mod slow;
    mod snapshots;
    mod storm;
    mod story;
    mod stuck;
    mod timers;
    mod told;
    mod units;
    mod unkillable;
    mod unknown;
    mod volumes;
    mod watchdog;
    mod words;
    mod world;
}
