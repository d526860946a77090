//! What looks like ours and is not: it must be left as it is, whatever happens beside it.

use std::process::{Child, Command};

use camino::Utf8PathBuf;
use hearth_types::{InstallationId, OwnerMark, VmId};

use super::Host;

/// A process that carries a mark, or none.
pub(crate) fn process(name: &str, mark: Option<&str>) -> Child {
    let mut command = Command::new("bash");
    command.args(["-c", "exec -a \"$0\" sleep 100000", name]);
    if let Some(mark) = mark {
        command.env("HEARTH_OWNER", mark).env("HEARTH_ROLE", "vmm");
    }
    command.spawn().unwrap()
}

/// A TAP with an alias, or none.
pub(crate) fn tap(host: &Host, name: &str, alias: Option<&str>) {
    let ip = |arguments: &[&str]| host.netns.run("ip", arguments);
    ip(&["tuntap", "add", "dev", name, "mode", "tap"]);
    if let Some(alias) = alias {
        ip(&["link", "set", "dev", name, "alias", alias]);
    }
}

/// What lives beside a daemon's own.
#[derive(Debug)]
pub(crate) struct Strangers {
    processes: Vec<Child>,
    files: Vec<Utf8PathBuf>,
    before: Vec<String>,
}

const TAPS: [&str; 3] = ["ht0123456789a", "ht1123456789a", "ht2123456789a"];
const TABLE: [&str; 2] = ["inet", "hearth-of-others"];

impl Strangers {
    /// They move in. The data folder is there.
    pub(crate) fn move_in(host: &Host) -> Self {
        let foreign = OwnerMark::of_vm(InstallationId::new(), VmId::new());
        let processes = vec![
            process("qemu-system-x86_64 -name guest=web,process=hearth-vm", None),
            process("hearth-vm", Some(&foreign.to_string())),
        ];
        tap(host, TAPS[0], None);
        tap(host, TAPS[1], Some(&foreign.interface_alias()));
        tap(host, TAPS[2], Some("hearth:mine"));
        host.netns.run("nft", &["add", "table", TABLE[0], TABLE[1]]);
        let set = "{ type ipv4_addr; elements = { 10.213.0.9 }; }";
        host.netns
            .run("nft", &["add", "set", TABLE[0], TABLE[1], "theirs", set]);
        let vms = host.data().join("vms");
        std::fs::create_dir_all(vms.join("not-an-id")).unwrap();
        let files = vec![
            vms.join("README"),
            vms.join("not-an-id/root.img"),
            vms.join(VmId::new().to_string()),
        ];
        for file in &files {
            std::fs::write(file, "mine").unwrap();
        }
        let mut strangers = Self {
            processes,
            files,
            before: Vec::new(),
        };
        strangers.before = strangers.look(host);
        strangers
    }

    fn look(&mut self, host: &Host) -> Vec<String> {
        let lives = |child: &mut Child| child.try_wait().unwrap().is_none();
        let mut seen: Vec<String> = self
            .processes
            .iter_mut()
            .map(|child| format!("process {} lives: {}", child.id(), lives(child)))
            .collect();
        let shown = |program: &str, arguments: &[&str]| {
            let said = host.netns.output(program, arguments).stdout;
            String::from_utf8_lossy(&said).into_owned()
        };
        for tap in TAPS {
            seen.push(format!("TAP {}", shown("ip", &["-o", "link", "show", tap])));
        }
        let [family, table] = TABLE;
        seen.push(shown("nft", &["list", "table", family, table]));
        for file in &self.files {
            use std::os::unix::fs::MetadataExt as _;
            let text = std::fs::read_to_string(file).ok();
            let inode = file.metadata().map(|meta| meta.ino()).ok();
            seen.push(format!("{file} {inode:?} says {text:?}"));
        }
        seen
    }

    /// Whether this trace is one of theirs.
    pub(crate) fn own(&self, trace: &str) -> bool {
        let names = TAPS.iter().chain(&TABLE[1..]);
        let mut files = self.files.iter();
        names.into_iter().any(|name| trace.contains(name))
            || files.any(|file| trace.contains(file.as_str()))
            || trace.contains("/not-an-id")
    }

    /// What is no longer as it was.
    pub(crate) fn disturbed(&mut self, host: &Host) -> Vec<String> {
        let now = self.look(host);
        let pairs = self.before.iter().zip(now);
        pairs
            .filter(|(then, now)| then != &now)
            .map(|(then, now)| format!("was {then:?}, is {now:?}"))
            .collect()
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        for child in &mut self.processes {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
