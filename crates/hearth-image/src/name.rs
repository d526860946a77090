//! Names that people give images by: references, and objects of S3.

use std::fmt;
use std::str::FromStr;

use hearth_s3::Location;

use crate::{ImageError, Reference};

/// A name in full form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `docker.io/library/debian:12`.
    Reference(Reference),
    /// `s3://bucket/key`.
    Object(Location),
}

impl Name {
    /// The tag, if it is a reference with one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match self {
            Self::Reference(reference) => reference.tag(),
            Self::Object(_) => None,
        }
    }
}

impl FromStr for Name {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        if Location::is_meant(text) {
            let location = text.parse();
            return location
                .map(Self::Object)
                .map_err(|error| ImageError::S3(Box::new(error)));
        }
        text.parse().map(Self::Reference)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference(reference) => reference.fmt(f),
            Self::Object(location) => location.fmt(f),
        }
    }
}

impl From<Reference> for Name {
    fn from(reference: Reference) -> Self {
        Self::Reference(reference)
    }
}
