//! Downloads that no image is made of, and jobs that ended long ago: for who cleans up.

use std::fs;
use std::time::SystemTime;

use hearth_types::survey::chain;

use super::book::{Record, Request};
use super::{ImageJobs, Job, lock};
use crate::store::Inner as Store;
use crate::{ImageError, digest};

/// What a file's name ends in while its download is not whole.
const PARTIAL: &str = ".partial";

/// A file of the folder of downloads that no image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpareBlob {
    /// Its name: the hex digits of its digest, and `.partial` when it is not whole.
    pub name: String,
    /// Bytes that it takes.
    pub bytes: u64,
    /// When it was written last.
    pub changed: SystemTime,
    /// The pull under way that goes on with it, or may.
    pub wanted_by: Option<String>,
}

impl SpareBlob {
    /// Whether the download broke off.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.name.ends_with(PARTIAL)
    }
}

/// What pulls under way need.
#[derive(Debug, Default)]
struct Wants {
    digests: Vec<(String, String)>,
    /// One whose blobs nobody knows yet: it may need any of them.
    any: Option<String>,
}

impl Wants {
    fn who(&self, digest: &str) -> Option<String> {
        let known = self.digests.iter().find(|(wanted, _)| wanted == digest);
        known
            .map(|(_, job)| job.clone())
            .or_else(|| self.any.clone())
    }
}

impl ImageJobs {
    /// Downloads that no image is made of.
    ///
    /// # Errors
    /// When the folder, or the record of an image, cannot be read: nobody knows then what is needed.
    pub async fn spare_blobs(&self) -> Result<Vec<SpareBlob>, ImageError> {
        let records = self.under_way();
        let store = &self.inner.store;
        store
            .blocking(move |store| {
                let wants = store.wants(&records);
                store.spare_blobs(&wants)
            })
            .await
    }

    /// Removes one of them, if it still is one; whether it was.
    ///
    /// # Errors
    /// When it cannot be removed, or it cannot be told whether somebody needs it.
    pub async fn remove_spare(&self, name: &str) -> Result<bool, ImageError> {
        let hex = name.strip_suffix(PARTIAL).unwrap_or(name);
        let digest = format!("sha256:{hex}");
        digest::hex(&digest)?;
        let store = &self.inner.store;
        // Registries' and S3's downloads; one that is under way is nobody's to remove.
        let (Some(one), Some(other)) = (store.turn_now(&digest), store.turn_now(hex)) else {
            return Ok(false);
        };
        let (name, records) = (name.to_owned(), self.under_way());
        store
            .blocking(move |store| {
                let _turns = (one, other);
                let wants = store.wants(&records);
                let spare = store.spare_blobs(&wants)?;
                let is_one = |blob: &SpareBlob| blob.name == name && blob.wanted_by.is_none();
                if !spare.iter().any(is_one) {
                    return Ok(false);
                }
                let path = store.blobs_dir().join(&name);
                fs::remove_file(&path).map_err(ImageError::file("remove", &path))?;
                Ok(true)
            })
            .await
    }

    /// Forgets a job that has ended; whether there was such a one.
    pub async fn forget(&self, id: &str) -> Result<bool, ImageError> {
        {
            let mut jobs = lock(&self.inner.jobs);
            let ended = jobs.get(id).is_some_and(|job| {
                let record = job.record.borrow();
                record.job.state.is_end() && record.has_ended()
            });
            if !ended {
                return Ok(false);
            }
            jobs.remove(id);
        }
        let id = id.to_owned();
        let removed = self.inner.store.blocking(move |store| {
            store.remove_job(&id);
            Ok(true)
        });
        removed.await
    }

    fn under_way(&self) -> Vec<Record> {
        let jobs = lock(&self.inner.jobs);
        let record = |job: &std::sync::Arc<Job>| job.record.borrow().clone();
        let all = jobs.values().map(record);
        all.filter(|record| !record.job.state.is_end()).collect()
    }
}

impl Store {
    fn wants(&self, records: &[Record]) -> Wants {
        let mut wants = Wants::default();
        for record in records {
            let job = format!("{} of {}", record.job.kind.as_str(), record.job.name);
            match (&record.request, &record.resolved) {
                // What it needs lies elsewhere.
                (Request::Import(_) | Request::Snapshot(_), None) => {}
                (Request::Pull(_), None) => wants.any = Some(job),
                (_, Some(_)) => match self.digests_of(record) {
                    Ok(digests) => wants
                        .digests
                        .extend(digests.into_iter().map(|digest| (digest, job.clone()))),
                    Err(error) => {
                        tracing::debug!(%job, error = %chain(&error), "what it needs cannot be told");
                        wants.any = Some(job);
                    }
                },
            }
        }
        wants
    }

    fn spare_blobs(&self, wants: &Wants) -> Result<Vec<SpareBlob>, ImageError> {
        let used = self.used_blobs()?;
        let folder = self.blobs_dir();
        let failed = || ImageError::file("read", &folder);
        let mut found = Vec::new();
        for entry in folder.read_dir_utf8().map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let digest = format!("sha256:{}", name.strip_suffix(PARTIAL).unwrap_or(name));
            // Only what has the name of a blob: another file is not ours.
            if digest::hex(&digest).is_err() || used.contains(&digest) {
                continue;
            }
            let meta = match entry.metadata() {
                Ok(meta) if meta.is_file() => meta,
                Ok(_) => continue,
                // Renamed since: it is whole now, or gone.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed()(error)),
            };
            found.push(SpareBlob {
                name: name.to_owned(),
                bytes: meta.len(),
                changed: meta.modified().map_err(failed())?,
                wanted_by: wants.who(&digest),
            });
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use camino::Utf8Path;
    use hearth_types::api::PullImage;
    use hearth_types::image_job::{JobKind, JobState};

    use super::*;
    use crate::jobs::{Patience, Prepare};
    use crate::{ImageStore, Limits, PullRequest};

    fn open(dir: &Utf8Path) -> ImageJobs {
        let store = ImageStore::open(dir, Limits::default()).unwrap();
        let prepare: Prepare = Arc::new(|_| PullRequest::default());
        let opened = ImageJobs::open(store, Patience::default(), prepare, None, None);
        opened.unwrap().0
    }

    fn written(jobs: &ImageJobs) -> Record {
        let pull = PullImage {
            reference: "app:1".to_owned(),
            ..PullImage::default()
        };
        let name = pull.reference.parse().unwrap();
        let record = Record::new(JobKind::Pull, &name, Request::Pull(pull), false, true);
        jobs.inner.store.inner.write_job(&record).unwrap();
        record
    }

    #[tokio::test]
    async fn what_a_pull_under_way_may_need_is_nobodys_to_remove() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let jobs = open(dir);
        let name = format!("{}.partial", "a".repeat(64));
        let path = dir.join("blobs/sha256").join(&name);
        fs::write(&path, "half").unwrap();
        let mut record = written(&jobs);

        let jobs = open(dir);
        let spare = jobs.spare_blobs().await.unwrap();
        assert_eq!((spare[0].name.as_str(), spare[0].bytes), (name.as_str(), 4));
        let wanted = spare[0].wanted_by.as_deref().unwrap();
        assert!(wanted.contains("app:1"), "{wanted}");
        assert!(!jobs.remove_spare(&name).await.unwrap());
        assert!(!jobs.forget(&record.job.id).await.unwrap());

        record.job.state = JobState::Aborted;
        record.job.ended_at = Some(jiff::Timestamp::now());
        jobs.inner.store.inner.write_job(&record).unwrap();
        let jobs = open(dir);
        assert!(path.exists() && jobs.spare_blobs().await.unwrap()[0].wanted_by.is_none());
        // Somebody downloads it at this moment.
        let turn = jobs
            .inner
            .store
            .turn(&format!("sha256:{}", "a".repeat(64)))
            .await;
        assert!(!jobs.remove_spare(&name).await.unwrap());
        drop(turn);
        assert!(jobs.remove_spare(&name).await.unwrap());
        assert!(!path.exists());
        assert!(!jobs.remove_spare(&name).await.unwrap());
        assert!(jobs.remove_spare("../../refs.json").await.is_err());
        assert!(jobs.forget(&record.job.id).await.unwrap());
        assert!(open(dir).list().is_empty());
    }
}
