//! Being told at once of what somebody changes on the host beside VMMs, whose deaths are watched for
//! in `watch.rs`. It only makes the next look come earlier.

use std::sync::Arc;
use std::time::Duration;

use hearth_types::VmId;
use tokio::sync::watch as watch_channel;
use tokio::time::Instant;

use super::Engine;
use crate::cgroups::CgroupWatch;

/// Rest after a look that was made for what was heard; it doubles with each one while there is
/// no end of news, as when another program has a mind of its own about our bridge.
const REST: Duration = Duration::from_secs(1);
/// The longest rest: half of what passes between two regular looks by default.
const LONG_REST: Duration = Duration::from_secs(30);
/// After so much silence the rest is a short one again.
const SILENCE: Duration = Duration::from_secs(60);
/// When to begin anew where the kernel cannot be listened to.
const AGAIN: Duration = Duration::from_secs(60);

impl Engine {
    /// Begins to listen, before the first VMM is watched.
    pub(super) fn open_ears(self: &Arc<Self>, stop: &watch_channel::Receiver<bool>) {
        drop(tokio::spawn(
            Arc::clone(self).listen_to_network(stop.clone()),
        ));
        if !hearth_systemd::is_init() {
            return;
        }
        match CgroupWatch::new() {
            Ok(watch) => {
                // It is set once: a daemon has one loop.
                drop(self.cgroups.set(watch));
                drop(tokio::spawn(
                    Arc::clone(self).listen_to_cgroups(stop.clone()),
                ));
            }
            Err(error) => tracing::warn!(
                error = %error,
                "[reconcile] changes of control groups are found by the regular checks only"
            ),
        }
    }

    /// Listens to the control group of a VM that runs.
    pub(super) fn watch_cgroup(&self, vm: VmId) {
        let watched = self.cgroups.get().map_or(Ok(()), |cgroups| cgroups.add(vm));
        if let Err(error) = watched {
            tracing::warn!(%vm, error = %error, "[reconcile] its control group cannot be watched");
        }
    }

    /// Looks at a VM as soon as the processes of its unit are gone, frozen or thawed.
    async fn listen_to_cgroups(self: Arc<Self>, mut stop: watch_channel::Receiver<bool>) {
        let Some(cgroups) = self.cgroups.get() else {
            return;
        };
        loop {
            let heard = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                heard = cgroups.changed() => heard,
            };
            let Ok(vms) = heard else { return };
            for vm in vms {
                self.health.look_at_process(vm);
                self.look_at(vm);
            }
        }
    }

    /// Looks at everything as soon as somebody has changed something of the network.
    async fn listen_to_network(self: Arc<Self>, mut stop: watch_channel::Receiver<bool>) {
        let mut rest = REST;
        let mut deaf = false;
        loop {
            let begun = Instant::now();
            let heard = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                heard = self.parts.net.changed() => heard,
            };
            let pause = match heard {
                Ok(()) => {
                    tracing::debug!("[reconcile] the network was changed by somebody");
                    self.look_at_everything();
                    deaf = false;
                    let calm = begun.elapsed() >= SILENCE;
                    rest = if calm {
                        REST
                    } else {
                        (rest * 2).min(LONG_REST)
                    };
                    rest
                }
                Err(error) => {
                    if !std::mem::replace(&mut deaf, true) {
                        let error = hearth_types::survey::chain(&error);
                        tracing::warn!(
                            error,
                            "[reconcile] changes of the network are found by the regular look only"
                        );
                    }
                    AGAIN
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
