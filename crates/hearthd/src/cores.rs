//! What has become of the core of a VMM that a signal ended (core(5)). Where the kernel writes cores is the
//! host's affair; this finds the one that is of this VMM.

use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use hearth_types::process::{ExitRecord, ProcessExit};
use hearth_types::units::Bytes;

/// Signals that leave a core where nobody catches them (signal(7)): QUIT, ILL, TRAP, ABRT, BUS,
/// FPE, SEGV, XCPU, XFSZ, SYS.
const SIGNALS: [i32; 10] = [3, 4, 5, 6, 7, 8, 11, 24, 25, 31];
/// Where systemd-coredump keeps them (coredump.conf(5)).
const STORE: &str = "/var/lib/systemd/coredump";
/// A file that is older or younger than the end by more is another process' core.
const NEAR: Duration = Duration::from_secs(600);
/// Entries of a folder that are looked through.
const ENTRIES: usize = 20_000;

/// How the host treats cores.
struct Host {
    /// `kernel.core_pattern`.
    pattern: String,
    /// `kernel.core_uses_pid`.
    uses_pid: bool,
    store: Utf8PathBuf,
}

/// What is known of a core.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Core {
    /// One sentence for people.
    pub(crate) words: String,
    /// The kernel wrote this file, and nobody else takes care of it.
    pub(crate) file: Option<Utf8PathBuf>,
}

impl Core {
    fn told(words: String) -> Self {
        Self { words, file: None }
    }
}

/// The core of a VMM that ended like this; nothing if it left none.
pub(crate) fn of(record: &ExitRecord) -> Option<Core> {
    let read = |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    let host = Host {
        pattern: read("core_pattern").ok()?.trim().to_owned(),
        uses_pid: read("core_uses_pid").is_ok_and(|text| text.trim() != "0"),
        store: STORE.into(),
    };
    host.core(record)
}

impl Host {
    fn core(&self, record: &ExitRecord) -> Option<Core> {
        let ProcessExit::Signal(signal) = record.vmm else {
            return None;
        };
        if !SIGNALS.contains(&signal) {
            return None;
        }
        let (pid, ended) = (record.identity.pid, SystemTime::from(record.ended_at));
        if let Some(program) = self.pattern.strip_prefix('|') {
            let program = program.split_whitespace().next().unwrap_or_default();
            if !program.ends_with("systemd-coredump") {
                return Some(Core::told(format!("its core was given to {program}")));
            }
            let boot = record.identity.boot_id.replace('-', "");
            let mark = format!(".{boot}.{pid}.");
            let found = find(&self.store, ended, |name| {
                name.starts_with("core.") && name.contains(&mark)
            });
            return Some(Core::told(match found {
                Some((path, size)) => {
                    format!("its core is {path} ({size}); coredumpctl info {pid} shows it")
                }
                None => format!(
                    "systemd-coredump was given its core: coredumpctl info {pid} says what became of it"
                ),
            }));
        }
        let pattern = Utf8Path::new(&self.pattern);
        let (folder, name) = (pattern.parent()?, pattern.file_name()?);
        if !pattern.is_absolute() || folder.as_str().contains('%') {
            return None;
        }
        let found = find(folder, ended, |found| {
            matches(name, found, pid) && names_pid(name)
                || self.uses_pid
                    && !names_pid(name)
                    && found
                        .strip_suffix(&format!(".{pid}"))
                        .is_some_and(|found| matches(name, found, pid))
        });
        Some(match found {
            Some((path, size)) => Core {
                words: format!("its core is {path} ({size})"),
                file: Some(path),
            },
            None => Core::told(format!("no core of it was found at {pattern}")),
        })
    }
}

/// Whether a pattern says which process the core is of.
fn names_pid(pattern: &str) -> bool {
    ["%p", "%P", "%i", "%I"]
        .iter()
        .any(|word| pattern.contains(word))
}

/// Whether a file's name can have been made from a pattern for this process. What stands for
/// anything else than a pid is whatever leads to a match.
fn matches(pattern: &str, name: &str, pid: i32) -> bool {
    let Some(at) = pattern.find('%') else {
        return pattern == name;
    };
    let (before, word) = pattern.split_at(at);
    let Some(rest) = name.strip_prefix(before) else {
        return false;
    };
    let mut word = word[1..].chars();
    let (kind, left) = (word.next(), word.as_str());
    let number = pid.to_string();
    match kind {
        None => rest.is_empty(),
        Some('%') => rest
            .strip_prefix('%')
            .is_some_and(|rest| matches(left, rest, pid)),
        Some('p' | 'P' | 'i' | 'I') => rest
            .strip_prefix(&number)
            .is_some_and(|rest| matches(left, rest, pid)),
        Some(_) => rest
            .char_indices()
            .map(|(at, _)| at)
            .chain([rest.len()])
            .any(|at| matches(left, &rest[at..], pid)),
    }
}

/// The newest file of such a name that was written about then, with its size.
fn find(
    folder: &Utf8Path,
    ended: SystemTime,
    fits: impl Fn(&str) -> bool,
) -> Option<(Utf8PathBuf, String)> {
    let near = |time: SystemTime| {
        let apart = time
            .duration_since(ended)
            .or_else(|_| ended.duration_since(time));
        apart.is_ok_and(|apart| apart <= NEAR)
    };
    let entries = folder.read_dir_utf8().ok()?.take(ENTRIES).flatten();
    let found = entries
        .filter(|entry| fits(entry.file_name()))
        .filter_map(|entry| {
            let meta = entry.path().symlink_metadata().ok()?;
            let time = meta.modified().ok().filter(|time| near(*time))?;
            meta.is_file()
                .then(|| (time, entry.into_path(), meta.len()))
        });
    let (_, path, size) = found.max_by_key(|(time, ..)| *time)?;
    Some((path, Bytes(size).human()))
}

#[cfg(test)]
mod tests {
    use hearth_types::OwnerMark;
    use hearth_types::ids::{InstallationId, VmId};
    use hearth_types::process::ProcessIdentity;
    use jiff::Timestamp;

    use super::*;

    fn record(signal: i32) -> ExitRecord {
        ExitRecord {
            identity: ProcessIdentity {
                boot_id: "0d5bf1a2-5fae-4fdf-b3ac-9d9d34b5a4a7".to_owned(),
                pid: 4711,
                start_time: 1,
                exe: "/usr/bin/qemu-system-x86_64".to_owned(),
                mark: OwnerMark::of_vm(InstallationId::new(), VmId::new()),
            },
            vmm: ProcessExit::Signal(signal),
            guest: None,
            evidence: Default::default(),
            ended_at: Timestamp::now(),
        }
    }

    fn host(pattern: String, store: &Utf8Path) -> Host {
        Host {
            pattern,
            uses_pid: true,
            store: store.to_owned(),
        }
    }

    #[test]
    fn a_core_that_systemd_keeps_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let pattern = "|/lib/systemd/systemd-coredump %P %u %g %s %t 9223372036854775808 %h";
        let host = host(pattern.to_owned(), dir);
        let said = host.core(&record(11)).unwrap().words;
        assert!(said.contains("coredumpctl info 4711 says"), "{said}");
        let boot = "0d5bf1a25fae4fdfb3ac9d9d34b5a4a7";
        let name = format!("core.hearth-vm.64000.{boot}.4711.1700000000000000.zst");
        std::fs::write(dir.join(&name), [7; 5000]).unwrap();
        let other = name.replace("4711", "47110");
        std::fs::write(dir.join(other), "another's").unwrap();
        let said = host.core(&record(11)).unwrap().words;
        assert!(
            said.contains(&name) && said.contains("coredumpctl info 4711 shows"),
            "{said}"
        );
        // Killed by somebody, or ended well: there is no core.
        assert_eq!(host.core(&record(9)), None);
    }

    #[test]
    fn a_core_in_a_folder_is_found_by_its_pid_and_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        for (pattern, name) in [
            ("core.%e.%p", "core.hearth-vm.4711"),
            ("%t-%p.core", "1700000000-4711.core"),
            ("core", "core.4711"),
        ] {
            let host = host(dir.join(pattern).into_string(), dir);
            let said = host.core(&record(6)).unwrap().words;
            assert!(said.starts_with("no core of it was found"), "{said}");
            std::fs::write(dir.join(name), [7; 10]).unwrap();
            let said = host.core(&record(6)).unwrap().words;
            assert_eq!(said, format!("its core is {} (10 B)", dir.join(name)));
            // One of a process that had this pid long before.
            let old = SystemTime::now() - 2 * NEAR;
            let file = std::fs::File::open(dir.join(name)).unwrap();
            file.set_modified(old).unwrap();
            let said = host.core(&record(6)).unwrap().words;
            assert!(said.starts_with("no core of it was found"), "{said}");
            std::fs::remove_file(dir.join(name)).unwrap();
        }
        assert_eq!(host("core".to_owned(), dir).core(&record(6)), None);
        assert!(!matches("core.%p", "core.47110", 4711));
    }
}
