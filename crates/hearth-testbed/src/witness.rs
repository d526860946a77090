//! Whether a guest noticed what was done to the daemon: the same VMM, the same boot, no
//! restart; and how long the daemon took to know it again.

use anyhow::bail;

use crate::hearth::{DAEMON_UP, Vm, quoted};
use crate::host::Host;

/// Remembers which VMM and which boot of the guest it is.
#[derive(Debug)]
pub struct Witness<'a> {
    host: &'a Host,
    vm: Vm<'a>,
    pid: i64,
    uptime: f64,
}

impl<'a> Witness<'a> {
    /// A VM whose guest answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn new(host: &'a Host, vm: Vm<'a>) -> anyhow::Result<Self> {
        Ok(Self {
            host,
            vm,
            pid: vm.pid()?,
            uptime: vm.uptime()?,
        })
    }

    /// Fails if the guest is not the one it was, or its time did not go on.
    ///
    /// # Errors
    /// See above.
    pub fn unchanged(&mut self) -> anyhow::Result<()> {
        let seen = self.vm.wait_healthy()?;
        if seen["pid"] != self.pid {
            bail!("the VMM was {} and is {}", self.pid, seen["pid"]);
        }
        if seen["restarts"] != 0 {
            bail!("it was restarted {} times", seen["restarts"]);
        }
        let uptime = self.vm.uptime()?;
        if uptime < self.uptime {
            bail!("the guest was up {} s and is up {uptime} s", self.uptime);
        }
        self.uptime = uptime;
        Ok(())
    }

    /// Fails if its VMM has ended: what can be seen of it while no daemon runs.
    ///
    /// # Errors
    /// See above.
    pub fn lives(&self) -> anyhow::Result<()> {
        self.host.check(&format!(
            "grep -q '^State:.[^ZX]' /proc/{}/status",
            self.pid
        ))?;
        Ok(())
    }

    /// Does something to the daemon and returns the seconds until it names the VM as running
    /// again. Measured on the host, so that SSH is not in it.
    ///
    /// # Errors
    /// When what is done fails, or the daemon does not know the VM again.
    pub fn until_adopted(&self, blow: &str) -> anyhow::Result<f64> {
        let name = quoted(self.vm.name());
        let text = self.host.check(&format!(
            "begin=$(date +%s%N); {{ {blow}; }} >&2 || exit 1; \
             until [ \"$(hearth -o json inspect {name} 2>/dev/null | jq -r '.[0].phase')\" = running ]; \
             do [ $(($(date +%s%N) - begin)) -lt {}000000000 ] || exit 1; done; \
             echo $((($(date +%s%N) - begin) / 1000000))",
            DAEMON_UP.as_secs()
        ))?;
        Ok(text.parse::<f64>()? / 1000.0)
    }
}

impl Host {
    /// How long the daemon that runs took from its start to its word that it is ready: the
    /// first pass has ended and all living VMs are adopted. As systemd timed it, in seconds.
    ///
    /// # Errors
    /// When systemd does not say.
    pub fn daemon_start_seconds(&self) -> anyhow::Result<f64> {
        let stamp = |property: &str| -> anyhow::Result<f64> {
            let text = self.check(&format!("systemctl show -p {property} --value hearthd"))?;
            Ok(text.parse::<f64>()? / 1e6)
        };
        Ok(stamp("ActiveEnterTimestampMonotonic")? - stamp("ExecMainStartTimestampMonotonic")?)
    }
}
