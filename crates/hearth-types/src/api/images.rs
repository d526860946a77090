//! Requests for images and what is answered.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::image::{ImageRecord, KernelRecord};
use crate::image_job::ImageJob;

/// A request to pull an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// The reference, or `s3://bucket/key`.
    pub reference: String,
    /// Allow plain HTTP for a registry that is not on loopback.
    #[serde(default)]
    pub plain_http: bool,
    /// Credentials as the user's Docker config file has them; the daemon keeps none.
    #[serde(default)]
    pub auth: Option<RegistryAuth>,
    /// `os/arch`; the host's when absent.
    #[serde(default)]
    pub platform: Option<String>,
    /// The kind of file that an object of S3 is; guessed from its content when absent.
    #[serde(default)]
    pub kind: Option<ImportKind>,
    /// The digest that an object of S3 must have (`sha256:…`); of a layout, its manifest's.
    #[serde(default)]
    pub digest: Option<String>,
    /// How S3 is asked, where it differs from the daemon's configuration.
    #[serde(default)]
    pub s3: S3Access,
    /// Go on when the client goes away; the answer ends with the job's first line.
    #[serde(default)]
    pub detach: bool,
}

/// How S3 is asked. What is absent is as in the daemon's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct S3Access {
    /// `https://host` or `http://host:port`.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// A profile of the daemon's shared credentials file.
    pub profile: Option<String>,
    /// Whether the endpoint is asked as `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub path_style: Option<bool>,
}

/// Credentials for one registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A request to import an image from a file on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    /// Absolute path on the daemon's host.
    pub path: String,
    /// The reference to give it.
    pub reference: String,
    /// The kind of file; guessed from its content when absent.
    #[serde(default)]
    pub kind: Option<ImportKind>,
    /// Go on when the client goes away; the answer ends with the job's first line.
    #[serde(default)]
    pub detach: bool,
}

/// A request to make an image of a snapshot's root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFromSnapshot {
    /// The snapshot's name, id, or the beginning of its id.
    pub snapshot: String,
    /// The reference to give the image.
    pub reference: String,
    /// Go on when the client goes away; the answer ends with the job's first line.
    #[serde(default)]
    pub detach: bool,
}

/// Kinds of image files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImportKind {
    /// A folder or tar with `oci-layout` and `index.json`.
    OciLayout,
    /// The output of `docker save`.
    DockerArchive,
    /// A root filesystem tar: plain, gz, xz or zst.
    RootfsTar,
    /// A raw disk image with one file system and no partition table.
    Disk,
}

/// One line of the newline-delimited JSON that pull, import and from-snapshot answer with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Progress {
    /// The first line: the job that does it.
    Job {
        /// The job.
        job: ImageJob,
    },
    /// What is happening now, in words.
    Stage {
        /// The words.
        message: String,
    },
    /// How far one item (a layer) is.
    Item {
        /// The item, such as a shortened digest.
        id: String,
        /// `download`, `unpack`, `done`, `cached`.
        state: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// The last line of a success: an image.
    Image {
        /// The image.
        image: ImageRecord,
    },
    /// The last line of a success: a kernel.
    Kernel {
        /// The kernel.
        kernel: KernelRecord,
    },
    /// The last line of a failure.
    Failed {
        /// The problem.
        problem: crate::problem::Problem,
    },
}

/// A list of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// The images.
    pub items: Vec<ImageView>,
}

/// An image and who uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// The image.
    pub image: ImageRecord,
    /// Who needs it: VMs that were made from it, `snapshot NAME`, `template NAME`.
    pub used_by: Vec<String>,
}
