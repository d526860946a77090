//! A database that cannot be used: the daemon says so, ends, and touches nothing.

use crate::harness::{Host, processes_of, spec};

/// What happens to the bytes of a database.
type Spoil = fn(&mut Vec<u8>);

#[tokio::test(flavor = "multi_thread")]
async fn vm_goes_on_when_the_database_is_damaged_or_newer() {
    let Some(mut host) = Host::new().await else {
        return;
    };
    host.start_daemon().await;
    let vm = host.run(spec("web")).await;
    vm.healthy().await;
    let pid = vm.pid().await;
    host.terminate_daemon().await;
    let traces = host.leaks();
    let database = host.data().join("hearth.db");
    let good = std::fs::read(&database).unwrap();

    // `user_version`, 4 bytes, big-endian: https://www.sqlite.org/fileformat2.html#database_header
    let newer = |bytes: &mut Vec<u8>| bytes[60..64].copy_from_slice(&9999_u32.to_be_bytes());
    let cases: [(&str, Spoil); 4] = [
        ("schema version 9999", newer),
        ("database", |bytes| bytes[4096..].fill(0xA5)),
        ("database", |bytes| bytes.truncate(bytes.len() / 2)),
        ("database", |bytes| {
            *bytes = b"not a database at all".repeat(300)
        }),
    ];
    for (word, spoil) in cases {
        let mut bytes = good.clone();
        spoil(&mut bytes);
        std::fs::write(&database, &bytes).unwrap();
        let already = host.log().len();
        host.start_doomed_daemon();
        let status = host.daemon_ends().await;
        assert_eq!(status.code(), Some(1));
        let log = host.log()[already..].to_owned();
        assert!(
            log.contains(word) && log.contains("nothing on the host was touched"),
            "{log}"
        );
        assert_eq!(host.leaks(), traces, "the host was touched");
        assert!(
            std::fs::read(&database).unwrap() == bytes,
            "the file was touched"
        );
    }
    std::fs::write(&database, &good).unwrap();
    host.start_daemon().await;
    assert_eq!(vm.pid().await, pid);
    assert!(
        processes_of(host.installation())
            .iter()
            .any(|(now, _)| *now == pid)
    );
    vm.healthy().await;
    vm.remove().await;
    host.clean().await;
}
