//! The checks that are made: built in, of the image, and asked for.

use std::time::Duration;

use super::{
    BUILT_IN, CheckKind, CheckSpec, DEFAULT_FAILURE_THRESHOLD, DEFAULT_INTERVAL,
    DEFAULT_START_PERIOD, DEFAULT_SUCCESS_THRESHOLD, DEFAULT_TIMEOUT, HealthSpec, OnFailure,
    StatusRange,
};
use crate::image::ImageHealthcheck;

/// The name of the image's own check.
const IMAGE: &str = "image";

/// One check with nothing left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, unique in the VM.
    pub name: String,
    /// What is done.
    pub probe: Probe,
    /// Time between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long failures do not count, from the start of the VMM, until the first success.
    pub start_period: Duration,
    /// Failures in a row that make it unhealthy.
    pub failure_threshold: u32,
    /// Successes in a row that make it healthy again.
    pub success_threshold: u32,
    /// What follows when it is unhealthy.
    pub on_failure: OnFailure,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// [`CheckKind::Process`].
    Process,
    /// [`CheckKind::VmmApi`].
    VmmApi,
    /// [`CheckKind::Agent`].
    Agent,
    /// [`CheckKind::Console`].
    Console {
        /// Has to appear, if there is one.
        pattern: Option<String>,
        /// Must not appear.
        bad: Vec<String>,
        /// Both are regular expressions.
        regex: bool,
    },
    /// [`CheckKind::Unit`].
    Unit,
    /// [`CheckKind::Tcp`].
    Tcp {
        /// The guest's port.
        port: u16,
    },
    /// [`CheckKind::Http`].
    Http {
        /// The guest's port.
        port: u16,
        /// The path and query.
        path: String,
        /// Which answers are good.
        status: StatusRange,
    },
    /// [`CheckKind::Exec`].
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// [`CheckKind::QemuAgent`].
    QemuAgent,
}

impl Probe {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> CheckKind {
        match self {
            Self::Process => CheckKind::Process,
            Self::VmmApi => CheckKind::VmmApi,
            Self::Agent => CheckKind::Agent,
            Self::Console { .. } => CheckKind::Console,
            Self::Unit => CheckKind::Unit,
            Self::Tcp { .. } => CheckKind::Tcp,
            Self::Http { .. } => CheckKind::Http,
            Self::Exec { .. } => CheckKind::Exec,
            Self::QemuAgent => CheckKind::QemuAgent,
        }
    }
}

impl HealthSpec {
    /// The checks to make of a VM whose image says this of its health.
    ///
    /// As with docker, a command of the VM's own (a check of kind `exec`) takes the place of
    /// the image's.
    #[must_use]
    pub fn checks(&self, image: Option<&ImageHealthcheck>) -> Vec<Check> {
        let said = |kind: CheckKind| self.checks.iter().any(|check| check.kind == kind);
        let built_in = BUILT_IN
            .into_iter()
            .filter(|kind| !said(*kind) && !self.without.contains(kind))
            .map(|kind| self.check_of(&CheckSpec::new(kind)));
        let own = self.checks.iter().map(|check| self.check_of(check));
        let image = image
            .filter(|_| !self.ignore_image && !said(CheckKind::Exec))
            .map(|image| self.check_of(&self.of_image(image)));
        built_in.chain(own).chain(image).collect()
    }

    /// The image's check as one of ours; what the VM says comes before what the image says.
    fn of_image(&self, image: &ImageHealthcheck) -> CheckSpec {
        let taken = self.checks.iter().any(|check| check.label() == IMAGE);
        CheckSpec {
            // A check of another kind may be called so.
            name: Some(if taken { "image-cmd" } else { IMAGE }.to_owned()),
            command: Some(image.command.clone()),
            interval: self.interval.or(image.interval),
            timeout: self.timeout.or(image.timeout),
            start_period: self.start_period.or(image.start_period),
            failure_threshold: self.failure_threshold.or(image.retries),
            ..CheckSpec::new(CheckKind::Exec)
        }
    }

    fn check_of(&self, check: &CheckSpec) -> Check {
        let span = |own: Option<_>, all: Option<_>, usual| {
            crate::units::Span::as_duration(own.or(all).unwrap_or(usual))
        };
        let failures = check.failure_threshold.or(self.failure_threshold);
        let successes = check.success_threshold.or(self.success_threshold);
        Check {
            name: check.label().to_owned(),
            probe: check.probe(),
            interval: span(check.interval, self.interval, DEFAULT_INTERVAL),
            timeout: span(check.timeout, self.timeout, DEFAULT_TIMEOUT),
            start_period: span(check.start_period, self.start_period, DEFAULT_START_PERIOD),
            failure_threshold: failures.unwrap_or(DEFAULT_FAILURE_THRESHOLD),
            success_threshold: successes.unwrap_or(DEFAULT_SUCCESS_THRESHOLD),
            on_failure: check.on_failure.or(self.on_failure).unwrap_or_default(),
        }
    }
}

impl CheckSpec {
    /// A field that is missing was refused when the specification was taken.
    fn probe(&self) -> Probe {
        let port = self.port.unwrap_or_default();
        match self.kind {
            CheckKind::Process => Probe::Process,
            CheckKind::VmmApi => Probe::VmmApi,
            CheckKind::Agent => Probe::Agent,
            CheckKind::Console => Probe::Console {
                pattern: self.pattern.clone(),
                bad: self.bad.clone(),
                regex: self.regex,
            },
            CheckKind::Unit => Probe::Unit,
            CheckKind::Tcp => Probe::Tcp { port },
            CheckKind::Http => Probe::Http {
                port,
                path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
                status: self.status.unwrap_or_default(),
            },
            CheckKind::Exec => Probe::Exec {
                command: self.command.clone().unwrap_or_default(),
            },
            CheckKind::QemuAgent => Probe::QemuAgent,
        }
    }
}
