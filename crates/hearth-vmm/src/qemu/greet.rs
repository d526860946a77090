//! When a QEMU that was started answers.

use std::time::Duration;

use camino::Utf8Path;
use hearth_types::ids::VmId;
use hearth_types::process::ProcessIdentity;

use super::qmp::Client;
use crate::{VmmError, launch};

/// How long QEMU may take to its first answer: 50 ms alone, more on a busy host.
const GREETING_DEADLINE: Duration = Duration::from_secs(60);

/// Returns when the VMM answers on its control channel, or has ended.
pub(super) async fn greeted(
    vm: VmId,
    dir: &Utf8Path,
    identity: &ProcessIdentity,
) -> Result<(), VmmError> {
    let answer = async {
        let asked = async {
            let mut client = Client::connect(dir).await?;
            client.command("query-status").await
        };
        match asked.await {
            Ok(_) => Ok(()),
            Err(error) if error.is_disconnect() => Err(None),
            Err(error) => Err(Some(hearth_types::survey::chain(&error))),
        }
    };
    launch::greeted(vm, dir, identity, GREETING_DEADLINE, answer).await
}
