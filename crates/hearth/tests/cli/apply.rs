//! `apply`: differences, dry runs and prunes.

use crate::fake::Fake;
use crate::runner::{run_with_input, session, show, write};

const FILE: &str = r#"
[[vm]]
name = "web-1"
image = "localhost:5000/demo:2"
memory = "1GiB"
restart = "always"
env = { TOKEN = "other", NEW = "1" }
labels = { tier = "web" }
ports = [{ host_port = 8080, guest_port = 80 }]

[[vm]]
name = "broken"
image = "debian:12"
network = { mode = "none" }
restart = "on-failure:3"

[[vm]]
name = "fresh"
image = "missing:1"
"#;

#[test]
fn the_difference_is_shown_and_made() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "vms.toml", FILE);
    let dry = session(
        &fake,
        &[
            &["apply", "-f", &file, "--dry-run"],
            &["apply", "-f", &file, "--dry-run", "-o", "json"],
        ],
    );
    assert_eq!(fake.changes(), [""; 0], "a dry run changed something");
    let made = session(
        &fake,
        &[&["apply", "-f", &file, "--prune", "-l", "tier=data"]],
    );
    let text = format!("{dry}\n{made}").replace(&file, "vms.toml");
    insta::assert_snapshot!("apply", text);
    insta::assert_snapshot!("apply-requests", fake.changes().join("\n"));
    assert!(!text.contains("s3cret"));
}

#[test]
fn a_change_meanwhile_is_not_overwritten() {
    let fake = Fake::start();
    let args = ["apply", "-f", "-"];
    let file = br#"{"vm":[{"name":"db","image":"debian:13","labels":{"tier":"data"}}]}"#;
    let output = run_with_input(&fake, &args, file);
    insta::assert_snapshot!("apply-conflict", show(Some(&fake), &args, &output));
}

#[test]
fn files_that_cannot_be_used() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let unit = write(
        dir.path(),
        "unit.toml",
        "[[vm]]\nname='a'\nimage='x'\nmemory='512'\n",
    );
    let unknown = write(
        dir.path(),
        "unknown.json",
        r#"{"vm":[{"name":"a","image":"x","memry":"1g"}]}"#,
    );
    let values = write(
        dir.path(),
        "values.toml",
        "[[vm]]\nname='a'\nimage='x'\nvcpus=0\ndisk='1k'\n",
    );
    let text = session(
        &fake,
        &[
            &["apply", "-f", &unit],
            &["apply", "-f", &unknown],
            &["apply", "-f", &values],
            &["apply", "-f", "/nonexistent.toml"],
            &["apply", "-f", &unit, "--prune"],
        ],
    );
    let folder = format!("{}/", dir.path().display());
    insta::assert_snapshot!("apply-files", text.replace(&folder, ""));
    assert_eq!(fake.requests(), [""; 0]);
}

#[test]
fn nothing_of_a_file_is_done_when_its_volumes_clash_with_attached_ones() {
    let fake = Fake::start();
    let args = ["apply", "-f", "-"];
    let file = br#"{"vm":[
        {"name":"new","image":"debian:12"},
        {"name":"db","image":"debian:12","labels":{"tier":"data"},
         "volumes":[{"name":"own","mount":"/srv/","size":"1GiB"}]}]}"#;
    let output = run_with_input(&fake, &args, file);
    assert_eq!(fake.changes(), [""; 0]);
    insta::assert_snapshot!("apply-volumes", show(Some(&fake), &args, &output));
}
