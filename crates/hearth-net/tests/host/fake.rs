//! The fake's faults and foreign objects.

use hearth_net::{FakeNetwork, Fault, NetError, Network as _, TapSpec};
use hearth_types::OwnerMark;
use hearth_types::ids::VmId;

use crate::support::config;

#[tokio::test]
async fn faults_hit_once_before_or_after_the_effect() {
    let (config, _dir) = config();
    let net = FakeNetwork::new(config);
    net.fail_next("ensure_bridge", Fault::Before);
    net.fail_next("ensure_bridge", Fault::After);
    net.ensure_bridge().await.unwrap_err();
    assert_eq!(net.bridge().await.unwrap(), None);
    net.ensure_bridge().await.unwrap_err();
    assert!(net.bridge().await.unwrap().is_some());
    net.ensure_bridge().await.unwrap();
    assert_eq!(net.calls().len(), 5);
}

#[tokio::test]
async fn foreign_objects_are_refused_as_on_a_host() {
    let (config, _dir) = config();
    let net = FakeNetwork::new(config.clone());
    let refused = |result: Result<(), NetError>| {
        assert!(
            matches!(result, Err(NetError::Foreign { .. })),
            "{result:?}"
        );
    };
    net.put_foreign_interface(&config.bridge);
    net.put_foreign_interface("htone");
    net.put_foreign_table(&config.table);
    net.put_route(config.subnet, "lan0");
    let before = net.foreign();
    refused(net.ensure_bridge().await);
    refused(net.remove_bridge().await);
    refused(net.remove_rules().await);
    let mark = OwnerMark::of_vm(config.mark.installation, VmId::new());
    let name = "htone".to_owned();
    refused(net.ensure_tap(&TapSpec { name, mark, uid: 0 }).await);
    let collision = net.check().await.unwrap_err();
    assert!(collision.to_string().contains("lan0"), "{collision}");
    assert_eq!(net.foreign(), before);
}
