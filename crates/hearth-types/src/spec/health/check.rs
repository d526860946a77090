//! Refusing what cannot be checked, with the path of the field.

use std::collections::BTreeSet;

use super::{BUILT_IN, CheckKind, CheckSpec, HealthSpec, MAX_CHECKS, OnFailure, Text};
use crate::spec::{DriverChoice, FieldError, NetworkMode, RestartPolicy, VmSpec};
use crate::units::Span;

/// The range of an interval: below it the daemon would do little else.
const INTERVALS: std::ops::RangeInclusive<Span> = Span::secs(1)..=Span::secs(86_400);
/// The range of a timeout.
const TIMEOUTS: std::ops::RangeInclusive<Span> = Span::millis(100)..=Span::secs(300);
/// The longest start period.
const MAX_START_PERIOD: Span = Span::secs(86_400);
/// The range of both thresholds.
const THRESHOLDS: std::ops::RangeInclusive<u32> = 1..=100;
/// The longest name of a check.
const MAX_NAME: usize = 32;
/// The longest path of an `http` check, in bytes.
const MAX_PATH: usize = 1024;
/// The most words of a command.
const MAX_WORDS: usize = 64;
/// The longest command, in bytes.
const MAX_COMMAND: usize = 4096;
/// The most texts of a `console` check.
const MAX_PATTERNS: usize = 16;
/// The longest of them, in bytes.
const MAX_PATTERN: usize = 256;

/// Values that a VM and a check of it may both say.
struct Timing {
    interval: Option<Span>,
    timeout: Option<Span>,
    start_period: Option<Span>,
    failure_threshold: Option<u32>,
    success_threshold: Option<u32>,
}

impl Timing {
    fn check(&self, path: &str, errors: &mut Vec<FieldError>) {
        let mut refuse = |field: &str, message: String| {
            errors.push(FieldError::new(format!("{path}.{field}"), message));
        };
        for (field, value, range) in [
            ("interval", self.interval, INTERVALS),
            ("timeout", self.timeout, TIMEOUTS),
            (
                "start_period",
                self.start_period,
                Span::default()..=MAX_START_PERIOD,
            ),
        ] {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                let (least, most) = (range.start(), range.end());
                refuse(field, format!("is {value}, must be {least} to {most}"));
            }
        }
        for (field, value) in [
            ("failure_threshold", self.failure_threshold),
            ("success_threshold", self.success_threshold),
        ] {
            if let Some(value) = value.filter(|value| !THRESHOLDS.contains(value)) {
                let (least, most) = (THRESHOLDS.start(), THRESHOLDS.end());
                refuse(field, format!("is {value}, must be {least} to {most}"));
            }
        }
    }
}

impl HealthSpec {
    /// Checks every value; paths begin with `health`.
    pub(crate) fn check(&self, vm: &VmSpec, errors: &mut Vec<FieldError>) {
        self.timing().check("health", errors);
        self.check_without(errors);
        if self.checks.len() > MAX_CHECKS {
            let message = format!("are {}, must be at most {MAX_CHECKS}", self.checks.len());
            errors.push(FieldError::new("health.checks", message));
        }
        let mut names = BTreeSet::new();
        for (index, check) in self.checks.iter().enumerate() {
            let path = format!("health.checks[{index}]");
            check.check(&path, vm, errors);
            if !names.insert(check.label()) {
                let message = format!("{} is used twice: give one a name", check.label());
                errors.push(FieldError::new(format!("{path}.name"), message));
            }
            let earlier = &self.checks[..index];
            if check.kind == CheckKind::QemuAgent && earlier.iter().any(|it| it.kind == check.kind)
            {
                let message = "can be asked for once: its port has one client";
                errors.push(FieldError::new(format!("{path}.kind"), message));
            }
            if self.without.contains(&check.kind) {
                let message = format!("{} is left out by health.without", check.kind.as_str());
                errors.push(FieldError::new(format!("{path}.kind"), message));
            }
        }
        self.check_restart(vm, errors);
    }

    const fn timing(&self) -> Timing {
        Timing {
            interval: self.interval,
            timeout: self.timeout,
            start_period: self.start_period,
            failure_threshold: self.failure_threshold,
            success_threshold: self.success_threshold,
        }
    }

    fn check_without(&self, errors: &mut Vec<FieldError>) {
        for (index, kind) in self.without.iter().enumerate() {
            if !BUILT_IN.contains(kind) {
                let names = BUILT_IN.map(CheckKind::as_str).join(", ");
                errors.push(FieldError::new(
                    format!("health.without[{index}]"),
                    format!("is {}, must be one of {names}", kind.as_str()),
                ));
            }
        }
    }

    /// A restart is what the restart policy allows.
    fn check_restart(&self, vm: &VmSpec, errors: &mut Vec<FieldError>) {
        if vm.restart != RestartPolicy::No {
            return;
        }
        let message = "cannot be restart with restart policy no: the VM would only be ended";
        let restart = Some(OnFailure::Restart);
        if self.on_failure == restart {
            errors.push(FieldError::new("health.on_failure", message));
        }
        for (index, check) in self.checks.iter().enumerate() {
            if check.on_failure == restart {
                let path = format!("health.checks[{index}].on_failure");
                errors.push(FieldError::new(path, message));
            }
        }
    }
}

impl CheckSpec {
    fn check(&self, path: &str, vm: &VmSpec, errors: &mut Vec<FieldError>) {
        self.timing().check(path, errors);
        let mut refuse = |field: &str, message: String| {
            errors.push(FieldError::new(format!("{path}.{field}"), message));
        };
        if self.name.as_ref().is_some_and(|name| !is_name(name)) {
            let message = format!("must be 1 to {MAX_NAME} letters, digits, '-', '_' and '.'");
            refuse("name", message);
        }
        let kind = self.kind.as_str();
        for (field, said) in self.said() {
            if said && !self.takes(field) {
                refuse(field, format!("does not go with a check of kind {kind}"));
            }
        }
        match self.kind {
            CheckKind::Tcp | CheckKind::Http => {
                if vm.network.mode == NetworkMode::None {
                    refuse(
                        "kind",
                        format!("{kind} needs a network, and the VM has none"),
                    );
                }
                if self.port.is_none_or(|port| port == 0) {
                    refuse("port", "must be the guest's port, 1 to 65535".to_owned());
                }
            }
            CheckKind::QemuAgent if vm.driver == DriverChoice::Firecracker => {
                let needs = "needs the driver qemu: Firecracker has no virtio-serial";
                refuse("kind", format!("{kind} {needs}"));
            }
            CheckKind::Exec if self.command.is_none() => {
                refuse("command", "must be given".to_owned());
            }
            _ => {}
        }
        self.check_texts(path, errors);
    }

    const fn timing(&self) -> Timing {
        Timing {
            interval: self.interval,
            timeout: self.timeout,
            start_period: self.start_period,
            failure_threshold: self.failure_threshold,
            success_threshold: self.success_threshold,
        }
    }

    /// The fields that go with some kinds only, and whether they are said.
    const fn said(&self) -> [(&'static str, bool); 7] {
        [
            ("port", self.port.is_some()),
            ("path", self.path.is_some()),
            ("status", self.status.is_some()),
            ("command", self.command.is_some()),
            ("pattern", self.pattern.is_some()),
            ("bad", !self.bad.is_empty()),
            ("regex", self.regex),
        ]
    }

    fn takes(&self, field: &str) -> bool {
        let fields: &[&str] = match self.kind {
            CheckKind::Tcp => &["port"],
            CheckKind::Http => &["port", "path", "status"],
            CheckKind::Exec => &["command"],
            CheckKind::Console => &["pattern", "bad", "regex"],
            CheckKind::Process
            | CheckKind::VmmApi
            | CheckKind::Agent
            | CheckKind::Unit
            | CheckKind::QemuAgent => &[],
        };
        fields.contains(&field)
    }

    fn check_texts(&self, path: &str, errors: &mut Vec<FieldError>) {
        let mut refuse = |field: String, message: String| {
            errors.push(FieldError::new(format!("{path}.{field}"), message));
        };
        let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(target) = &self.path
            && !(target.starts_with('/') && target.len() <= MAX_PATH && visible(target))
        {
            let message = format!(
                "must begin with '/', have at most {MAX_PATH} characters and none that has to be escaped"
            );
            refuse("path".to_owned(), message);
        }
        if let Some(words) = &self.command {
            let bytes: usize = words.iter().map(|word| word.len() + 1).sum();
            let empty = words.first().is_none_or(String::is_empty);
            if empty || words.len() > MAX_WORDS || bytes > MAX_COMMAND {
                let message = format!(
                    "must be a program and its arguments, at most {MAX_WORDS} words and {MAX_COMMAND} bytes"
                );
                refuse("command".to_owned(), message);
            }
            if words.iter().any(|word| word.contains('\0')) {
                let message = "must not contain a NUL character";
                refuse("command".to_owned(), message.to_owned());
            }
        }
        if self.bad.len() > MAX_PATTERNS {
            let message = format!("are {}, must be at most {MAX_PATTERNS}", self.bad.len());
            refuse("bad".to_owned(), message);
        }
        let good = self.pattern.iter().map(|text| ("pattern".to_owned(), text));
        let bad = self.bad.iter().enumerate();
        let bad = bad.map(|(index, text)| (format!("bad[{index}]"), text));
        for (field, text) in good.chain(bad) {
            if text.is_empty() || text.len() > MAX_PATTERN || text.contains(['\n', '\r', '\0']) {
                let message = format!("must be a part of one line, 1 to {MAX_PATTERN} bytes");
                refuse(field, message);
            } else if let Err(why) = Text::new(text, self.regex) {
                refuse(field, format!("is no regular expression: {why}"));
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain)
}
