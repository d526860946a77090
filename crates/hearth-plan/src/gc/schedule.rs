//! When garbage is looked for by itself. Pure.
//!
//! ```text
//!              refused: the host was not idle ──► again after RETRY
//!  waits ──┤   interval over                  ──► look
//!              little room, and none was made in this hour ──► look
//! ```

use std::time::Duration;

use jiff::Timestamp;

/// After a refusal it is tried again so soon: a host is seldom busy for long.
const RETRY: Duration = Duration::from_secs(300);
/// Between two looks for want of room: what is there does not change much in less.
const HOUR: Duration = Duration::from_secs(3600);

/// What the configuration says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schedule {
    /// So often; zero: never.
    pub every: Duration,
    /// With less than so many percent free; 0: never.
    pub low: u32,
}

/// How much room there is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// That may still be written.
    pub free: u64,
    /// In all.
    pub size: u64,
}

/// What was done before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Past {
    /// The last look because the interval was over.
    pub by_interval: Option<Timestamp>,
    /// The last look for want of room.
    pub by_pressure: Option<Timestamp>,
    /// The last one that was refused, unless one went well since.
    pub refused: Option<Timestamp>,
}

/// Why garbage is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Somebody asks.
    Asked,
    /// It is time.
    Interval,
    /// There is little room.
    Pressure,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Asked, Self::Interval, Self::Pressure];

    /// The word that metrics and events have for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Interval => "interval",
            Self::Pressure => "pressure",
        }
    }
}

impl Schedule {
    /// Whether there is little room. Not where that is not known.
    #[must_use]
    pub fn is_low(&self, space: Option<Space>) -> bool {
        space.is_some_and(|space| {
            u128::from(space.free) * 100 < u128::from(space.size) * u128::from(self.low)
        })
    }

    /// Whether garbage is to be looked for now, and why.
    #[must_use]
    pub fn due(&self, past: &Past, space: Option<Space>, now: Timestamp) -> Option<Trigger> {
        if !over(past.refused, RETRY, now) {
            return None;
        }
        if self.is_low(space) && over(past.by_pressure, HOUR, now) {
            return Some(Trigger::Pressure);
        }
        let due = !self.every.is_zero() && over(past.by_interval, self.every, now);
        due.then_some(Trigger::Interval)
    }
}

/// Whether so much time has passed. A moment of the future is none: the clock was set back.
fn over(since: Option<Timestamp>, wait: Duration, now: Timestamp) -> bool {
    since.is_none_or(|since| {
        Duration::try_from(now.duration_since(since)).map_or(true, |age| age >= wait)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Option<Space> = Some(Space { free: 9, size: 100 });
    const ROOMY: Option<Space> = Some(Space {
        free: 10,
        size: 100,
    });

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_772_366_400 + secs).unwrap()
    }

    #[test]
    fn nothing_is_looked_for_that_the_configuration_does_not_want() {
        let never = Schedule::default();
        assert_eq!(never.due(&Past::default(), FULL, at(0)), None);
        let empty = Some(Space { free: 0, size: 0 });
        assert_eq!(never.due(&Past::default(), empty, at(0)), None);
    }

    #[test]
    fn an_interval_outlives_daemons_and_a_refusal_is_tried_again() {
        let hourly = Schedule {
            every: Duration::from_secs(3600),
            low: 0,
        };
        let mut past = Past::default();
        assert_eq!(hourly.due(&past, FULL, at(0)), Some(Trigger::Interval));
        past.refused = Some(at(0));
        assert_eq!(hourly.due(&past, FULL, at(299)), None);
        assert_eq!(hourly.due(&past, FULL, at(300)), Some(Trigger::Interval));
        past = Past {
            by_interval: Some(at(300)),
            ..Past::default()
        };
        assert_eq!(hourly.due(&past, FULL, at(3899)), None);
        assert_eq!(hourly.due(&past, FULL, at(3900)), Some(Trigger::Interval));
        // The clock was set back by a day.
        assert_eq!(
            hourly.due(&past, FULL, at(-86_400)),
            Some(Trigger::Interval)
        );
    }

    #[test]
    fn want_of_room_is_looked_into_each_hour_and_only_while_it_is_known() {
        let schedule = Schedule {
            every: Duration::ZERO,
            low: 10,
        };
        let mut past = Past::default();
        assert_eq!(schedule.due(&past, ROOMY, at(0)), None);
        assert_eq!(schedule.due(&past, None, at(0)), None);
        assert_eq!(schedule.due(&past, FULL, at(0)), Some(Trigger::Pressure));
        past.by_pressure = Some(at(0));
        assert_eq!(schedule.due(&past, FULL, at(3599)), None);
        assert_eq!(schedule.due(&past, FULL, at(3600)), Some(Trigger::Pressure));
    }
}
