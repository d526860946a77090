//! What others made: QEMUs, TAPs, bridges, tables and files with names much like ours, and
//! a process on a pid that one of ours had. None of it is touched.

use anyhow::{bail, ensure};

use crate::hearth::VM_UP;
use crate::host::Host;

/// Things of others, made by lines of shell. The QEMU carries our process name.
const MAKE: &str = "
ip link add hearth1 type bridge
ip link add hearth0a type bridge && ip link set hearth0a alias 'hearth of somebody'
ip tuntap add ht0123456789ab mode tap
ip tuntap add ht00 mode tap
nft add table inet hearth_other
nft add table ip hearth
systemd-run --quiet --unit=foreign-qemu --setenv=HEARTH_OWNER=nobody \
  qemu-system-x86_64 -M none -display none -S -name guest=keeper,process=hearth-vm
mkdir -p /var/lib/hearth-other /run/hearth-other && touch /var/lib/hearth-other/hearth.db
truncate -s 1M /var/lib/hearth-other/disk && losetup -f /var/lib/hearth-other/disk
";
/// What is looked at: all of it must stay as it is.
const LOOK: &str = "
ip -o link | grep -o -E 'hearth1|hearth0a|ht0123456789ab|ht00:' | sort
nft list tables | grep -E 'hearth_other|ip hearth'
systemctl show -p MainPID -p ActiveState foreign-qemu
ls /var/lib/hearth-other /run/hearth-other
losetup -ln -O BACK-FILE | grep hearth-other
";
/// Takes it away again.
const UNMAKE: &str = "
systemctl stop foreign-qemu
ip link del hearth1; ip link del hearth0a; ip link del ht0123456789ab; ip link del ht00
nft delete table inet hearth_other; nft delete table ip hearth
losetup -d $(losetup -j /var/lib/hearth-other/disk | cut -d: -f1)
rm -rf /var/lib/hearth-other /run/hearth-other
";

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    host.configure(&[
        "QEMU_PATH=/seed/bin/hearth-vmm-standin",
        "KVM=off",
        "ORPHAN_GRACE=1s",
        "RESYNC_INTERVAL=5s",
    ])?;
    host.check(&format!("set -e{MAKE}"))?;
    let before = host.check(LOOK)?;
    let keeper = host.start_vm("keeper", &["--restart", "always"], "exec sleep 1000000")?;
    keeper.wait_running(VM_UP)?;
    for _ in 0..2 {
        passes(host)?;
        host.check("systemctl restart hearthd")?;
        host.wait_daemon()?;
    }
    host.start_vm("brief", &[], "exec sleep 1000000")?
        .wait_running(VM_UP)?;
    host.check("hearth rm -f brief")?;
    passes(host)?;
    let after = host.check(LOOK)?;
    ensure!(
        after == before,
        "something foreign was touched: {before}\n became\n{after}"
    );
    host.promise("foreign QEMU, TAPs, bridges, tables, loop devices and folders of similar names are untouched");
    host.check(&format!("set -e{UNMAKE}"))?;
    recycled_pid(host)
}

/// Waits until the daemon has looked at the host twice more.
fn passes(host: &Host) -> anyhow::Result<()> {
    let last = || -> anyhow::Result<String> {
        host.check("curl -fsS --unix-socket /run/hearth/hearthd.sock http://hearth/health | jq -r .last_pass")
    };
    let mut seen = last()?;
    for _ in 0..2 {
        seen = host.wait("another pass", VM_UP, || {
            let now = last()?;
            Ok((now != seen).then_some(now))
        })?;
    }
    Ok(())
}

/// A VMM dies while no daemon looks, and its pid goes to somebody else.
fn recycled_pid(host: &Host) -> anyhow::Result<()> {
    let keeper = host.vm("keeper");
    let pid = keeper.pid()?;
    host.check("systemctl stop hearthd")?;
    host.check(&format!(
        "kill -KILL {pid}; while [ -e /proc/{pid} ]; do :; done; \
         for try in $(seq 1 200); do echo {} > /proc/sys/kernel/ns_last_pid; \
         sleep 1000000 <>/dev/null >&0 2>&0 & [ $! = {pid} ] && exit 0; kill $!; done; exit 1",
        pid - 1
    ))?;
    let foreign = host.check(&format!(
        "cat /proc/{pid}/comm; cut -d' ' -f22 /proc/{pid}/stat"
    ))?;
    host.check("systemctl start hearthd")?;
    host.wait_daemon()?;
    let seen = host.wait("another VMM", VM_UP, || {
        Ok(keeper.inspect()?["pid"].as_i64().filter(|now| *now != pid))
    })?;
    keeper.wait_running(VM_UP)?;
    let now = host.check(&format!(
        "cat /proc/{pid}/comm; cut -d' ' -f22 /proc/{pid}/stat"
    ))?;
    if now != foreign {
        bail!("the process on the recycled pid was {foreign} and is {now}");
    }
    host.check(&format!("kill {pid}"))?;
    host.promise(&format!(
        "pid {pid} of a dead VMM went to a foreign process, which lives; the VM runs as {seen}"
    ));
    Ok(())
}
