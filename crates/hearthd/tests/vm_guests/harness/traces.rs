//! Everything a host could have left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use camino::Utf8Path;

use super::netns::Netns;

/// Kinds of objects, each with the objects that are there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Traces(BTreeMap<&'static str, BTreeSet<String>>);

impl Traces {
    /// Looks at everything that belongs to a namespace, a data folder and an installation.
    pub(crate) fn of(netns: &Netns, data: &Utf8Path, installation: Option<&str>) -> Self {
        let processes = installation.map(processes_of).unwrap_or_default();
        let describe = |(pid, role): (i32, String)| format!("{role} {pid}");
        Self(BTreeMap::from([
            ("process", processes.into_iter().map(describe).collect()),
            ("link", lines(&netns.run("ip", &["-brief", "link"]), 1)),
            (
                "nft table",
                lines(&netns.run("nft", &["list", "tables"]), 3),
            ),
            ("loop device", loop_devices(data)),
            ("mount", mentions("/proc/self/mountinfo", data)),
            ("socket", sockets(netns, data)),
            ("file", files(&data.join("vms"))),
        ]))
    }

    /// The same without what changes from one run of a VM to the next.
    pub(crate) fn that_stay(mut self) -> Self {
        self.0
            .retain(|kind, _| !matches!(*kind, "process" | "socket"));
        self
    }

    /// What is here and was not there before.
    pub(crate) fn since(&self, before: &Self) -> Vec<String> {
        let nothing = BTreeSet::new();
        self.0
            .iter()
            .flat_map(|(kind, now)| {
                let then = before.0.get(kind).unwrap_or(&nothing);
                now.difference(then)
                    .map(move |object| format!("{kind} {object}"))
            })
            .collect()
    }
}

fn lines(text: &str, words: usize) -> BTreeSet<String> {
    text.lines()
        .map(|line| {
            line.split_whitespace()
                .take(words)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .filter(|line| !line.is_empty())
        .collect()
}

/// Pid and role of every living process that carries the mark of an installation.
pub(crate) fn processes_of(installation: &str) -> Vec<(i32, String)> {
    let mark = format!("HEARTH_OWNER={installation}:");
    let marked = |pid: i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut entries = environ.split(|byte| *byte == 0);
        entries
            .any(|entry| entry.starts_with(mark.as_bytes()))
            .then(|| {
                let role = environ
                    .split(|byte| *byte == 0)
                    .find_map(|entry| entry.strip_prefix(b"HEARTH_ROLE="));
                (
                    pid,
                    String::from_utf8_lossy(role.unwrap_or(b"?")).into_owned(),
                )
            })
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(marked)
        .collect()
}

fn loop_devices(data: &Utf8Path) -> BTreeSet<String> {
    let backing = |name: &str| {
        let path = Path::new("/sys/block").join(name).join("loop/backing_file");
        std::fs::read_to_string(path).ok()
    };
    std::fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            let file = backing(&name)?;
            file.starts_with(data.as_str())
                .then(|| format!("{name} on {}", file.trim()))
        })
        .collect()
}

fn mentions(file: &str, data: &Utf8Path) -> BTreeSet<String> {
    std::fs::read_to_string(file)
        .unwrap()
        .lines()
        .filter(|line| line.contains(data.as_str()))
        .map(str::to_owned)
        .collect()
}

fn sockets(netns: &Netns, data: &Utf8Path) -> BTreeSet<String> {
    let text = netns.run("cat", &["/proc/net/unix"]);
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|path| path.starts_with(data.as_str()))
        .map(str::to_owned)
        .collect()
}

fn files(folder: &Utf8Path) -> BTreeSet<String> {
    let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
    entries.map(|entry| entry.path().to_string()).collect()
}
