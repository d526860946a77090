//! The same calls by a helper process: this program again, which makes them for the test.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use hearth_disk::contract::contract;
use hearth_pool::{HelperGround, Helpers, HostGround, serve_helper, start_helper};
use hearth_types::InstallationId;
use hearth_types::mark::OwnerMark;
use hearth_types::observe::{ProcessRole, ROLE_ENV};

use super::thin::{OWNER, Thin};

/// Not a test of its own: what this program does when it was started as a helper.
#[test]
fn child() {
    if std::env::var(ROLE_ENV).ok().as_deref() != Some(ProcessRole::Helper.as_str()) {
        return;
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    serve_helper(UnixStream::from(stdin), &HostGround).unwrap();
}

pub(super) fn ground() -> Arc<HelperGround> {
    let helpers = Helpers::new(|| {
        let mark = OwnerMark::shared(InstallationId::new());
        let args = ["--exact", "helper::child", "--nocapture"];
        start_helper("/proc/self/exe", &args, mark)
    });
    Arc::new(HelperGround::new(Arc::new(HostGround), helpers))
}

#[tokio::test]
async fn volumes_by_a_helper_keep_the_contract_of_volumes() {
    let Some(thin) = Thin::on(ground()).await else {
        return;
    };
    contract(&thin.volumes, &thin, OWNER).await;
    assert!(thin.ids().is_empty());
    assert!(thin.thins.compare().await.unwrap().is_empty());
}
