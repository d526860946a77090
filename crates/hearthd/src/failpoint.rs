//! Places where tests end the daemon: before and after every step it takes.
//!
//! Two ways to end it. A test of the real program builds it with the feature `failpoints` and
//! sets `HEARTH_FAILPOINT=before:start_vmm` (or `after:start_vmm`, `after:start_vmm:2` for the
//! second time it is reached): the process gets SIGKILL. A test in one process gives the
//! engine a [`Hook`], which returns a future that never ends where the daemon should die.

use std::sync::Arc;

use futures::future::BoxFuture;
use hearth_plan::{Plan, Step, World};

/// Told of each place that is reached: `before` or `after`, and the kind of step. The daemon
/// goes on when the future is done.
pub type Hook = Arc<dyn Fn(&'static str, &'static str) -> BoxFuture<'static, ()> + Send + Sync>;

/// The sides of a step.
const SIDES: [&str; 2] = ["before", "after"];
/// Places within steps, between two effects of one, and within the work on snapshots and volumes.
const WITHIN: [(&str, &str); 20] = [
    ("after", "launch"),
    ("after", "snapshot_begun"),
    ("after", "snapshot_still"),
    ("after", "snapshot_disk"),
    ("after", "snapshot_disks_removed"),
    ("after", "restore_begun"),
    ("after", "restore_disk"),
    ("after", "restore_decided"),
    ("after", "restore_settled"),
    ("after", "clone_recorded"),
    ("after", "volume_begun"),
    ("after", "volume_made"),
    ("after", "volume_detached"),
    ("after", "volume_grown"),
    ("after", "volume_removal_begun"),
    ("after", "volume_disks_removed"),
    ("after", "move_begun"),
    ("after", "move_copied"),
    ("after", "move_decided"),
    ("after", "draft_removed"),
];

/// Every place there is.
pub fn places() -> impl Iterator<Item = (&'static str, &'static str)> {
    let steps = Step::KINDS.into_iter();
    steps
        .flat_map(|step| SIDES.map(|side| (side, step)))
        .chain(WITHIN)
}

/// Shown each plan that is about to be carried out, with what it was made from.
pub type Judge = Arc<dyn Fn(&World, &Plan) + Send + Sync>;

/// The failpoints of one engine.
#[derive(Clone, Default)]
pub struct Failpoints {
    hook: Option<Hook>,
    judge: Option<Judge>,
}

impl std::fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failpoints")
            .field("hooked", &self.hook.is_some())
            .finish()
    }
}

impl Failpoints {
    /// Failpoints that a test in the same process watches.
    #[must_use]
    pub fn hooked(hook: Hook) -> Self {
        Self {
            hook: Some(hook),
            judge: None,
        }
    }

    /// The same, and each plan is shown to a judge.
    #[must_use]
    pub fn judged(self, judge: Judge) -> Self {
        Self {
            judge: Some(judge),
            ..self
        }
    }

    /// A plan is about to be carried out.
    pub(crate) fn planned(&self, world: &World, plan: &Plan) {
        if let Some(judge) = &self.judge {
            judge(world, plan);
        }
    }

    /// Marks a place.
    pub async fn hit(&self, side: &'static str, step: &'static str) {
        debug_assert!(
            places().any(|place| place == (side, step)),
            "tests cannot know of {side}:{step}"
        );
        #[cfg(feature = "failpoints")]
        kill_if_asked(side, step);
        if let Some(hook) = &self.hook {
            hook(side, step).await;
        }
    }
}

/// Told of each state of a pull that was written down: `HEARTH_FAILPOINT=image:unpack` ends the
/// process there.
pub(crate) fn image_states() -> Option<hearth_image::jobs::Watcher> {
    #[cfg(feature = "failpoints")]
    return Some(Arc::new(|job| kill_if_asked("image", job.state.as_str())));
    #[cfg(not(feature = "failpoints"))]
    None
}

/// Ends the process with SIGKILL if the environment asks for it.
#[cfg(feature = "failpoints")]
fn kill_if_asked(side: &str, step: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SEEN: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("HEARTH_FAILPOINT") else {
        return;
    };
    let mut parts = wanted.split(':');
    if parts.next() != Some(side) || parts.next() != Some(step) {
        return;
    }
    let nth = parts.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    if SEEN.fetch_add(1, Ordering::SeqCst) + 1 == nth {
        tracing::warn!(side, step, "failpoint reached");
        let died =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        tracing::error!(?died, "this process could not kill itself");
    }
}
