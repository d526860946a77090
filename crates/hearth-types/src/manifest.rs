//! Files for `hearth apply`: many VMs in one TOML or JSON file.
//!
//! ```toml
//! [[vm]]
//! name = "web-1"
//! image = "localhost:5000/demo:1"
//! memory = "512MiB"
//! restart = "always"
//! ports = [{ host_port = 8080, guest_port = 80 }]
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::names::VmName;
use crate::spec::bootstrap::{circle, circle_words};
use crate::spec::{FieldError, VmSpec};

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The VMs.
    #[serde(default)]
    pub vm: Vec<VmSpec>,
}

/// The forms a file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl Manifest {
    /// Reads and checks a file's text.
    ///
    /// # Errors
    /// All that is wrong: the first thing that cannot be read, or every impossible value.
    pub fn parse(text: &str, format: Format) -> Result<Self, Vec<FieldError>> {
        let manifest: Self = match format {
            Format::Toml => {
                let reader = toml::Deserializer::parse(text)
                    .map_err(|error| vec![FieldError::new("(file)", error.to_string())])?;
                serde_path_to_error::deserialize(reader).map_err(|error| {
                    let path = error.path().to_string();
                    vec![FieldError::new(path, error.into_inner().message())]
                })?
            }
            Format::Json => {
                let reader = &mut serde_json::Deserializer::from_str(text);
                let manifest = serde_path_to_error::deserialize(&mut *reader).map_err(|error| {
                    let path = error.path().to_string();
                    vec![FieldError::new(path, error.into_inner().to_string())]
                })?;
                reader
                    .end()
                    .map_err(|error| vec![FieldError::new("(file)", error.to_string())])?;
                manifest
            }
        };
        let errors = manifest.check();
        if errors.is_empty() {
            Ok(manifest)
        } else {
            Err(errors)
        }
    }

    fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut names = BTreeMap::new();
        for (index, vm) in self.vm.iter().enumerate() {
            errors.extend(
                vm.check()
                    .into_iter()
                    .map(|e| FieldError::new(format!("vm[{index}].{}", e.path), e.message)),
            );
            if let Some(first) = names.insert(&vm.name, index) {
                errors.push(FieldError::new(
                    format!("vm[{index}].name"),
                    format!("{} is already the name of vm[{first}]", vm.name),
                ));
            }
        }
        errors.extend(self.circle());
        errors
    }

    /// VMs that would be started after each other, round in a circle. One is told at a time.
    fn circle(&self) -> Option<FieldError> {
        let vms = self.vm.iter();
        let after: BTreeMap<_, _> = vms.map(|vm| (&vm.name, vm.after.as_slice())).collect();
        let of = |name: &VmName| after.get(name).copied().unwrap_or_default();
        let mut circles = self
            .vm
            .iter()
            .zip(0..)
            .filter_map(|(vm, index): (_, usize)| {
                let path = circle(&vm.name, &vm.after, of)?;
                // A VM that names itself is told by its own check.
                (path.len() > 2).then(|| (index, circle_words(&path)))
            });
        let (index, path) = circles.next()?;
        let message = format!("{path} is a circle: none of them could be started first");
        Some(FieldError::new(format!("vm[{index}].after"), message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str, format: Format) -> Vec<String> {
        Manifest::parse(text, format)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_file_with_two_vms() {
        let text = "[[vm]]\nname='a'\nimage='x'\n[[vm]]\nname='b'\nimage='x'\nmemory='1g'\nports=[{host_port=80,guest_port=80}]";
        let manifest = Manifest::parse(text, Format::Toml).unwrap();
        assert_eq!(manifest.vm.len(), 2);
        assert_eq!(manifest.vm[1].memory, crate::Bytes::gib(1));
    }

    #[test]
    fn errors_carry_the_fields_path() {
        let unknown = errors("[[vm]]\nname='a'\nimage='x'\nmemry='1g'", Format::Toml);
        assert!(
            unknown[0].contains("vm[0]") && unknown[0].contains("memry"),
            "{unknown:?}"
        );
        let unit = errors(
            r#"{"vm":[{"name":"a","image":"x","memory":"512"}]}"#,
            Format::Json,
        );
        assert!(
            unit[0].starts_with("vm[0].memory: ") && unit[0].contains("512MiB"),
            "{unit:?}"
        );
        let twice = errors(
            r#"{"vm":[{"name":"a","image":"x"},{"name":"a","image":"x","vcpus":0}]}"#,
            Format::Json,
        );
        assert_eq!(twice.len(), 2, "{twice:?}");
        assert!(errors("{} x", Format::Json)[0].starts_with("(file)"));
    }

    #[test]
    fn a_circle_is_told_with_its_path() {
        let text = |db: &str| {
            format!(
                r#"{{"vm":[{{"name":"web","image":"x","after":["api"]}},
                {{"name":"api","image":"x","after":["db","elsewhere"]}},
                {{"name":"db","image":"x","after":[{db}]}}]}}"#
            )
        };
        assert!(Manifest::parse(&text(""), Format::Json).is_ok());
        assert_eq!(
            errors(&text(r#""web""#), Format::Json),
            ["vm[0].after: web → api → db → web is a circle: none of them could be started first"]
        );
    }
}
