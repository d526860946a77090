//! Whether a host port that is to be published is free on this host.
//!
//! The rules would lead its traffic to the guest all the same, and the program that has it
//! now would be cut off without a word. So it is asked for before a VM gets it.

use std::io::ErrorKind;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};

use hearth_types::net::Protocol;
use hearth_types::problem::Code;
use hearth_types::spec::PortSpec;

use super::error::{ApiError, ApiResult};

/// Those of `new` whose place on the host is not published by `old` already.
pub(super) fn added<'a>(
    old: &'a [PortSpec],
    new: &'a [PortSpec],
) -> impl Iterator<Item = &'a PortSpec> {
    let place = |port: &PortSpec| (port.protocol, port.host_ip, port.host_port);
    new.iter()
        .filter(move |port| !old.iter().any(|other| place(other) == place(port)))
}

/// Refuses ports that a program on this host listens on.
pub(crate) fn check_free<'a>(ports: impl IntoIterator<Item = &'a PortSpec>) -> ApiResult<()> {
    for port in ports {
        let address = SocketAddrV4::new(port.host_ip, port.host_port);
        let bound = match port.protocol {
            Protocol::Tcp => TcpListener::bind(address).map(drop),
            Protocol::Udp => UdpSocket::bind(address).map(drop),
        };
        match bound {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let detail = format!("host port {port} is in use by another program on this host");
                return Err(ApiError::new(Code::Conflict, detail)
                    .hint("publish another host port, or see who has it with: ss -lntup"));
            }
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                let detail = format!(
                    "host port {port}: this host has no address {}",
                    port.host_ip
                );
                return Err(
                    ApiError::new(Code::Invalid, detail).hint("see its addresses with: ip address")
                );
            }
            // Whatever else keeps this process from listening does not concern the rules.
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_with_a_listener_is_refused_and_a_free_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        let port: PortSpec = format!("127.0.0.1:{taken}:80").parse().unwrap();
        let error = check_free([&port]).unwrap_err();
        assert_eq!(error.0.code, Code::Conflict);
        drop(listener);
        assert!(check_free([&port]).is_ok());
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        let port: PortSpec = "192.0.2.1:8080:80".parse().unwrap();
        assert_eq!(check_free([&port]).unwrap_err().0.code, Code::Invalid);
    }
}
