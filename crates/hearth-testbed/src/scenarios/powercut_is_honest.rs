//! Of the testbed itself: its power cuts lose what no flush has made safe, and keep the rest.

use anyhow::bail;

use crate::host::Host;

/// Where the files are written: the data disk.
const FOLDER: &str = "/var/lib/hearth";

pub(super) fn tell(host: &mut Host) -> anyhow::Result<()> {
    flushed_is_kept_and_unflushed_is_lost(host)?;
    device_writes_without_flush_are_lost(host)?;
    a_reboot_loses_nothing(host)
}

fn flushed_is_kept_and_unflushed_is_lost(host: &mut Host) -> anyhow::Result<()> {
    host.check(&format!(
        "cd {FOLDER} && echo kept > kept && sync kept && sync . && echo lost > lost"
    ))?;
    host.power_cut()?;
    let kept = host.check(&format!("cat {FOLDER}/kept"))?;
    if kept != "kept" {
        bail!("what was synced reads {kept:?} after a power cut");
    }
    if host.check(&format!("cat {FOLDER}/lost 2>/dev/null || true"))? == "lost" {
        bail!("what was only in the page cache survived a power cut");
    }
    host.promise("a synced file survives a power cut; one in the page cache does not");
    Ok(())
}

/// The disk's own cache: written to the device past the page cache, but never flushed.
fn device_writes_without_flush_are_lost(host: &mut Host) -> anyhow::Result<()> {
    host.check(&format!(
        "cd {FOLDER} && dd if=/dev/zero of=raw bs=4096 count=2 conv=fsync status=none && sync ."
    ))?;
    // The file system asks the disk for no flush for these: data in place, no metadata.
    let write = |text: &str, at: u32, flags: &str| {
        format!(
            "printf %-4096s {text} > /tmp/block && dd if=/tmp/block of={FOLDER}/raw bs=4096 seek={at} \
             count=1 oflag=direct{flags} conv=notrunc status=none"
        )
    };
    host.check(&write("flushed", 0, ",dsync"))?;
    host.check(&write("unflushed", 1, ""))?;
    let device = host.check(&format!(
        "dd if={FOLDER}/raw bs=4096 skip=1 count=1 iflag=direct status=none | tr -d ' '"
    ))?;
    if device != "unflushed" {
        bail!("the disk does not hold what was written to it: {device:?}");
    }
    host.power_cut()?;
    let blocks = host.check(&format!("tr -d ' \\0' < {FOLDER}/raw"))?;
    if blocks != "flushed" {
        bail!("after a power cut the blocks read {blocks:?}, not \"flushed\" alone");
    }
    host.promise(
        "a block that the disk has acknowledged but not flushed is lost; a flushed one is kept",
    );
    Ok(())
}

fn a_reboot_loses_nothing(host: &mut Host) -> anyhow::Result<()> {
    host.check(&format!("cd {FOLDER} && echo calm > calm"))?;
    host.reboot()?;
    host.check(&format!("grep -q calm {FOLDER}/calm"))?;
    host.promise("a clean reboot keeps everything");
    host.check(&format!(
        "cd {FOLDER} && echo safe > safe && sync -f safe && echo gone > gone"
    ))?;
    host.panic()?;
    host.check(&format!("grep -q safe {FOLDER}/safe"))?;
    if host.run(&format!("grep -q gone {FOLDER}/gone"))?.success() {
        bail!("what was only in the page cache survived a panic");
    }
    host.promise("a panic keeps what was synced and loses what was not");
    Ok(())
}
