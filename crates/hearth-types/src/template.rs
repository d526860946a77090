//! Templates: an image that stays, and what VMs of it are unless somebody says otherwise.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::ImageId;
use crate::names::VmName;
use crate::spec::{PartialSpec, VmSpec};

/// A template. VMs that were made from it keep what they got; it may change and go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// Its name, unique among templates.
    pub name: VmName,
    /// What its image was called when it was made.
    pub image: String,
    /// Which image that was. It is not removed before the template.
    pub image_id: ImageId,
    /// What VMs of it are, where nothing else is said.
    pub defaults: PartialSpec,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was replaced last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub changed_at: Option<Timestamp>,
}

impl Template {
    /// The specification of a VM of this name: the defaults, and what is said beside them.
    #[must_use]
    pub fn spec(&self, name: VmName, overrides: PartialSpec) -> VmSpec {
        let spec = VmSpec {
            template: Some(self.name.clone()),
            ..VmSpec::new(name, self.image.clone())
        };
        overrides.over(self.defaults.clone().over(spec))
    }
}

/// All templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateList {
    /// By name.
    pub items: Vec<Template>,
}

/// A request for a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTemplate {
    /// Its name.
    pub name: VmName,
    /// The image: a reference, or an id or its prefix. What it means now is what the template has.
    pub image: String,
    /// What VMs of it are, where nothing else is said.
    #[serde(default)]
    pub defaults: PartialSpec,
    /// Take the place of one that has the name.
    #[serde(default)]
    pub replace: bool,
}

/// A request for a VM of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFromTemplate {
    /// The VM's name.
    pub name: VmName,
    /// What is otherwise than the template has it.
    #[serde(default)]
    pub overrides: PartialSpec,
    /// Whether it should be started at once.
    #[serde(default)]
    pub start: bool,
}
