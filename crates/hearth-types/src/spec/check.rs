//! Checking a specification: every value, with the path of the field.

use std::collections::BTreeSet;

use super::{
    DriverChoice, FieldError, MAX_DISK, MAX_MEMORY, MAX_VCPUS, MIN_DISK, MIN_MEMORY, Machine,
    NetworkMode, RestartPolicy, VmSpec,
};
use crate::names::check_label;
use crate::units::Span;

impl VmSpec {
    /// Checks every value; the list is empty when the specification can be used.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.check_sizes(&mut errors);
        self.check_process(&mut errors);
        self.check_network(&mut errors);
        self.check_volumes(&mut errors);
        if self.driver == DriverChoice::Firecracker && self.machine != Machine::Microvm {
            errors.push(FieldError::new(
                "machine",
                "Firecracker has one machine model only; leave it out or choose the driver qemu",
            ));
        }
        self.resources.check(&mut errors);
        self.health.check(self, &mut errors);
        self.check_recovery(&mut errors);
        self.crash_dump.check(self, &mut errors);
        for (key, value) in &self.labels {
            if let Err(error) = check_label(key, value) {
                errors.push(FieldError::new(format!("labels.{key}"), error.to_string()));
            }
        }
        if self.auto_remove && self.restart != RestartPolicy::No {
            errors.push(FieldError::new("auto_remove", format!("cannot go with restart policy {}: a VM that is removed when it ends cannot be restarted", self.restart)));
        }
        errors
    }

    fn check_sizes(&self, errors: &mut Vec<FieldError>) {
        let mut check = |path: &str, ok: bool, message: String| {
            if !ok {
                errors.push(FieldError::new(path, message));
            }
        };
        check(
            "image",
            !self.image.trim().is_empty(),
            "must name an image, such as debian:12".to_owned(),
        );
        check(
            "vcpus",
            (1..=MAX_VCPUS).contains(&self.vcpus),
            format!("is {}, must be 1 to {MAX_VCPUS}", self.vcpus),
        );
        check(
            "memory",
            (MIN_MEMORY..=MAX_MEMORY).contains(&self.memory),
            format!("is {}, must be {MIN_MEMORY} to {MAX_MEMORY}", self.memory),
        );
        if let Some(disk) = self.disk {
            check(
                "disk",
                (MIN_DISK..=MAX_DISK).contains(&disk),
                format!("is {disk}, must be {MIN_DISK} to {MAX_DISK}"),
            );
        }
        check(
            "stop_timeout",
            self.stop_timeout <= Span::secs(3600),
            format!("is {}, must be at most 1h", self.stop_timeout),
        );
    }

    fn check_process(&self, errors: &mut Vec<FieldError>) {
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                errors.push(FieldError::new(
                    format!("env.{key}"),
                    "must have a name without '=' and no NUL character",
                ));
            }
        }
        for (path, list) in [("entrypoint", &self.entrypoint), ("command", &self.command)] {
            for (index, word) in list.iter().flatten().enumerate() {
                if word.contains('\0') {
                    errors.push(FieldError::new(
                        format!("{path}[{index}]"),
                        "must not contain a NUL character",
                    ));
                }
            }
        }
        if let Some(dir) = &self.workdir {
            check_guest_path("workdir", dir, errors);
        }
        if self
            .user
            .as_ref()
            .is_some_and(|u| u.is_empty() || u.contains(['\0', '\n', ' ']))
        {
            errors.push(FieldError::new(
                "user",
                "must be user or user:group, names or numbers",
            ));
        }
    }

    fn check_network(&self, errors: &mut Vec<FieldError>) {
        if self.network.mode == NetworkMode::None {
            if self.network.address.is_some() {
                errors.push(FieldError::new(
                    "network.address",
                    "cannot be set with network mode none",
                ));
            }
            if !self.ports.is_empty() {
                errors.push(FieldError::new(
                    "ports",
                    "cannot be published with network mode none",
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for (index, port) in self.ports.iter().enumerate() {
            if port.host_port == 0 || port.guest_port == 0 {
                errors.push(FieldError::new(
                    format!("ports[{index}]"),
                    "port numbers must be 1 to 65535",
                ));
            }
            if !seen.insert((port.protocol, port.host_ip, port.host_port)) {
                errors.push(FieldError::new(
                    format!("ports[{index}].host_port"),
                    format!("{port} is published twice"),
                ));
            }
        }
    }

    fn check_volumes(&self, errors: &mut Vec<FieldError>) {
        // virtio-blk: one root disk and the letters vdb to vdz.
        if self.volumes.len() > 16 {
            errors.push(FieldError::new(
                "volumes",
                format!("are {}, must be at most 16", self.volumes.len()),
            ));
        }
        let mut names = BTreeSet::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            let path = |field: &str| format!("volumes[{index}].{field}");
            if volume.name.as_str().len() > 20 || matches!(volume.name.as_str(), "root") {
                errors.push(FieldError::new(
                    path("name"),
                    "must be at most 20 characters and not \"root\"",
                ));
            }
            if !names.insert(&volume.name) {
                errors.push(FieldError::new(
                    path("name"),
                    format!("{} is used twice", volume.name),
                ));
            }
            if !(MIN_DISK..=MAX_DISK).contains(&volume.size) {
                errors.push(FieldError::new(
                    path("size"),
                    format!("is {}, must be {MIN_DISK} to {MAX_DISK}", volume.size),
                ));
            }
            check_guest_path(&path("mount"), &volume.mount, errors);
            let place = mount_place(&volume.mount);
            let mut before = self.volumes[..index].iter();
            if let Some(other) = before.find(|other| mount_place(&other.mount) == place) {
                errors.push(FieldError::new(
                    path("mount"),
                    format!("is {}, where {} is mounted", volume.mount, other.name),
                ));
            }
        }
    }
}

/// Where a mount's path leads, however it is written: `/data/` and `//data/.` are one place.
pub(crate) fn mount_place(path: &str) -> Vec<&str> {
    let parts = path.split('/');
    parts.filter(|part| !matches!(*part, "" | ".")).collect()
}

pub(crate) fn check_guest_path(field: &str, path: &str, errors: &mut Vec<FieldError>) {
    let clean =
        path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != "..");
    if !clean {
        errors.push(FieldError::new(
            field,
            format!("is {path:?}, must be an absolute path without '..'"),
        ));
    }
}
