//! One test per rule of the planner.

#[cfg(test)]
mod rules {
    mod bootstrap;
    mod breaker;
    mod ends;
    mod full;
    mod hold;
    mod host;
    mod ill;
    mod limits;
    mod orphanage;
    mod orphans;
    mod pool;
    mod shared;
    mod start;
    mod stop;
    mod storm;
    mod unknown;
    mod view;
    mod world;
}
