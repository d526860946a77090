//! Garbage collection: the graph that decides, and a daemon that finds and cleans 10,000 old
//! backups of its database, beside `find`, which asks nobody whether they may go.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::example::Example;
use super::rig::{Rig, Vmm};
use super::{Case, Context, http, tool};

const OBJECTS: u32 = 10_000;
/// More than the daemon keeps.
const KEPT: u32 = 100;

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    let graph = Example {
        package: "hearth-plan",
        name: "gc_bench",
        per_second: 1e3,
    };
    let mut cases = graph.cases(&[
        ("the graph of 10000 objects", "10000", "100 ms"),
        ("the same, processor time", "10000-cpu", "100 ms"),
        ("of 1000 objects", "1000", "-"),
        ("of 100000 objects", "100000", "-"),
    ]);
    let rig = Rc::new(Rig::new(
        context,
        &context.folder.join("rig"),
        Vmm::Standin,
    )?);
    let backups = rig.data().join("backups");
    cases.push(daemon("10000 files found", &rig, false, &backups));
    cases.push(daemon(
        "10000 files found and cleaned",
        &rig,
        true,
        &backups,
    ));
    let folder = context.folder.join("theirs");
    let theirs = folder.clone();
    let find = Case::new("find -delete", move || {
        let path = theirs.to_str().context("the folder is not UTF-8")?;
        tool("find", [path, "-type", "f", "-delete"])
    });
    cases.push(find.before(move || fill(&folder)));
    Ok(cases)
}

fn daemon(name: &str, rig: &Rc<Rig>, force: bool, backups: &Path) -> Case {
    let (rig, backups) = (Rc::clone(rig), backups.to_owned());
    let asked = json!({ "force": force, "kinds": ["backup"] });
    let case = Case::new(name, move || {
        let said = http::ask(&rig.socket, "POST", "/v1/gc", Some(&asked))?;
        let said: Value = serde_json::from_str(&said)?;
        let (count, summary) = (
            said["items"].as_array().map_or(0, Vec::len),
            &said["summary"],
        );
        ensure!(count >= OBJECTS as usize, "{count} were found: {summary}");
        let cleaned = summary["cleaned"].as_u64() >= Some(OBJECTS.into());
        ensure!(!force || cleaned, "not cleaned: {summary}");
        Ok(())
    });
    case.before(move || fill(&backups))
}

/// Puts small files of these names where they are not.
fn fill(folder: &PathBuf) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    for at in 0..OBJECTS + KEPT {
        let (hour, minute, second) = (at / 3600, at / 60 % 60, at % 60);
        let name = format!("hearth-20200101T{hour:02}{minute:02}{second:02}Z.db");
        let path = folder.join(name);
        if !path.exists() {
            std::fs::write(path, "old")?;
        }
    }
    rustix::fs::sync();
    Ok(())
}
