//! What is pulled: requests, layers, images made with a real tool.

use std::path::Path;

use hearth_image::PullRequest;

use super::registry::run;

/// A pull without anything special.
pub(crate) fn request(reference: &str) -> PullRequest {
    PullRequest {
        reference: reference.to_owned(),
        ..PullRequest::default()
    }
}

/// A tar from (path, content) pairs; a path that ends in a slash is a folder, a content that
/// starts with `->` a symlink, with `=>` a hard link.
pub(crate) fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (at, (path, content)) in entries.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        header.set_mode(if path.ends_with('/') {
            0o750
        } else {
            0o640 + u32::try_from(at % 8).unwrap()
        });
        header.set_uid(at as u64);
        header.set_gid(at as u64 + 100);
        header.set_mtime(1_600_000_000 + at as u64);
        header.set_size(0);
        if let Some(target) = content.strip_prefix("->") {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, path, target).unwrap();
        } else if let Some(target) = content.strip_prefix("=>") {
            header.set_entry_type(tar::EntryType::Link);
            builder.append_link(&mut header, path, target).unwrap();
        } else if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, path, &b""[..]).unwrap();
        } else {
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// Bytes that gzip cannot make small.
pub(crate) fn noise(bytes: usize) -> String {
    let mut state = 88_172_645_463_325_252_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b' ' + (state % 95) as u8)
        })
        .collect()
}

/// An OCI layout whose image has these layers, lowest first.
pub(crate) fn layout(dir: &Path, tag: &str, layers: &[Vec<u8>]) {
    let path = dir.to_str().unwrap();
    let image = format!("{path}:{tag}");
    if !dir.exists() {
        run("umoci", &["init", "--layout", path]);
    }
    run("umoci", &["new", "--image", &image]);
    for (at, layer) in layers.iter().enumerate() {
        let file = dir.with_extension(format!("{tag}{at}.tar"));
        std::fs::write(&file, layer).unwrap();
        run(
            "umoci",
            &[
                "raw",
                "add-layer",
                "--image",
                &image,
                file.to_str().unwrap(),
            ],
        );
    }
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.cmd",
            "serve",
            "--config.env",
            "A=b",
            "--config.user",
            "7:8",
            "--config.workingdir",
            "/srv",
            "--config.exposedports",
            "80/tcp",
        ],
    );
}
