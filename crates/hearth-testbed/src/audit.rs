//! The leak audit: all that a host has and that Hearth could have left there, one object a
//! line, without what differs between two looks at the same thing (pids, counters).

use std::collections::BTreeSet;

use anyhow::bail;

use crate::host::Host;

/// What is listed, by kind. The first word of a line is its kind; a kind whose command
/// fails makes the audit fail: nothing seen is not nothing there.
const KINDS: [(&str, &str); 10] = [
    // The daemon's own helpers are as many as it has had use for: up to two have nothing to do and are kept.
    (
        "process",
        "grep -Hoaz '^HEARTH_ROLE=.*' /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | \
         sed 's,/environ:HEARTH_ROLE=, ,' | while read -r pid role; do \
         [ \"$role\" = helper ] && [ \"$(ps -o comm= -p \"$(ps -o ppid= -p ${pid#/proc/})\")\" = hearthd ] && continue; \
         echo \"$role $(cat $pid/comm 2>/dev/null)\"; done",
    ),
    (
        "unit",
        "systemctl list-units --all --plain --no-legend 'hearth*' 'run-*' | awk '$2 != \"not-found\" {print $1, $3}'",
    ),
    ("cgroup", "find /sys/fs/cgroup -type d -path '*hearth*'"),
    (
        "link",
        "ip -j link | jq -r '.[] | .ifname + \" \" + (.ifalias // \"\")'",
    ),
    ("nft", "nft -s list ruleset"),
    (
        "loop",
        "losetup -ln -O BACK-FILE; dmsetup ls | sed 's/^/dm /' | grep -v 'No devices' || true",
    ),
    ("mount", "awk '{print $5, $9}' /proc/1/mountinfo"),
    (
        "namespace",
        "lsns -l -n -o TYPE,PID,COMMAND | awk '$1 != \"mnt\" && $2 != 1 {print $1, $3}' | grep -v '(sd-' || true; ip netns list",
    ),
    (
        "socket",
        "ss -xlH | awk '{print $5}' | grep hearth || true; ss -tulnH | awk '{print $1, $5}'",
    ),
    // What was found out about a VMM is kept on purpose, for the daemon's next start.
    (
        "file",
        "find /var/lib/hearth /run/hearth /etc/hearth -printf '%y %p\\n' 2>/dev/null | grep -v -e '-wal$' -e '-shm$' -e '-journal$' -e '^f /var/lib/hearth/[a-z]*-probe.json$' || true",
    ),
];

/// What a host had at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit(BTreeSet<String>);

impl Audit {
    /// Objects in this audit that `before` did not have, and the other way round.
    #[must_use]
    pub fn compare(&self, before: &Self) -> Vec<String> {
        let came = self
            .0
            .difference(&before.0)
            .map(|line| format!("left behind: {line}"));
        let went = before
            .0
            .difference(&self.0)
            .map(|line| format!("gone: {line}"));
        came.chain(went).collect()
    }

    /// How many objects it lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it lists nothing, which no host is like.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Host {
    /// Lists all that could leak.
    ///
    /// # Errors
    /// When a kind of object cannot be listed.
    pub fn audit(&self) -> anyhow::Result<Audit> {
        let mut script = "set -e\n".to_owned();
        for (kind, command) in KINDS {
            script.push_str(&format!("echo '@{kind}'\n{command}\n"));
        }
        let text = self.check(&script)?;
        parse(&text)
    }

    /// Fails with the name of each difference between now and `before`, once the host has
    /// had its time to settle.
    ///
    /// # Errors
    /// When something is left or missing.
    pub fn expect_as(&self, before: &Audit) -> anyhow::Result<()> {
        let settle = std::time::Duration::from_mins(2);
        self.wait("a host without leaks", settle, || {
            let differences = self.audit()?.compare(before);
            if !differences.is_empty() {
                bail!("{}", differences.join("; "));
            }
            Ok(Some(()))
        })
    }
}

fn parse(text: &str) -> anyhow::Result<Audit> {
    let mut kind = None;
    let mut lines = BTreeSet::new();
    let mut times = std::collections::BTreeMap::<String, u32>::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('@') {
            kind = Some(name);
        } else if let Some(kind) = kind {
            // Two equal objects are two: the second one is told from the first.
            let object = format!("{kind} {}", line.trim());
            let seen = times.entry(object.clone()).or_default();
            *seen += 1;
            lines.insert(match *seen {
                1 => object,
                more => format!("{object} (number {more})"),
            });
        } else {
            bail!("a line before the first kind: {line}");
        }
    }
    if kind != KINDS.last().map(|(kind, _)| *kind) {
        bail!("the audit ended early, at {kind:?}");
    }
    Ok(Audit(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named() {
        let before = parse("@process\nvmm qemu\n@link\neth0 \n@file\n").unwrap();
        let after = parse("@process\nvmm qemu\nvmm qemu\n@link\n@file\nf /x\n").unwrap();
        assert_eq!(
            after.compare(&before),
            [
                "left behind: file f /x",
                "left behind: process vmm qemu (number 2)",
                "gone: link eth0",
            ]
        );
        assert!(after.compare(&after).is_empty());
    }

    #[test]
    fn an_audit_that_ended_early_is_none() {
        assert!(parse("@process\nvmm qemu\n").is_err());
        assert!(parse("").is_err());
    }
}
