//! Tracked connections of guests' addresses, as `conntrack` tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use hearth_host::command::{self, CommandError};
use tokio::sync::Mutex;

use super::TOOL_DEADLINE;
use crate::{NetError, NetworkConfig};

/// How many connections each address of a guest has a part in. One run, whatever there is.
pub(super) async fn count(config: &NetworkConfig) -> Result<BTreeMap<Ipv4Addr, usize>, NetError> {
    let listed = command::run("conntrack", &["-L", "-f", "ipv4"], b"", TOOL_DEADLINE);
    let table = listed
        .await
        .map_err(|error| NetError::failed("list", "tracked connections", error))?;
    Ok(parse(config, &String::from_utf8_lossy(&table)))
}

/// One line for each: `tcp 6 99 ESTABLISHED src=… dst=… sport=… dport=… src=… dst=… …`, the
/// second pair being the answers' (conntrack(8)).
fn parse(config: &NetworkConfig, table: &str) -> BTreeMap<Ipv4Addr, usize> {
    let own = config.gateway().addr();
    let mut count = BTreeMap::new();
    for line in table.lines() {
        let ends = line.split_ascii_whitespace().filter_map(|word| {
            let ip = word.strip_prefix("src=").or(word.strip_prefix("dst="))?;
            ip.parse::<Ipv4Addr>().ok()
        });
        let guests: BTreeSet<_> = ends
            .filter(|ip| {
                config.subnet.contains(ip) && *ip != own && *ip != config.subnet.broadcast()
            })
            .collect();
        for guest in guests {
            *count.entry(guest).or_default() += 1;
        }
    }
    count
}

/// Forgets the connections whose first packet came from the address or went to it, and
/// those whose answers come from it or go to it: with address translation these differ.
pub(super) async fn flush(ip: Ipv4Addr) -> Result<(), NetError> {
    // Four processes each: a thousand VMs that go at once must not bury the host.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _one_at_a_time = ONE_AT_A_TIME.lock().await;
    let ip_text = ip.to_string();
    let forget = async |end: &str| {
        match command::run("conntrack", &["-D", end, &ip_text], b"", TOOL_DEADLINE).await {
            Ok(_) => Ok(()),
            // conntrack calls it a failure to have found nothing.
            Err(CommandError::Failed { output, .. })
                if output.contains("0 flow entries have been deleted") =>
            {
                Ok(())
            }
            Err(error) => Err(NetError::failed(
                "forget the connections of",
                &ip_text,
                error,
            )),
        }
    };
    tokio::try_join!(
        forget("--src"),
        forget("--dst"),
        forget("--reply-src"),
        forget("--reply-dst"),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use hearth_types::OwnerMark;
    use hearth_types::ids::InstallationId;

    use super::*;

    #[test]
    fn each_guest_of_a_connection_counts_once() {
        let config = NetworkConfig {
            bridge: "hearth0".to_owned(),
            table: "hearth".to_owned(),
            subnet: "10.213.0.0/24".parse().unwrap(),
            domain: "vm".to_owned(),
            mark: OwnerMark::shared(InstallationId::new()),
            dir: "/nowhere".into(),
        };
        let table = "\
tcp      6 431999 ESTABLISHED src=10.213.0.2 dst=192.0.2.7 sport=4 dport=443 src=192.0.2.7 dst=198.51.100.1 sport=443 dport=4 [ASSURED] mark=0 use=1
udp      17 20 src=192.0.2.9 dst=198.51.100.1 sport=5 dport=53 src=10.213.0.3 dst=192.0.2.9 sport=53 dport=5 mark=0 use=1
udp      17 20 src=10.213.0.2 dst=10.213.0.1 sport=5 dport=53 [UNREPLIED] src=10.213.0.1 dst=10.213.0.2 sport=53 dport=5 mark=0 use=1
tcp      6 9 TIME_WAIT src=127.0.0.1 dst=127.0.0.1 sport=4 dport=443 src=127.0.0.1 dst=127.0.0.1 sport=443 dport=4 use=1
";
        let expected = [([10, 213, 0, 2].into(), 2), ([10, 213, 0, 3].into(), 1)];
        assert_eq!(parse(&config, table), expected.into());
        assert!(parse(&config, "").is_empty());
    }
}
