//! The contract on the fake and on the real network, and that nothing is left behind.

use hearth_net::{FakeNetwork, contract};

use crate::support::{config, in_namespace, network, snapshot};

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let (config, _dir) = config();
    contract::run(&FakeNetwork::new(config.clone()), &config).await;
}

#[test]
fn the_host_keeps_the_contract_and_is_left_as_it_was() {
    in_namespace(|| async {
        let (config, dir) = config();
        let before = snapshot();
        contract::run(&network(&config), &config).await;
        assert_eq!(snapshot(), before);
        let left: Vec<_> = walk(dir.path());
        assert!(left.is_empty(), "{left:?}");
    });
}

/// All files below a folder.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
