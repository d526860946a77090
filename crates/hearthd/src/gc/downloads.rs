//! Downloads that no image is made of, and pulls and imports that ended long ago.

use std::time::Duration;

use hearth_types::gc::GcKind;
use hearth_types::image_job::ImageJob;
use hearth_types::survey::chain;
use jiff::Timestamp;

use super::find::{Found, What, item};
use super::{Ground, Order, skip};

/// So long a pull that is tried again goes on with what came.
const WANTED: Duration = Duration::from_secs(24 * 3600);
/// So long somebody may want to know how a pull went.
const OLD_JOB: Duration = Duration::from_secs(30 * 24 * 3600);

impl Found {
    pub(super) async fn downloads(&mut self, ground: &Ground, order: &Order<'_>) {
        let now = order.now;
        match ground.jobs.spare_blobs().await {
            Ok(blobs) => {
                for blob in blobs {
                    let changed = Timestamp::try_from(blob.changed).unwrap_or(now);
                    let reason = if blob.is_partial() {
                        "a download that broke off"
                    } else {
                        "a download that no image needs"
                    };
                    let mut item = item(
                        GcKind::Download,
                        format!("download-{}", short(&blob.name)),
                        blob.name.clone(),
                        reason.to_owned(),
                    );
                    item.bytes = Some(blob.bytes);
                    item.since = Some(changed);
                    let by_name = order.names(GcKind::Download);
                    if let Some(job) = &blob.wanted_by {
                        skip(&mut item, &format!("{job} needs it, or may"));
                    } else if age(changed, now) < WANTED && !by_name {
                        skip(
                            &mut item,
                            "a pull that is tried again within a day goes on with it: --kind download",
                        );
                    }
                    self.items.push((item, What::Download(blob.name)));
                }
            }
            Err(error) => self.unknown.push(format!("downloads: {}", chain(&error))),
        }
        self.jobs(&ground.jobs.list(), now);
    }

    fn jobs(&mut self, jobs: &[ImageJob], now: Timestamp) {
        for job in jobs {
            let Some(ended) = job.ended_at.filter(|_| job.state.is_end()) else {
                continue;
            };
            if age(ended, now) < OLD_JOB {
                continue;
            }
            let object = format!("{} of {}", job.kind.as_str(), job.name);
            let reason = format!(
                "it ended {} days ago: {}",
                age(ended, now).as_secs() / (24 * 3600),
                job.state.as_str()
            );
            let mut item = item(GcKind::Job, format!("job-{}", job.id), object, reason);
            item.since = Some(ended);
            self.items.push((item, What::Job(job.id.clone())));
        }
    }
}

pub(super) fn age(since: Timestamp, now: Timestamp) -> Duration {
    hearth_plan::transition::elapsed(since, now)
}

/// As many digits as people see, and whether it is whole.
fn short(name: &str) -> String {
    let end = name.find('.').unwrap_or(name.len());
    let digits = name.get(..end.min(12)).unwrap_or(name);
    format!("{digits}{}", name.get(end..).unwrap_or_default())
}
