//! The routes under `/v1/vms`.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName, IF_MATCH};

use hearth_types::api::{CreateVm, StopVm, Vm, VmHealth, VmPage, VmStats, WaitResult};
use hearth_types::spec::VmSpec;

use crate::request::Call;
use crate::{ByteStream, Client, ClientError};

/// Which VMs to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListVms {
    /// Selectors: `key=value` or `key`; all must hold.
    pub labels: Vec<String>,
    /// Items in a page at most; the daemon's own limit when absent.
    pub limit: Option<u32>,
    /// The cursor that the page before ended with.
    pub after: Option<String>,
}

/// Asks that the answer comes only when the goal is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// How long at most; rounded up to whole seconds. The daemon's default when absent.
    pub timeout: Option<Duration>,
}

/// What may go with a change of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActOptions {
    /// Refuse unless the VM has this generation.
    pub if_match: Option<u64>,
    /// Wait for the goal.
    pub wait: Option<Wait>,
}

impl ActOptions {
    /// Waits for the goal, at most this long.
    #[must_use]
    pub const fn waiting(timeout: Option<Duration>) -> Self {
        Self {
            if_match: None,
            wait: Some(Wait { timeout }),
        }
    }
}

/// The changes of a VM's goal that need no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start it.
    Start,
    /// Stop and start it.
    Restart,
    /// Stop its vCPUs.
    Pause,
    /// Let its vCPUs run again.
    Resume,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// It does not run.
    #[default]
    Stopped,
    /// It is gone.
    Removed,
    /// Its VMM runs.
    Running,
    /// Every check of its health succeeds.
    Healthy,
}

impl WaitCondition {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Removed => "removed",
            Self::Running => "running",
            Self::Healthy => "healthy",
        }
    }
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogSource {
    /// What the guest wrote on its console.
    #[default]
    Console,
    /// What the VMM itself said.
    Vmm,
}

/// Which part of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Go on until the run ends.
    pub follow: bool,
    /// Only so many lines of what is there; all when absent.
    pub tail: Option<u64>,
    /// Which log.
    pub source: LogSource,
}

impl Call {
    fn acting(self, options: &ActOptions) -> Self {
        let call = match options.if_match {
            Some(generation) => self.header(IF_MATCH, format!("\"{generation}\"")),
            None => self,
        };
        match options.wait {
            Some(wait) => call
                .query("wait", true)
                .query_some("timeout", wait.timeout.map(whole_seconds)),
            None => call,
        }
    }
}

/// Rounds up, so that a wait is never shorter than asked.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Client {
    /// One page of VMs, by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_vms(&self, query: &ListVms) -> Result<VmPage, ClientError> {
        let mut call = Call::get(&["v1", "vms"]);
        for label in &query.labels {
            call = call.query("label", label);
        }
        call = call
            .query_some("limit", query.limit)
            .query_some("after", query.after.as_deref());
        self.fetch(call).await
    }

    /// All VMs that the selectors match, by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn all_vms(&self, labels: &[String]) -> Result<Vec<Vm>, ClientError> {
        let mut query = ListVms {
            labels: labels.to_vec(),
            limit: Some(1000),
            after: None,
        };
        let mut all = Vec::new();
        loop {
            let page = self.list_vms(&query).await?;
            all.extend(page.items);
            // A cursor that does not move would ask for the same page for ever.
            if page.next.is_none() || page.next == query.after {
                return Ok(all);
            }
            query.after = page.next;
        }
    }

    /// Creates a VM. A request that is repeated with the same key creates one VM only.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_vm(
        &self,
        body: &CreateVm,
        idempotency_key: &str,
        wait: Option<Wait>,
    ) -> Result<Vm, ClientError> {
        self.create_at(&["v1", "vms"], body, idempotency_key, wait)
            .await
    }

    /// Creates a VM by a request to this path.
    pub(crate) async fn create_at<T: serde::Serialize>(
        &self,
        segments: &[&str],
        body: &T,
        idempotency_key: &str,
        wait: Option<Wait>,
    ) -> Result<Vm, ClientError> {
        let options = ActOptions {
            if_match: None,
            wait,
        };
        let call = Call::post(segments)
            .acting(&options)
            .header(HeaderName::from_static("idempotency-key"), idempotency_key)
            .json(body)?;
        self.fetch(call).await
    }

    /// One VM by name, id or unique id prefix.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vm(&self, reference: &str) -> Result<Vm, ClientError> {
        self.fetch(Call::get(&["v1", "vms", reference])).await
    }

    /// Replaces a VM's specification.
    ///
    /// # Errors
    /// See [`ClientError`]; `PreconditionFailed` when the VM has changed meanwhile.
    pub async fn replace_spec(
        &self,
        reference: &str,
        spec: &VmSpec,
        options: &ActOptions,
    ) -> Result<Vm, ClientError> {
        let call = Call::new(Method::PUT, &["v1", "vms", reference, "spec"])
            .acting(options)
            .json(spec)?;
        self.fetch(call).await
    }

    /// Removes a VM with its disks. `None` when it is gone already.
    ///
    /// # Errors
    /// See [`ClientError`]; `Conflict` when it runs and `force` is not set.
    pub async fn delete_vm(
        &self,
        reference: &str,
        force: bool,
        options: &ActOptions,
    ) -> Result<Option<Vm>, ClientError> {
        let mut call = Call::new(Method::DELETE, &["v1", "vms", reference]);
        if force {
            call = call.query("force", true);
        }
        self.fetch_some(call.acting(options)).await
    }

    /// Starts, restarts, pauses or resumes a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn act(
        &self,
        reference: &str,
        action: Action,
        options: &ActOptions,
    ) -> Result<Vm, ClientError> {
        let call = Call::post(&["v1", "vms", reference, action.as_str()]).acting(options);
        self.fetch(call).await
    }

    /// Stops a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop_vm(
        &self,
        reference: &str,
        body: &StopVm,
        options: &ActOptions,
    ) -> Result<Vm, ClientError> {
        let call = Call::post(&["v1", "vms", reference, "stop"])
            .acting(options)
            .json(body)?;
        self.fetch(call).await
    }

    /// Waits until a VM is as asked; without a timeout, for as long as it takes.
    ///
    /// # Errors
    /// See [`ClientError`]; status 504 when the time was up.
    pub async fn wait_vm(
        &self,
        reference: &str,
        condition: WaitCondition,
        timeout: Option<Duration>,
    ) -> Result<WaitResult, ClientError> {
        let call = Call::get(&["v1", "vms", reference, "wait"])
            .query("condition", condition.as_str())
            .query_some("timeout", timeout.map(whole_seconds));
        self.fetch(call).await
    }

    /// A log's bytes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn logs(
        &self,
        reference: &str,
        options: LogOptions,
    ) -> Result<ByteStream, ClientError> {
        let mut call = Call::get(&["v1", "vms", reference, "logs"]);
        if options.follow {
            call = call.query("follow", true);
        }
        call = call.query_some("tail", options.tail);
        if options.source == LogSource::Vmm {
            call = call.query("source", "vmm");
        }
        self.fetch_bytes(call).await
    }

    /// A path of the guest as a tar stream.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn download(&self, reference: &str, path: &str) -> Result<ByteStream, ClientError> {
        let call = Call::get(&["v1", "vms", reference, "archive"]).query("path", path);
        self.fetch_bytes(call).await
    }

    /// Unpacks a tar stream into a folder of the guest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn upload<S>(&self, reference: &str, path: &str, tar: S) -> Result<(), ClientError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let call = Call::new(Method::PUT, &["v1", "vms", reference, "archive"])
            .query("path", path)
            .header(CONTENT_TYPE, "application/x-tar")
            .stream(tar);
        self.send(call).await.map(drop)
    }

    /// What the checks of a VM's health say.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vm_health(&self, reference: &str) -> Result<VmHealth, ClientError> {
        self.fetch(Call::get(&["v1", "vms", reference, "health"]))
            .await
    }

    /// Figures of one VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stats(&self, reference: &str) -> Result<VmStats, ClientError> {
        self.fetch(Call::get(&["v1", "vms", reference, "stats"]))
            .await
    }
}
