//! `hearth ps` with 1,000 VMs defined.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::rig::{Rig, Vmm, binary};
use super::{Case, Context};

const VMS: usize = 1000;

pub(crate) fn cases(context: &Context) -> anyhow::Result<Vec<Case>> {
    let rig = Rig::new(context, &context.folder.join("rig"), Vmm::Standin)?;
    define(&rig)?;
    Ok(vec![listing(rig).target("30 ms")])
}

/// Defines VMs that never ran.
pub(crate) fn define(rig: &Rig) -> anyhow::Result<()> {
    (0..VMS).try_for_each(|number| rig.create(&format!("defined-{number}"), "none", false))
}

/// The command that people run, from fork to its end.
pub(crate) fn listing(rig: Rig) -> Case {
    Case::new("hearth ps -a", move || {
        let output = Command::new(binary("hearth"))
            .args(["ps", "-a"])
            .env("HEARTH_HOST", format!("unix://{}", rig.socket.display()))
            .stdin(Stdio::null())
            .output()
            .context("cannot run hearth")?;
        let lines = output.stdout.iter().filter(|&&byte| byte == b'\n').count();
        ensure!(
            lines > VMS,
            "hearth ps shows {lines} lines: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    })
}
