//! Where the programs are that belong to Hearth itself.

use std::path::{Path, PathBuf};

use camino::Utf8PathBuf;

use crate::VmmError;

/// Where a package puts programs that people do not call.
const LIBEXEC: &str = "/usr/lib/hearth";

/// Finds a program that was installed with the running one: `explicit` if it is given, else
/// beside the running program, else in `/usr/lib/hearth`.
///
/// # Errors
/// [`VmmError::Missing`] with the places that were looked at.
pub fn find_companion(name: &str, explicit: Option<&Path>) -> Result<Utf8PathBuf, VmmError> {
    let candidates: Vec<PathBuf> = match explicit {
        Some(path) => vec![path.to_owned()],
        None => beside_us()
            .into_iter()
            .chain([PathBuf::from(LIBEXEC)])
            .map(|folder| folder.join(name))
            .collect(),
    };
    let found = candidates.iter().find(|path| path.is_file());
    found
        // Whoever runs it may have another working folder by then.
        .and_then(|path| std::path::absolute(path).ok())
        .and_then(|path| Utf8PathBuf::from_path_buf(path).ok())
        .ok_or_else(|| VmmError::Missing {
            what: name.to_owned(),
            detail: format!(
                "looked for {}; install it there or give its path in the configuration",
                candidates
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(" and ")
            ),
        })
}

/// The folder of the running program. A program that was replaced by an upgrade is shown
/// as `… (deleted)`; its folder is right all the same. Test programs live one level below
/// the programs they belong to.
fn beside_us() -> Vec<PathBuf> {
    let Some(folder) = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_owned))
    else {
        return Vec::new();
    };
    let above = folder
        .file_name()
        .filter(|name| *name == "deps")
        .and_then(|_| folder.parent().map(Path::to_owned));
    std::iter::once(folder).chain(above).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companions_are_beside_us_or_where_one_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thing");
        assert!(find_companion("thing", Some(&path)).is_err());
        std::fs::write(&path, "").unwrap();
        assert_eq!(find_companion("thing", Some(&path)).unwrap(), path);
        let error = find_companion("no-such-companion", None).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/usr/lib/hearth/no-such-companion")
        );
        let own = std::env::current_exe().unwrap();
        let name = own.file_name().unwrap().to_str().unwrap();
        assert_eq!(find_companion(name, None).unwrap(), own);
    }
}
