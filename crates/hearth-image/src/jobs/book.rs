//! What is written down of a job: `jobs/ID.json`.

use std::collections::BTreeMap;
use std::fs;

use camino::Utf8PathBuf;
use hearth_types::api::{ImageFromSnapshot, ImportImage, PullImage};
use hearth_types::image_job::{ImageJob, JobKind, JobLeft};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::HISTORY;
use super::machine::Machine;
use crate::ImageError;
use crate::manifest::Document;
use crate::name::Name;
use crate::progress::Resolved;
use crate::store::{Inner, replace_durably};

/// What was asked for, without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Pull(PullImage),
    Import(ImportImage),
    Snapshot(ImageFromSnapshot),
}

/// A job as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) job: ImageJob,
    pub(crate) machine: Machine,
    pub(crate) request: Request,
    /// Credentials were given, which are not here.
    pub(crate) had_login: bool,
    /// What the name led to.
    #[serde(default)]
    pub(crate) resolved: Option<Resolved>,
}

impl Record {
    pub(crate) fn new(
        kind: JobKind,
        name: &Name,
        request: Request,
        had_login: bool,
        detached: bool,
    ) -> Self {
        let machine = Machine::default();
        let now = Timestamp::now();
        let path = match &request {
            Request::Import(import) => Some(import.path.clone()),
            Request::Snapshot(made) => Some(made.snapshot.clone()),
            Request::Pull(_) => None,
        };
        let mut record = Self {
            job: ImageJob {
                id: uuid::Uuid::now_v7().to_string(),
                kind,
                name: name.to_string(),
                path,
                state: machine.state(),
                attempts: BTreeMap::new(),
                restarts: 0,
                waits_for: None,
                done: 0,
                total: 0,
                image: None,
                failure: None,
                left: None,
                detached,
                created_at: now,
                state_since: now,
                ended_at: None,
            },
            machine,
            request,
            had_login,
            resolved: None,
        };
        record.show();
        record
    }

    /// Brings what is shown in line with the machine.
    pub(crate) fn show(&mut self) {
        let state = self.machine.state();
        if self.job.state != state {
            self.job.state_since = Timestamp::now();
        }
        self.job.state = state;
        self.job.attempts.clone_from(self.machine.attempts());
        self.job.restarts = self.machine.restarts();
    }
}

/// The ids of those that are more than enough, by when they ended.
pub(crate) fn oldest(mut ended: Vec<(Option<Timestamp>, String)>) -> Vec<String> {
    ended.sort();
    let more = ended.len().saturating_sub(HISTORY);
    ended.truncate(more);
    ended.into_iter().map(|(_, id)| id).collect()
}

impl Inner {
    /// All jobs. One that cannot be read gets another name, so that it stops nothing.
    pub(crate) fn read_jobs(&self) -> Result<Vec<Record>, ImageError> {
        let folder = self.jobs_dir();
        let failed = || ImageError::file("read", &folder);
        let mut records = Vec::new();
        for entry in folder.read_dir_utf8().map_err(failed())? {
            let path = entry.map_err(failed())?.into_path();
            if path.extension() != Some("json") {
                continue;
            }
            let text = fs::read(&path).map_err(ImageError::file("read", &path))?;
            match serde_json::from_slice::<Record>(&text) {
                Ok(record) if path.file_stem() == Some(&record.job.id) => records.push(record),
                read => {
                    let error = read.err();
                    tracing::warn!(%path, ?error, "a job cannot be read and is put aside");
                    let aside = Utf8PathBuf::from(format!("{path}.damaged"));
                    fs::rename(&path, &aside).map_err(ImageError::file("rename", &path))?;
                }
            }
        }
        Ok(records)
    }

    pub(crate) fn write_job(&self, record: &Record) -> Result<(), ImageError> {
        replace_durably(&self.jobs_dir(), &format!("{}.json", record.job.id), record)
    }

    pub(crate) fn remove_job(&self, id: &str) {
        drop(fs::remove_file(self.jobs_dir().join(format!("{id}.json"))));
    }

    /// What a job has left on the disk. What images use is theirs.
    pub(crate) fn left_of(&self, record: &Record) -> Result<JobLeft, ImageError> {
        let used = self.used_blobs()?;
        let mut left = JobLeft::default();
        for digest in self.digests_of(record)? {
            let Ok(path) = self.blob_path(&digest) else {
                continue;
            };
            if let Ok(meta) = fs::metadata(format!("{path}.partial")) {
                left.partial_bytes += meta.len();
            }
            if let Ok(meta) = fs::metadata(&path)
                && !used.contains(&digest)
            {
                left.blobs += 1;
                left.bytes += meta.len();
            }
        }
        Ok(left)
    }

    pub(super) fn digests_of(&self, record: &Record) -> Result<Vec<String>, ImageError> {
        match &record.resolved {
            None => Ok(Vec::new()),
            Some(Resolved::Manifest { text, .. }) => {
                match Document::parse(&record.job.name, text.as_bytes(), &self.limits)? {
                    Document::Image(manifest) => Ok(std::iter::once(manifest.config)
                        .chain(manifest.layers)
                        .map(|blob| blob.digest)
                        .collect()),
                    Document::Index(_) => Ok(Vec::new()),
                }
            }
            Some(Resolved::Object { id, .. }) => {
                let whole = self.outcome(id)?.map(|outcome| outcome.digest);
                // The partial file has the name of its place and ETag.
                Ok(whole.into_iter().chain([format!("sha256:{id}")]).collect())
            }
        }
    }
}
