//! The output of `docker save`: a tar with `manifest.json`, a configuration and layer tars.

use camino::Utf8Path;
use serde::Deserialize;

use crate::bundle::Bundle;
use crate::config::Details;
use crate::import::Plan;
use crate::name::Name;
use crate::{ImageError, Limits, Reference, blob, digest};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Finds the image and what is needed to unpack it. Its id is the digest of its configuration,
/// which is what docker calls the image's id.
pub(crate) fn plan(
    path: &Utf8Path,
    bundle: &Bundle,
    name: &Name,
    limits: &Limits,
) -> Result<Plan, ImageError> {
    let what = path.as_str();
    let bytes = bundle.document("manifest.json", limits.document)?;
    let saved: Vec<Saved> = serde_json::from_slice(&bytes)
        .map_err(|e| ImageError::unsupported(what, format!("bad manifest.json ({e})")))?;
    let image = choose(what, &saved, name)?;
    if image.layers.is_empty() || image.layers.len() > limits.layers {
        let why = format!("it has {} layers", image.layers.len());
        return Err(ImageError::unsupported(what, why));
    }
    let config = bundle.document(&image.config, limits.document)?;
    let details = Details::parse(what, &config, image.layers.len())?;
    let id = digest::of(&config)
        .parse()
        .map_err(|e| ImageError::Volume(Box::new(e)))?;
    let mut opened = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(&details.diff_ids) {
        digest::hex(diff_id)?;
        let (source, size) = bundle.read(name)?;
        opened.push((diff_id.clone(), source, size));
    }
    let size = opened.iter().map(|(_, _, size)| size).sum();
    let mut plan = Plan::new(id, "docker-archive", details, size);
    for (diff_id, source, size) in opened {
        plan.layer(blob::short(&diff_id), source, size, None, Some(diff_id));
    }
    Ok(plan)
}

fn choose<'a>(what: &str, saved: &'a [Saved], name: &Name) -> Result<&'a Saved, ImageError> {
    if let [only] = saved {
        return Ok(only);
    }
    let full = name.to_string();
    let tags = |image: &'a Saved| image.repo_tags.iter().flatten();
    saved
        .iter()
        .find(|image| {
            tags(image).any(|tag| {
                tag.parse::<Reference>()
                    .is_ok_and(|tag| tag.to_string() == full)
            })
        })
        .ok_or_else(|| {
            let all: Vec<&str> = saved.iter().flat_map(tags).map(String::as_str).collect();
            let why = format!(
                "it holds {} images; give one of these references: {}",
                saved.len(),
                all.join(", ")
            );
            ImageError::unsupported(what, why)
        })
}
