//! What is said of the pool: each change of its state and of its room, once.

#[cfg(test)]
mod tests;

use hearth_types::event::{NewEvent, Severity};
use hearth_types::pool::{PoolDevice, PoolState, PoolView};
use hearth_types::units::Bytes;

/// What the world knows of the pool, as far as it is worth an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    state: Option<PoolState>,
    needs_check: bool,
    low: bool,
    metadata_low: bool,
}

impl Told {
    /// What there is to tell of a new look at it. The first look tells what is wrong, and nothing
    /// else; a look that could not be made tells nothing and changes nothing.
    pub(super) fn look(&mut self, view: &PoolView) -> Vec<NewEvent> {
        if view.state == PoolState::Unknown && self.state.is_some() {
            return Vec::new();
        }
        let space = view.space.as_ref();
        let now = Self {
            state: Some(view.state),
            needs_check: view.needs_check,
            // Unknown is not enough.
            low: space.map_or(self.low, |space| space.low),
            metadata_low: space.map_or(self.metadata_low, |space| space.metadata_low),
        };
        let before = std::mem::replace(self, now);
        let mut events = Vec::new();
        if before.state != now.state {
            events.extend(became(view, before.state));
        }
        if now.needs_check && !before.needs_check {
            events.push(needs_check());
        }
        if now.low && !before.low {
            events.push(low(view));
        }
        if now.metadata_low && !before.metadata_low {
            events.push(metadata_low(view));
        }
        events
    }
}

fn event(severity: Severity, code: &str, message: String) -> NewEvent {
    NewEvent::info(code, message).severity(severity)
}

/// Its state is another one than before.
fn became(view: &PoolView, before: Option<PoolState>) -> Option<NewEvent> {
    let reason = view.reason.as_deref().unwrap_or("no reason was told");
    let hint = view.hint.as_deref();
    let said = || {
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{reason}{hint}")
    };
    let ill = |state| {
        matches!(
            state,
            PoolState::Full | PoolState::ReadOnly | PoolState::Failed
        )
    };
    match view.state {
        PoolState::Full => Some(event(
            Severity::Error,
            "pool.full",
            format!("the pool is full: {}", said()),
        )),
        PoolState::ReadOnly => Some(event(
            Severity::Error,
            "pool.read_only",
            format!("the pool can only be read: {}", said()),
        )),
        PoolState::Failed => Some(event(
            Severity::Error,
            "pool.gave_up",
            format!("the kernel has given the pool up: {}", said()),
        )),
        PoolState::Up if before.is_some_and(ill) => Some(event(
            Severity::Info,
            "pool.well",
            "the pool can be written to again".to_owned(),
        )),
        _ => None,
    }
}

fn needs_check() -> NewEvent {
    event(
        Severity::Error,
        "pool.needs_check",
        "a write of the pool's metadata has failed, and the kernel lets nobody write until it is checked: \
         stop the VMs on it, then: hearth pool check, and if that finds damage: hearth pool repair"
            .to_owned(),
    )
}

fn low(view: &PoolView) -> NewEvent {
    let size = view.data.map_or(0, |data| data.size);
    let free = view.space.as_ref().map_or(0, |space| space.writable);
    let (most, bound) = view
        .space
        .as_ref()
        .map_or((size, ""), |space| (space.most, space.bound.as_str()));
    let message = format!(
        "{} of the pool's {} can still be written; ",
        Bytes(free).human(),
        Bytes(size).human()
    );
    if most > size {
        let more = format!("it may have {} and grows by itself", Bytes(most).human());
        return event(Severity::Info, "pool.low", message + &more);
    }
    let device = view.data_device.as_ref();
    let give = device.map_or_else(|| "give it more room".to_owned(), PoolDevice::how_to_extend);
    let more = format!(
        "it cannot grow: {bound}. Remove volumes, discard what guests do not use (fstrim), or {give}"
    );
    event(Severity::Warning, "pool.low", message + &more)
}

fn metadata_low(view: &PoolView) -> NewEvent {
    let (used, size) = view.metadata.map_or((0, 0), |metadata| {
        (metadata.used.unwrap_or(0), metadata.size)
    });
    event(
        Severity::Warning,
        "pool.metadata_low",
        format!(
            "{} of the pool's {} of metadata are used: full metadata makes a pool read-only; remove snapshots, or: \
             hearth pool extend --metadata SIZE",
            Bytes(used).human(),
            Bytes(size).human()
        ),
    )
}
