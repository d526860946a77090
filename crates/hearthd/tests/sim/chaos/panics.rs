//! Panics of this thread, in any task: tokio keeps those of tasks to itself.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Panics of this thread are collected from now on, without a word on stderr.
pub(super) fn forget() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let kept = SEEN.with_borrow_mut(|seen| {
                let seen = seen.as_mut()?;
                seen.push(panic.to_string());
                Some(())
            });
            if kept.is_none() {
                before(panic);
            }
        }));
    });
    SEEN.set(Some(Vec::new()));
}

/// How many there were.
pub(super) fn count() -> usize {
    SEEN.with_borrow(|seen| seen.as_ref().map_or(0, Vec::len))
}

/// What they said; they are not collected any more.
pub(super) fn take() -> Vec<String> {
    SEEN.take().unwrap_or_default()
}
