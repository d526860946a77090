//! The image pipeline: jobs by state, and why they were aborted.

use hearth_types::image_job::{ImageJob, JobState};

use super::{Metrics, whole, zero_pairs};

/// The states that a job is in while it is under way.
const WORKING: [JobState; 5] = [
    JobState::Resolve,
    JobState::Download,
    JobState::Verify,
    JobState::Unpack,
    JobState::Seal,
];
/// Words for the causes of aborts.
const REASONS: [&str; 10] = [
    "network",
    "login",
    "not_found",
    "digest",
    "refused",
    "limit",
    "disk_full",
    "deadline",
    "restarts",
    "internal",
];

impl Metrics {
    pub(super) fn begin_images(&self) {
        let states = WORKING.map(JobState::as_str);
        zero_pairs(
            &self.image_failures,
            ("state", &states),
            ("reason", &REASONS),
        );
    }

    /// A pull or an import was aborted.
    pub(crate) fn image_failed(&self, state: JobState, reason: &str) {
        let known = REASONS.iter().find(|known| **known == reason);
        let reason = known.copied().unwrap_or("internal");
        self.image_failures
            .get_or_create(&[("state", state.as_str()), ("reason", reason)])
            .inc();
    }

    /// These are the jobs at this moment.
    pub(crate) fn image_jobs(&self, jobs: &[ImageJob]) {
        for state in JobState::ALL {
            let count = jobs.iter().filter(|job| job.state == state).count();
            self.image_jobs
                .get_or_create(&[("state", state.as_str())])
                .set(whole(count));
        }
    }
}
