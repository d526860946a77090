//! `cp` both ways.

use std::fs;
use std::io::Read;

use crate::fake::Fake;
use crate::runner::{run, run_with_input, session};

/// The entries of an archive: name and content.
fn entries(tar: &[u8]) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        (entry.path().unwrap().display().to_string(), content)
    });
    entries.collect()
}

#[test]
fn out_of_the_guest() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("{}/{name}", dir.path().display());
    for (from, to) in [
        ("web-1:/file", path("")),
        ("web-1:file", path("renamed")),
        ("web-1:/dir", path("")),
        ("web-1:/dir", path("copy")),
        ("web-1:/dir/.", path("copy")),
    ] {
        let output = run(&fake, &["cp", from, &to]);
        assert!(output.status.success(), "{from} {to}: {output:?}");
    }
    assert_eq!(fs::read_to_string(path("file")).unwrap(), "of the guest\n");
    assert_eq!(
        fs::read_to_string(path("renamed")).unwrap(),
        "of the guest\n"
    );
    for inner in ["dir/inner", "copy/inner"] {
        assert_eq!(fs::read(path(inner)).unwrap(), vec![b'i'; 200_000]);
    }
    let tar = run(&fake, &["cp", "web-1:/file", "-"]).stdout;
    assert_eq!(
        entries(&tar),
        [("file".to_owned(), "of the guest\n".to_owned())]
    );
}

#[test]
fn into_the_guest() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a"), "content").unwrap();
    let folder = folder.to_str().unwrap();
    let cases = [
        (format!("{folder}/a"), "web-1:/dir", "/dir", vec!["a"]),
        (format!("{folder}/a"), "web-1:/new", "/", vec!["new"]),
        (format!("{folder}/a"), "web-1:/file", "/", vec!["file"]),
        (format!("{folder}/a"), "web-1:/link", "/link", vec!["a"]),
        (format!("{folder}/a"), "web-1:/link/", "/link", vec!["a"]),
        (
            format!("{folder}/a"),
            "web-1:/link/new",
            "/link",
            vec!["new"],
        ),
        (
            format!("{folder}/a"),
            "web-1:/dangling",
            "/",
            vec!["dangling"],
        ),
        (
            folder.to_owned(),
            "web-1:/dir",
            "/dir",
            vec!["folder", "folder/a"],
        ),
        (
            folder.to_owned(),
            "web-1:/srv/new",
            "/srv",
            vec!["new", "new/a"],
        ),
        (format!("{folder}/."), "web-1:/dir", "/dir", vec![".", "a"]),
    ];
    for (from, to, into, expected) in cases {
        let output = run(&fake, &["cp", &from, to]);
        assert!(output.status.success(), "{from} {to}: {output:?}");
        let names: Vec<_> = entries(fake.uploads().last().unwrap())
            .into_iter()
            .map(|e| e.0)
            .collect();
        assert_eq!(names, expected, "{from} {to}");
        let asked = fake.changes().pop().unwrap();
        let into = into.replace('/', "%2F");
        assert_eq!(asked, format!("PUT /v1/vms/web-1/archive?path={into}"));
    }
    let tar = b"any bytes: the daemon reads them";
    assert!(
        run_with_input(&fake, &["cp", "-", "web-1:/srv"], tar)
            .status
            .success()
    );
    assert_eq!(fake.uploads().last().unwrap(), tar);
}

#[test]
fn what_cannot_be_copied() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let text = session(
        &fake,
        &[
            &["cp", "a", "b"],
            &["cp", "web-1:/a", "db:/b"],
            &["cp", "web-1:/nothing", folder],
            &["cp", "web-1:/file", "/nonexistent/a"],
            &["cp", "web-1:/file", &format!("{folder}/new/")],
            &["cp", "/nonexistent", "web-1:/"],
            &["cp", folder, "web-1:/file"],
            &["cp", "/dev/null", "web-1:/new/"],
            &["cp", "/etc/hostname", "web-1:/no/such/folder"],
            &["cp", "/etc/hostname", "nobody:/etc"],
        ],
    );
    insta::assert_snapshot!("cp-failures", text.replace(folder, "/FOLDER"));
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}
