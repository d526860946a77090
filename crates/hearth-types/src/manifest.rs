//! Files for `hearth apply`: many VMs in one TOML or JSON file.
//!
//! ```toml
//! [[vm]]
//! name = "web-1"
//! image = "localhost:5000/demo:1"
//! memory = "512MiB"
//! restart = "always"
//! ports = [{ host_port = 8080, guest_port = 80 }]
//!
//! [[vm]]
//! name = "web-2"
//! template = "web"
//! memory = "1GiB"
//! ```
//! A VM names its image, or the template that it is made from; then it says only what is otherwise.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::names::VmName;
use crate::spec::bootstrap::{circle, circle_words};
use crate::spec::{FieldError, PartialSpec, VmSpec};

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The VMs.
    pub vm: Vec<Entry>,
}

/// One VM of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// All that it is.
    Whole(Box<VmSpec>),
    /// What is otherwise than its template has it.
    OfTemplate {
        /// The template.
        template: VmName,
        /// Its name.
        name: VmName,
        /// What is otherwise.
        own: Box<PartialSpec>,
    },
}

/// A file as it is read first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    vm: Vec<Value>,
}

/// The fields of an entry that is made from a template.
#[derive(Deserialize)]
struct Named {
    name: VmName,
    template: VmName,
}

impl Entry {
    /// The VM's name.
    #[must_use]
    pub const fn name(&self) -> &VmName {
        match self {
            Self::Whole(spec) => &spec.name,
            Self::OfTemplate { name, .. } => name,
        }
    }

    /// The VMs that an automatic start waits for, as far as the file says.
    fn after(&self) -> &[VmName] {
        match self {
            Self::Whole(spec) => &spec.after,
            Self::OfTemplate { own, .. } => own.after.as_deref().unwrap_or_default(),
        }
    }

    fn check(&self) -> Vec<FieldError> {
        match self {
            Self::Whole(spec) => spec.check(),
            // What goes with what its template has is found out where the template is.
            Self::OfTemplate {
                template,
                name,
                own,
            } => {
                let spec = VmSpec::new(name.clone(), template.as_str());
                own.as_ref().clone().over(spec).check()
            }
        }
    }

    fn parse(value: Value) -> Result<Self, FieldError> {
        let Value::Object(mut fields) = value else {
            return Err(FieldError::new("(entry)", "is no table of fields"));
        };
        if !fields.contains_key("template") || fields.contains_key("image") {
            let spec: VmSpec = fitting(Value::Object(fields))?;
            return match spec.template {
                None => Ok(Self::Whole(Box::new(spec))),
                Some(_) => Err(FieldError::new(
                    "template",
                    "cannot go with image: the template has one",
                )),
            };
        }
        let named: Named = fitting(Value::Object(fields.clone()))?;
        fields.retain(|field, _| field != "name" && field != "template");
        Ok(Self::OfTemplate {
            template: named.template,
            name: named.name,
            own: Box::new(fitting(Value::Object(fields))?),
        })
    }
}

/// What a value means, or the path of the field that does not fit.
fn fitting<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        FieldError::new(path, error.into_inner().to_string())
    })
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
        let raw: Raw = match format {
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
                let raw = serde_path_to_error::deserialize(&mut *reader).map_err(|error| {
                    let path = error.path().to_string();
                    vec![FieldError::new(path, error.into_inner().to_string())]
                })?;
                reader
                    .end()
                    .map_err(|error| vec![FieldError::new("(file)", error.to_string())])?;
                raw
            }
        };
        let manifest = Self::read(raw)?;
        let errors = manifest.check();
        if errors.is_empty() {
            Ok(manifest)
        } else {
            Err(errors)
        }
    }

    fn read(raw: Raw) -> Result<Self, Vec<FieldError>> {
        let entry = |(index, value)| {
            Entry::parse(value).map_err(|error| {
                let path = match error.path.as_str() {
                    "." | "(entry)" => format!("vm[{index}]"),
                    path => format!("vm[{index}].{path}"),
                };
                vec![FieldError::new(path, error.message)]
            })
        };
        let vm = raw.vm.into_iter().enumerate().map(entry);
        Ok(Self {
            vm: vm.collect::<Result<_, _>>()?,
        })
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
            if let Some(first) = names.insert(vm.name(), index) {
                errors.push(FieldError::new(
                    format!("vm[{index}].name"),
                    format!("{} is already the name of vm[{first}]", vm.name()),
                ));
            }
        }
        errors.extend(self.circle());
        errors
    }

    /// VMs that would be started after each other, round in a circle. One is told at a time.
    fn circle(&self) -> Option<FieldError> {
        let vms = self.vm.iter();
        let after: BTreeMap<_, _> = vms.map(|vm| (vm.name(), vm.after())).collect();
        let of = |name: &VmName| after.get(name).copied().unwrap_or_default();
        let mut circles = self
            .vm
            .iter()
            .zip(0..)
            .filter_map(|(vm, index): (_, usize)| {
                let path = circle(vm.name(), vm.after(), of)?;
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
        let Entry::Whole(second) = &manifest.vm[1] else {
            panic!("{manifest:?}");
        };
        assert_eq!(second.memory, crate::Bytes::gib(1));
    }

    #[test]
    fn an_entry_of_a_template_says_only_what_is_otherwise() {
        let text = "[[vm]]\nname='a'\ntemplate='web'\nvcpus=2\n[vm.env]\nA='1'";
        let manifest = Manifest::parse(text, Format::Toml).unwrap();
        let Entry::OfTemplate {
            template,
            name,
            own,
        } = &manifest.vm[0]
        else {
            panic!("{manifest:?}");
        };
        assert_eq!((template.as_str(), name.as_str()), ("web", "a"));
        assert_eq!((own.vcpus, own.memory), (Some(2), None));
        let both = r#"{"vm":[{"name":"a","image":"x","template":"web"}]}"#;
        let told = errors(both, Format::Json);
        assert!(told[0].starts_with("vm[0].template: "), "{told:?}");
        let wrong = r#"{"vm":[{"name":"a","template":"web","vcpus":0}]}"#;
        assert!(errors(wrong, Format::Json)[0].starts_with("vm[0].vcpus: "));
        let unknown = r#"{"vm":[{"name":"a","template":"web","memry":"1g"}]}"#;
        let told = errors(unknown, Format::Json);
        assert!(
            told[0].contains("vm[0]") && told[0].contains("memry"),
            "{told:?}"
        );
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
