//! What became of a VM after the last reboot of the host, and what a start waits for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::BootstrapPolicy;

/// What the bootstrap of the present boot has decided about a VM, until its user says something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bootstrap {
    /// When the VM was taken up in this boot.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// What is done about it.
    pub fate: Fate,
    /// The policy that decided; absent when the VM's restart policy alone did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<BootstrapPolicy>,
}

/// What the bootstrap does about a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = BootstrapFate)]
pub enum Fate {
    /// It is to be started; its phase says how far that is.
    Due,
    /// It was started.
    Started,
    /// It is left stopped until `hearth start` or `hearth recover`.
    Left,
    /// Its user had stopped it.
    Stopped,
}

/// The kinds of things that an automatic start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Awaited {
    /// VMs that it is started after.
    Vms,
    /// The network that all VMs share.
    Network,
    /// Its own disks.
    Disks,
}

/// What an automatic start waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wait {
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// For what.
    pub on: Awaited,
    /// For what exactly, and why, for people.
    pub reason: String,
    /// It has waited long enough and is started all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
}
