//! `hearth logs --daemon`: the daemon's own log, out of this host's journal.
//!
//! The daemon is not asked: its log matters most when it does not answer.

use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use hearth_client::Endpoint;

use crate::exit_codes;
use crate::failure::{Failure, Outcome};
use crate::output::Format;

/// The daemon's unit.
const UNIT: &str = "hearthd.service";
/// There while systemd is the init (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Becomes `journalctl`; returns only when that fails.
pub(super) fn show(
    endpoint: &Endpoint,
    format: Format,
    follow: bool,
    tail: Option<u64>,
) -> Outcome {
    local(endpoint)?;
    if !Path::new(BOOTED).is_dir() {
        return Err(Failure::new(
            exit_codes::FAILURE,
            "There is no journal on this host: systemd is not its init",
        )
        .hint("hearthd writes its log to the standard error of whoever started it"));
    }
    let error = Command::new("journalctl")
        .args(arguments(format, follow, tail))
        .exec();
    Err(Failure::because(
        exit_codes::FAILURE,
        "Cannot run journalctl",
        &error,
    ))
}

/// Another host's journal is not ours to read.
fn local(endpoint: &Endpoint) -> Result<(), Failure> {
    let here = match endpoint {
        Endpoint::Unix(_) => true,
        Endpoint::Tcp { host, .. } => {
            let address: Option<IpAddr> = host.parse().ok();
            host == "localhost" || address.is_some_and(|address| address.is_loopback())
        }
    };
    if here {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "The daemon's log is in the journal of its own host, and {endpoint} is another one"
    ))
    .hint(format!("there: journalctl -u {UNIT}")))
}

fn arguments(format: Format, follow: bool, tail: Option<u64>) -> Vec<String> {
    let mut arguments = vec![format!("--unit={UNIT}"), "--no-pager".to_owned()];
    let output = match format {
        Format::Json => "json",
        Format::Wide => "verbose",
        Format::Table => "short-iso",
    };
    arguments.push(format!("--output={output}"));
    // journalctl's own defaults are all lines, and the last ten with --follow.
    let lines = tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    arguments.push(format!("--lines={lines}"));
    if follow {
        arguments.push("--follow".to_owned());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journalctl_is_asked_for_what_was_asked() {
        assert_eq!(
            arguments(Format::Table, false, None).join(" "),
            "--unit=hearthd.service --no-pager --output=short-iso --lines=all"
        );
        assert_eq!(
            arguments(Format::Json, true, Some(5)).join(" "),
            "--unit=hearthd.service --no-pager --output=json --lines=5 --follow"
        );
    }

    #[test]
    fn the_journal_of_another_host_is_refused() {
        for here in [
            "unix:///run/hearth/hearthd.sock",
            "tcp://127.0.0.1:7070",
            "tcp://[::1]:7070",
            "tcp://localhost:7070",
        ] {
            assert!(local(&here.parse().unwrap()).is_ok(), "{here}");
        }
        let failure = local(&"tcp://192.0.2.1:7070".parse().unwrap()).unwrap_err();
        assert_eq!(failure.code, exit_codes::USAGE);
        assert!(failure.hint.unwrap().contains("journalctl -u hearthd"));
    }
}
