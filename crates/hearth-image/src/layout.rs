//! OCI layouts: a folder or a tar with `oci-layout`, `index.json` and blobs.

use camino::Utf8Path;
use hearth_types::ids::ImageId;

use crate::bundle::Bundle;
use crate::config::Details;
use crate::import::Plan;
use crate::manifest::{Descriptor, Document, Manifest, Wanted};
use crate::name::Name;
use crate::{ImageError, Limits, Reference, blob, digest};

/// The annotation that names an image in an index.
const NAME: &str = "org.opencontainers.image.ref.name";
/// Indexes within indexes that are followed.
pub(crate) const DEPTH: usize = 3;

/// Finds the image and what is needed to unpack it.
pub(crate) fn plan(
    path: &Utf8Path,
    bundle: Bundle,
    name: &Name,
    limits: &Limits,
) -> Result<Plan, ImageError> {
    let wanted = Wanted::parse(None)?;
    let index = bundle.document("index.json", limits.document)?;
    let what = path.as_str();
    let Document::Index(mut manifests) = Document::parse(what, &index, limits)? else {
        return Err(ImageError::unsupported(
            what,
            "its index.json is not an index",
        ));
    };
    for _ in 0..DEPTH {
        let chosen = choose(what, &manifests, name, &wanted)?;
        let bytes = verified(&bundle, chosen, limits)?;
        match Document::parse(what, &bytes, limits)? {
            Document::Index(inner) => manifests = inner,
            Document::Image(manifest) => {
                let id: ImageId = chosen
                    .digest
                    .parse()
                    .map_err(|e| ImageError::Volume(Box::new(e)))?;
                return layers(what, &bundle, id, &manifest, limits);
            }
        }
    }
    Err(ImageError::unsupported(
        what,
        "its indexes are nested too deeply",
    ))
}

/// The only image, or the one with the reference's tag or name, or the one for the host.
pub(crate) fn choose<'a>(
    what: &str,
    manifests: &'a [Descriptor],
    name: &Name,
    wanted: &Wanted,
) -> Result<&'a Descriptor, ImageError> {
    if let [only] = manifests {
        return Ok(only);
    }
    let full = name.to_string();
    let named = manifests.iter().find(|descriptor| {
        descriptor.annotations.get(NAME).is_some_and(|given| {
            Some(given.as_str()) == name.tag()
                || given
                    .parse::<Reference>()
                    .is_ok_and(|given| given.to_string() == full)
        })
    });
    match named {
        Some(descriptor) => Ok(descriptor),
        None => wanted.choose(what, manifests).map_err(|error| {
            let names: Vec<&str> = manifests
                .iter()
                .filter_map(|descriptor| descriptor.annotations.get(NAME))
                .map(String::as_str)
                .collect();
            if names.is_empty() {
                return error;
            }
            let why = format!(
                "it holds several images ({}); give a reference with one of these tags",
                names.join(", ")
            );
            ImageError::unsupported(what, why)
        }),
    }
}

fn layers(
    what: &str,
    bundle: &Bundle,
    id: ImageId,
    manifest: &Manifest,
    limits: &Limits,
) -> Result<Plan, ImageError> {
    let config = verified(bundle, &manifest.config, limits)?;
    let details = Details::parse(what, &config, manifest.layers.len())?;
    let mut plan = Plan::new(id, "oci-layout", details, manifest.expected_size());
    for layer in &manifest.layers {
        let (source, size) = bundle.read(&blob_name(layer)?)?;
        plan.layer(
            blob::short(&layer.digest),
            source,
            size,
            Some(layer.digest.clone()),
            None,
        );
    }
    Ok(plan)
}

fn verified(
    bundle: &Bundle,
    descriptor: &Descriptor,
    limits: &Limits,
) -> Result<Vec<u8>, ImageError> {
    let name = blob_name(descriptor)?;
    let bytes = bundle.document(&name, limits.document)?;
    digest::check(&name, &descriptor.digest, digest::of(&bytes))?;
    Ok(bytes)
}

fn blob_name(descriptor: &Descriptor) -> Result<String, ImageError> {
    Ok(format!("blobs/sha256/{}", digest::hex(&descriptor.digest)?))
}
